"""What a predicted time rests on, and the bill that adds such times up."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from sdsim.policy import FloatArray, IntArray


class Quality(IntEnum):
    """Where a price comes from, best first."""

    MEASURED = 0
    """This kernel, shape and size was timed."""
    INTERPOLATED = 1
    """This kernel and shape was timed at sizes around."""
    EXTRAPOLATED = 2
    """A fit over other shapes, sizes beyond the measured ones, or a roofline."""


class Price(NamedTuple):
    """Seconds, and what they rest on."""

    seconds: float
    quality: Quality


FREE = Price(0.0, Quality.MEASURED)


class PriceList(NamedTuple):
    """Prices of many sizes at once: arrays of one shape."""

    seconds: FloatArray
    quality: IntArray


def listed(sizes: IntArray, seconds: FloatArray, quality: IntArray | Quality) -> PriceList:
    """Return the price list of *sizes*, of which 0 is free."""
    some = sizes > 0
    return PriceList(np.where(some, seconds, 0.0), np.where(some, quality, Quality.MEASURED))


class Bill:
    """Seconds by quality and, if *split*, by component too: a run needs the sums alone, and many of them."""

    __slots__ = ("by_quality", "components")

    def __init__(self, split: bool = False) -> None:
        self.by_quality = [0.0, 0.0, 0.0]
        self.components: dict[str, float] | None = {} if split else None

    def charge(self, component: str, price: Price, times: float = 1.0) -> None:
        """Add *times* times *price* to *component*."""
        seconds = times * price.seconds
        self.by_quality[price.quality] += seconds
        if self.components is not None:
            self.components[component] = self.components.get(component, 0.0) + seconds

    def charge_all(self, component: str, other: Bill, times: float = 1.0) -> None:
        """Add *times* all of *other* to *component*."""
        for quality, spent in enumerate(other.by_quality):
            self.by_quality[quality] += times * spent
        if self.components is not None:
            self.components[component] = self.components.get(component, 0.0) + times * other.seconds

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.by_quality)


def shares(by_quality: list[float]) -> dict[str, float]:
    """Return the share of time of each quality; all extrapolated when there is none."""
    total = sum(by_quality)
    if not total:
        return {"measured": 0.0, "interpolated": 0.0, "extrapolated": 1.0}
    return {q.name.lower(): by_quality[q] / total for q in Quality}
