"""One number a step for each request, kept while the request stays in the batch."""

from __future__ import annotations

import numpy as np

from sdsim.policy import FloatArray, IntArray


class RowHistory:
    """The last *window* numbers of each row, newest first, found again by request id."""

    def __init__(self, window: int) -> None:
        self._ids: IntArray = np.empty(0, dtype=np.int64)
        self._new = np.empty(0, dtype=np.bool_)
        self._values: FloatArray = np.empty((0, window))

    def of(self, request_ids: IntArray) -> FloatArray:
        """Return (rows, window) the numbers of these requests, zeros for new ones, and forget all others."""
        if not np.array_equal(request_ids, self._ids):
            values, new = np.zeros((len(request_ids), self._values.shape[1])), np.ones(len(request_ids), dtype=np.bool_)
            _, here, there = np.intersect1d(request_ids, self._ids, assume_unique=True, return_indices=True)
            values[here], new[here] = self._values[there], self._new[there]
            self._ids, self._values, self._new = request_ids.copy(), values, new
        return self._values

    def push(self, newest: FloatArray) -> None:
        """Add (rows,) numbers to the requests last asked for. A row's first number stands for all before it."""
        values = self._values
        values[:, 1:] = values[:, :-1]
        values[:, 0] = newest
        if self._new.any():
            values[self._new] = newest[self._new, None]
            self._new[:] = False
