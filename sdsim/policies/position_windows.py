"""Acceptance at each draft position over the last batches: SGLang's `PositionAcceptanceTracker` (PR 28045)."""

from __future__ import annotations

from collections import deque

import numpy as np

from sdsim.policy import IntArray


class PositionWindows:
    """Mean share of the rows of a batch that accept a position, over the last *window* batches that reached it."""

    def __init__(self, longest: int, window: int) -> None:
        self._windows: list[deque[float]] = [deque(maxlen=window) for _ in range(longest)]

    def update(self, accepted: IntArray, positions: int) -> None:
        """Take in the accepted drafts of one batch, whose rows verified *positions* drafts."""
        ended = np.bincount(np.minimum(accepted, positions), minlength=positions + 1)
        reached = len(accepted) - ended.cumsum()
        for window, rows in zip(self._windows, reached[:positions].tolist(), strict=False):
            window.append(rows / len(accepted))

    def forget_beyond(self, positions: int) -> None:
        """Empty the windows of the positions beyond the first *positions*."""
        for window in self._windows[positions:]:
            window.clear()

    def full(self, positions: int) -> bool:
        """Return whether each of the first *positions* has a full window."""
        return all(len(window) == window.maxlen for window in self._windows[:positions])

    def tokens(self, positions: int) -> float | None:
        """Return the expected tokens of a step that verifies *positions* drafts, or None without any data.

        Positions without data go on geometrically from the first and last known before them.
        """
        rates: list[float] = []
        for window in self._windows[:positions]:
            if window:
                rates.append(sum(window) / len(window))
            elif len(rates) > 1 and rates[0] > 0:
                rates.append(rates[-1] * (rates[-1] / rates[0]) ** (1 / (len(rates) - 1)))
            elif len(rates) == 1:
                rates.append(rates[0])
            else:
                return None
        return 1.0 + sum(rates)
