"""Snap another policy's draft length to the token counts that the engine has captured as graphs.

A step of n rows with K drafts each verifies n (K + 1) tokens, padded to the next captured size; above the largest it
runs without a graph. So a positive K is raised to the longest whose tokens need the same size, as the padding is paid
for anyway, and lowered until its tokens fit the largest. The default sizes are vLLM's: 1, 2, 4, every 8 to 248, every
16 to 512.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from sdsim.policies.lengths import count
from sdsim.policies.plans import uniform
from sdsim.policies.wrapper import Inner, Wrapper, drafting_as
from sdsim.policy import Observation, Plan, StepCosts

SIZES = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))


class GraphSnap(Wrapper):
    """Fill the captured size that the inner policy's draft length needs."""

    def __init__(self, cost: StepCosts, inner: Inner, sizes: Sequence[int] = SIZES) -> None:
        super().__init__("graph-snap", inner, cost)
        if not isinstance(sizes, list | tuple) or not sizes:
            raise ValueError(f"sizes {sizes!r}; allowed: a list of token counts")
        self._sizes = sorted(count("size", size, 1) for size in sizes)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the inner plan, its draft length snapped."""
        wish, rows = self.inner.plan(observation), len(observation.request_ids)
        if not wish.draft_length or not rows:
            return wish
        return drafting_as(wish, uniform(self._snapped(wish.draft_length, rows)))

    def _snapped(self, length: int, rows: int) -> int:
        index = bisect_left(self._sizes, rows * (length + 1))
        size = self._sizes[min(index, len(self._sizes) - 1)]
        return max((k for k in self.lengths if rows * (k + 1) <= size), default=0)
