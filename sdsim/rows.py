"""The decode rows of a replica, oldest first, as columns of one integer array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policy import IntArray

(ID, CONTEXT, GENERATED, REMAINING, SLACK, PENDING, BLOCKS, SLOT, JOINED) = range(9)
EMISSION_FIELDS = slice(CONTEXT, SLACK + 1)
_PER_TOKEN = np.array([[1], [1], [-1], [-1]], dtype=np.int64)


class Rows:
    """State of up to *capacity* rows.

    Columns: request id; KV tokens stored; output tokens emitted and remaining; slack, the tokens that a row may still
    store before it needs another block; pending drafts; blocks held; slot of its depths; step it joined.
    """

    def __init__(self, capacity: int) -> None:
        self.state = np.zeros((9, capacity), dtype=np.int64)
        self.count = 0
        self._view()

    def _view(self) -> None:
        """Make the views once per change of the row count: slicing costs as much as arithmetic."""
        self.now = self.state[:, : self.count]
        self.read_only = self.now.view()
        self.read_only.setflags(write=False)
        (self.ids, self.context, self.generated, self.remaining, self.slack) = self.now[: SLACK + 1]
        (self.pending, self.blocks, self.slot, self.joined) = self.now[PENDING:]
        self._emission = self.now[EMISSION_FIELDS]

    def push(self, column: Sequence[int]) -> None:
        """Append a row as the newest."""
        self.state[:, self.count] = column
        self.count += 1
        self._view()

    def pop(self) -> IntArray:
        """Remove the newest row and return its column."""
        column = self.state[:, self.count - 1].copy()
        self.count -= 1
        self._view()
        return column

    def keep(self, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Keep the rows of *mask*, in order."""
        left = self.now[:, mask]
        self.count = left.shape[1]
        self.state[:, : self.count] = left
        self._view()

    def emit(self, emitted: IntArray | int, rows: int) -> None:
        """Record that the first *rows* rows emitted tokens: context and generated grow, the others shrink."""
        part = self._emission if rows == self.count else self._emission[:, :rows]
        np.add(part, _PER_TOKEN * emitted, out=part)
