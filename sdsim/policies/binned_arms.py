"""ADA-BINGREEDY's clock (Nightjar, arXiv 2512.22420 v3): blocks of 1, 2, 4, ... steps, cut into bins."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sdsim.policies.arms import Arms


class BinnedArms(Arms):
    """The arms of one batch size, and the block and bin that it is in."""

    def __init__(self, arms: int) -> None:
        super().__init__(arms)
        self.arm, self.left = arms - 1, 0
        self._block, self._bin = 1, 0

    def next_bin(self) -> float:
        """Begin a bin; return the probability with which it explores."""
        if self._bin * _bin_steps(self._block) >= 2 ** (self._block - 1):
            self._block, self._bin = self._block + 1, 0
        self._bin += 1
        self.left = _bin_steps(self._block)
        return 1.0 / self._bin

    def cheapest(self, switch_seconds: Sequence[float]) -> int | None:
        """Return the credited arm with the least seconds per token, *switch_seconds* added; None if none is."""
        costs = {a: 1 / self.means[a] + switch_seconds[a] for a, pulls in enumerate(self.pulls) if pulls}
        return min(costs, key=costs.__getitem__) if costs else None


def _bin_steps(block: int) -> int:
    return max(1, math.isqrt(2 ** (block - 1)))
