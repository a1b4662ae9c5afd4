"""How many drafts a verification accepts: drawn for whole requests when they arrive, kept until they finish."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdsim.acceptance import MAX_DRAFT_LENGTH, Acceptance
from sdsim.batch import DEPTHS, FINISH
from sdsim.policy import IntArray
from sdsim.request import RequestTable
from sdsim.streams import Depths, coins
from sdsim.workload import Requests

SMALLEST = 1 << 16
LOOKED_AT = 4096


class DraftDepths:
    """A ring of depths: a request's begin at its DEPTHS, modulo the ring's length, one for each output position.

    `table` has a plane, or one per draft length where the law depends on it. A drafter that has a draft at some
    positions only (n-gram lookup, *available* below 1), or for some classes only (*drafting*, an entry a class), has
    one plane more: whether it has. *known* are the requests whose depths were drawn.
    """

    def __init__(
        self,
        known: RequestTable,
        acceptance: Acceptance | None,
        available: float = 1.0,
        drafting: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
    ) -> None:
        self._known, self._acceptance, self._available = known, acceptance, available
        self._drafting = np.ones(1, dtype=bool) if drafting is None else drafting
        self.planes = acceptance.planes if acceptance is not None else 0
        self.partial = acceptance is not None and (available < 1.0 or not self._drafting.all())
        shape = (self.planes + self.partial, SMALLEST) if self.planes else (1, 1)
        self.table: Depths = np.zeros(shape, dtype=np.uint8)
        self._end = 0
        self._oldest = 0
        """The first request that may not have finished."""

    def draw(self, drawn: Requests) -> IntArray | int:
        """Draw the depths of requests that come after the known ones; return where each request's begin."""
        law = self._acceptance
        if law is None:
            return 0
        depths, offsets = law.depths(drawn.ids, drawn.output_tokens, drawn.request_class)
        if self.partial:
            owner = np.repeat(np.arange(len(drawn)), drawn.output_tokens + MAX_DRAFT_LENGTH)
            positions = np.arange(offsets[-1]) - offsets[owner]
            found = coins(law.seed, "draft-available", drawn.ids[owner], positions) < self._available
            found &= self._drafting[drawn.request_class][owner]
            depths = np.vstack([depths, found])
        start = self._end
        self._end += int(offsets[-1])
        self._make_room(start)
        self._write(start, depths)
        starts: IntArray = start + offsets[:-1]
        return starts

    def _write(self, start: int, depths: Depths) -> None:
        """Write depths from *start* on, round the end of the ring."""
        width = self.table.shape[1]
        place = start & (width - 1)
        fitting = width - place
        self.table[:, place : place + depths.shape[1]] = depths[:, :fitting]
        self.table[:, : max(depths.shape[1] - fitting, 0)] = depths[:, fitting:]

    def _places(self, start: int, end: int) -> IntArray:
        places: IntArray = np.arange(start, end) & (self.table.shape[1] - 1)
        return places

    def _make_room(self, end: int) -> None:
        """Widen the ring, if it is too small for what unfinished requests hold, up to *end*, and what comes new."""
        self._pass_finished()
        known = self._known
        first = int(known.numbers[DEPTHS, self._oldest]) if self._oldest < known.count else end
        width = self.table.shape[1]
        while width < self._end - first:
            width *= 2
        if width > self.table.shape[1]:
            held = self.table[:, self._places(first, end)]
            self.table = np.zeros((len(held), width), dtype=np.uint8)
            self.table[:, self._places(first, end)] = held

    def _pass_finished(self) -> None:
        times, count = self._known.times, self._known.count
        while self._oldest < count:
            unfinished = np.isnan(times[FINISH, self._oldest : min(self._oldest + LOOKED_AT, count)])
            self._oldest += int(unfinished.argmax()) if unfinished.any() else len(unfinished)
            if unfinished.any():
                return
