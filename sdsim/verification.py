"""How many drafts each row's verification accepts: a lookup in the depths drawn for its request."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdsim.policy import IntArray


class DepthTable:
    """Depths of the requests that decode, one slot each.

    *planes* is 1, or one per draft length where the law depends on it. With *partial*, the drafter has a draft at
    some positions only (n-gram lookup).
    """

    def __init__(self, slots: int, planes: int, partial: bool = False) -> None:
        self._slots, self._planes, self._width = slots, planes, 0
        self._depths: np.ndarray[Any, np.dtype[np.uint8]] = np.empty(0, np.uint8)
        self._drafted: np.ndarray[Any, np.dtype[np.bool_]] | None = np.empty(0, np.bool_) if partial else None
        self._grow(1024)

    def _grow(self, width: int) -> None:
        """Widen the slots, keeping what they hold."""
        old, kept = self._depths.reshape(self._planes, self._slots, self._width), self._width
        fresh = np.zeros((self._planes, self._slots, width), dtype=np.uint8)
        fresh[:, :, :kept] = old
        self._depths = fresh.reshape(self._planes, -1)
        if self._drafted is not None:
            drafted = np.zeros((self._slots, width), dtype=np.bool_)
            drafted[:, :kept] = self._drafted.reshape(self._slots, kept)
            self._drafted = drafted.ravel()
        self._width = width

    def load(self, slot: int, depths: np.ndarray[Any, np.dtype[np.uint8]], drafted: Any = None) -> None:
        """Fill a slot with a request's (planes, positions) depths."""
        length = depths.shape[1]
        if length > self._width:
            self._grow(max(2 * self._width, length))
        start = slot * self._width
        self._depths[:, start : start + length] = depths
        if self._drafted is not None:
            self._drafted[start : start + len(drafted)] = drafted

    def accepted(self, slots: IntArray, generated: IntArray, pending: IntArray, verified: IntArray | int) -> IntArray:
        """Return the drafts accepted by rows that verify *verified* of their *pending* drafts."""
        at = slots * self._width
        at += generated
        if self._planes == 1:
            depth = self._depths[0].take(at)
        else:
            depth = self._depths[np.maximum(pending - 1, 0), at]
        won: IntArray = np.minimum(depth, verified, dtype=np.int64)
        return won

    def available(self, slots: IntArray, generated: IntArray, length: int) -> IntArray | int:
        """Return the drafts that rows at output position *generated* get when asked for *length*."""
        if self._drafted is None:
            return length
        return self._drafted.take(slots * self._width + generated) * np.int64(length)
