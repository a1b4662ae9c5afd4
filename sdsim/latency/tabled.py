"""What one count alone decides, of tokens or of rows, is priced for all counts at once, in arrays: few of them occur in
a run, in many combinations with everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sdsim.latency.quality import Bill, PriceList, Quality
from sdsim.policy import FloatArray, IntArray

SMALLEST = 1024

Item = tuple[str, float, Callable[[IntArray], PriceList]]
"""A component, how often it runs, and its prices by count."""


class Tabled:
    """The bill of *items* at 0, 1, 2, ... tokens or rows, as far as was asked for."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._length = 0
        self._seconds: dict[str, FloatArray] = {name: np.zeros(0) for name, _, _ in items}
        """By component."""
        self._by_quality = np.zeros((0, len(Quality)))
        self._known = self._by_quality.data
        """The same, (length, qualities): single numbers are read faster from it."""

    def charge(self, bill: Bill, count: int) -> None:
        """Add what *count* tokens or rows cost to *bill*."""
        if count >= self._length:
            self._extend(max(SMALLEST, 1 << count.bit_length()))
        spent, known = bill.by_quality, self._known
        spent[0] += known[count, 0]
        spent[1] += known[count, 1]
        spent[2] += known[count, 2]
        if bill.components is not None:
            for component, seconds in self._seconds.items():
                bill.components[component] = bill.components.get(component, 0.0) + float(seconds[count])

    def _extend(self, length: int) -> None:
        counts = np.arange(self._length, length, dtype=np.int64)
        seconds = {component: np.zeros(len(counts)) for component, _, _ in self._items}
        by_quality = np.zeros((len(counts), len(Quality)))
        for component, times, prices in self._items:
            found = prices(counts)
            spent = times * found.seconds
            seconds[component] += spent
            by_quality[counts - self._length, found.quality] += spent
        self._seconds = {name: np.concatenate([known, seconds[name]]) for name, known in self._seconds.items()}
        self._by_quality = np.concatenate([self._by_quality, by_quality])
        self._known = self._by_quality.data
        self._length = length
