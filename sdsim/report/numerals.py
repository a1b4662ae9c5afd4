"""Numbers as people read them: three significant digits, thousands separated, a dash for what is undefined."""

from __future__ import annotations

from collections.abc import Iterable

DASH = "-"


def decimals(x: float, digits: int = 3) -> int:
    """Return how many decimals show *x* to that many significant digits; never more than six."""
    exponent = int(f"{x:.{digits - 1}e}".partition("e")[2])
    return min(max(digits - 1 - exponent, 0), 6) if x else 0


def number(x: float | None, places: int | None = None) -> str:
    """Return *x* to three significant digits, or to *places* decimals; whole numbers stay whole."""
    if x is None:
        return DASH
    if places is None:
        places = 0 if isinstance(x, int) else decimals(x)
    return f"{x:,.{places}f}"


def percent(share: float | None) -> str:
    """Return a share of one as a percentage."""
    return DASH if share is None else f"{share:.1%}"


def with_interval(x: float | None, interval: Iterable[float] | None, scale: float = 1.0) -> str:
    """Return *x* times *scale*, and half the width of its 95% *interval* to the same decimals."""
    if x is None or interval is None:
        return number(None if x is None else x * scale)
    low, high = interval
    places = decimals(x * scale)
    return f"{number(x * scale, places)} ±{number((high - low) / 2 * scale, places)}"


def time_unit(seconds: Iterable[float | None]) -> tuple[float, str]:
    """Return (units in a second, the unit) that suits all of *seconds*: s where all reach one, else ms."""
    found = [s for s in seconds if s]
    return (1.0, "s") if found and min(found) >= 1 else (1000.0, "ms")


def times(seconds: float | None, scale: float) -> str:
    """Return *seconds* in the unit of which a second has *scale*."""
    return number(None if seconds is None else float(seconds * scale))
