"""Paged KV memory of one replica, counted in blocks of `block_size` tokens.

A block holds the KV of its tokens for the target's layers and, while a drafter is loaded, for the drafter's.
"""

from __future__ import annotations

from sdsim.errors import CapacityError


class KvCache:
    """Counts blocks; which block is whose is the scheduler's business."""

    def __init__(self, total: int, block_size: int = 16) -> None:
        self.total = total
        self.free = total
        self.block_size = block_size

    @property
    def used(self) -> int:
        """Blocks in use."""
        return self.total - self.free

    def blocks_for(self, tokens: int) -> int:
        """Return the blocks that *tokens* tokens of one request take."""
        return -(-tokens // self.block_size)

    def take(self, blocks: int) -> bool:
        """Take *blocks* and return True, or take none and return False when fewer are free."""
        if blocks > self.free:
            return False
        self.free -= blocks
        return True

    def give(self, blocks: int) -> None:
        """Return *blocks* to the pool."""
        if blocks < 0 or self.free + blocks > self.total:
            message = f"{blocks} KV blocks given back, but only {self.used} of {self.total} are in use"
            raise CapacityError(message)
        self.free += blocks

    def resize(self, total: int) -> None:
        """Change the pool, when a drafter is loaded or dropped; `free` may go below 0 until requests are evicted."""
        self.free += total - self.total
        self.total = total
