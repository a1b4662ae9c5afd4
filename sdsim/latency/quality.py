"""What a predicted time rests on, and the bill that adds such times up."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


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


class Bill:
    """Seconds by component and by quality."""

    def __init__(self) -> None:
        self.components: dict[str, float] = {}
        self.by_quality = [0.0, 0.0, 0.0]

    def charge(self, component: str, price: Price, times: float = 1.0) -> None:
        """Add *times* times *price* to *component*."""
        seconds = times * price.seconds
        self.components[component] = self.components.get(component, 0.0) + seconds
        self.by_quality[price.quality] += seconds

    def charge_all(self, component: str, other: Bill, times: float = 1.0) -> None:
        """Add *times* all of *other* to *component*."""
        total = self.components.get(component, 0.0)
        for quality, spent in enumerate(other.by_quality):
            seconds = times * spent
            total += seconds
            self.by_quality[quality] += seconds
        self.components[component] = total

    def copy(self) -> Bill:
        """Return a bill that says the same, to go on from."""
        other = Bill()
        other.components, other.by_quality = self.components.copy(), self.by_quality.copy()
        return other

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.components.values())


def shares(by_quality: list[float]) -> dict[str, float]:
    """Return the share of time of each quality; all extrapolated when there is none."""
    total = sum(by_quality)
    if not total:
        return {"measured": 0.0, "interpolated": 0.0, "extrapolated": 1.0}
    return {q.name.lower(): by_quality[q] / total for q in Quality}
