"""Every request of a run, as columns of arrays: what the schedulers know of it, and in the end what is recorded."""

from __future__ import annotations

import numpy as np

from sdsim.batch import ARRIVAL, CLASS, DEPTHS, ID, OUTPUT, PROMPT, REQUEST_FIELDS, TIME_FIELDS
from sdsim.policy import FloatArray, IntArray
from sdsim.workload import Requests


class RequestTable:
    """Grows as requests are drawn; a request's id is its column."""

    def __init__(self) -> None:
        self.numbers: IntArray = np.zeros((REQUEST_FIELDS, 1024), dtype=np.int64)
        """(REQUEST_FIELDS, capacity); see `sdsim.batch`."""
        self.times: FloatArray = np.full((TIME_FIELDS, 1024), np.nan)
        """(TIME_FIELDS, capacity) s; NaN until known."""
        self.count = 0

    def add(self, drawn: Requests, depths: IntArray | int) -> None:
        """Add requests, whose draft depths begin at *depths*."""
        start, self.count = self.count, self.count + len(drawn)
        if self.count > self.times.shape[1]:
            self._grow(2 * self.count)
        new = slice(start, self.count)
        self.times[ARRIVAL, new] = drawn.arrival_s
        for field, values in (
            (ID, drawn.ids),
            (PROMPT, drawn.prompt_tokens),
            (OUTPUT, drawn.output_tokens),
            (CLASS, drawn.request_class),
            (DEPTHS, depths),
        ):
            self.numbers[field, new] = values

    def _grow(self, capacity: int) -> None:
        numbers = np.zeros((REQUEST_FIELDS, capacity), dtype=np.int64)
        times = np.full((TIME_FIELDS, capacity), np.nan)
        held = self.times.shape[1]
        numbers[:, :held], times[:, :held] = self.numbers, self.times
        self.numbers, self.times = numbers, times
