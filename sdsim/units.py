"""Quantities as people write them: `50ms`, `5min`, `12/s`, `8 x h100`, `1e3`.

Times become seconds and rates become events per second; a plain number is taken to be in these units already. YAML 1.1
reads `1e3` as text, so numbers are accepted as text everywhere. NaN and infinities are refused everywhere. Every
function raises ValueError with a sentence that says what was found, what is allowed and how to write it.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real

LARGEST = 10**9
"""The largest count: above any real one, and small enough that no product of a few overflows."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUANTITY = re.compile(rf"({_NUMBER})\s*([^\d\s.].*)?", re.ASCII)
_WHOLE = re.compile(r"[-+]?\d+", re.ASCII)
_GPUS = re.compile(r"(?:(\d+)\s*[xX\u00d7]\s*)?([a-zA-Z][\w.+-]*)", re.ASCII)
_LONGEST = 64
"""Characters of the longest text that can be a quantity."""

_Units = Mapping[str, tuple[int, int]]
"""Unit -> (factor, divisor): dividing by 1000 rounds as the decimal text would, multiplying by 0.001 may not."""

_TIMES: _Units = {
    "": (1, 1),
    "us": (1, 10**6),
    "µs": (1, 10**6),
    "ms": (1, 1000),
    "s": (1, 1),
    "min": (60, 1),
    "h": (3600, 1),
    "d": (86400, 1),
}
_RATES: _Units = {"": (1, 1), "/s": (1, 1), "/min": (1, 60), "/h": (1, 3600), "/d": (1, 86400)}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


@dataclass(frozen=True, slots=True)
class Span:
    """The numbers from *low* to *high*, either end included unless it is open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return "" if self.low == -math.inf else f"over {_plain(self.low)}" if self.open_low else self._or_more()
        if not self.open_low and not self.open_high:
            return f"from {_plain(self.low)} to {_plain(self.high)}"
        start = f"over {_plain(self.low)}" if self.open_low else f"from {_plain(self.low)}"
        return f"{start}, {'below' if self.open_high else 'at most'} {_plain(self.high)}"

    def _or_more(self) -> str:
        return f"of {_plain(self.low)} or more"


ANY = Span()
POSITIVE = Span(0, open_low=True)
NOT_NEGATIVE = Span(0)
COUNT = Span(1, LARGEST)
SHARE = Span(0, 1)
"""A probability or a fraction that may be none."""
PART = Span(0, 1, open_low=True)
"""A fraction that may not be none."""


@dataclass(frozen=True, slots=True)
class GpuCount:
    """The GPUs of one replica: *count* GPUs called *name*."""

    count: int
    name: str

    def __str__(self) -> str:
        return f"{self.count} x {self.name}"


def parse_number(value: object, span: Span = ANY) -> float:
    """Return *value*, a number or its text, as a float in *span*."""
    number = plain_number(value)
    if number is None or number not in span:
        raise ValueError(f"found {shown(value)}; {_allowed('a number', span)}; write it such as 0.8, 2 or 1e3")
    return float(number)


def parse_whole(value: object, span: Span = ANY) -> int:
    """Return *value*, a whole number or its text, as an int in *span*; 1e3 and 2.0 are whole."""
    number = plain_number(value)
    if number is None or number != int(number) or number not in span:
        raise ValueError(f"found {shown(value)}; {_allowed('a whole number', span)}; write it such as 2 or 1e3")
    return int(number)


def parse_duration(value: object, span: Span = NOT_NEGATIVE) -> float:
    """Return *value* in s: text with us, ms, s, min, h or d, or a plain number of seconds."""
    seconds = _quantity(value, _TIMES)
    if seconds is None or seconds not in span:
        raise ValueError(f"found {shown(value)}; {_allowed('a time', span)}; write it such as 50ms, 2s, 5min or 1h")
    return seconds


def parse_rate(value: object, span: Span = POSITIVE) -> float:
    """Return *value* in 1/s: text with /s, /min, /h or /d, or a plain number per second."""
    per_second = _quantity(value, _RATES)
    if per_second is None or per_second not in span:
        raise ValueError(f"found {shown(value)}; {_allowed('a rate', span)}; write it such as 12/s, 80/min, 5/h or 12")
    return per_second


def parse_gpus(value: object) -> GpuCount:
    """Return *value*, text such as `8 x h100` or, for one GPU, `h200`."""
    if isinstance(value, GpuCount):
        return value
    match = _match(_GPUS, value)
    count = int(match[1] or 1) if match else 0
    if match is None or count not in COUNT:
        raise ValueError(f"found {shown(value)}; allowed: a number of GPUs and their name; write it such as 1 x h200")
    return GpuCount(count, match[2].lower())


def plain_number(value: object) -> int | float | None:
    """Return *value*, a number or the text of one, as an int or a finite float; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if whole := _match(_WHOLE, value):
            return int(whole[0])
        match = _match(_QUANTITY, value)
        return _finite(match[1]) if match and not match[2] else None
    if isinstance(value, Integral):
        # Beyond the floats there is no number that anybody means.
        return int(value) if _finite(value) is not None else None
    return _finite(value) if isinstance(value, Real) else None


def shown(value: object) -> str:
    """Return *value* for an error message: short, on one line, words as YAML has them."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return {"nan": "NaN", "inf": "infinity", "-inf": "-infinity"}.get(repr(value), f"{value:.12g}")
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:
        # Python refuses to write integers of more than 4300 digits.
        return "a number of thousands of digits"


def _quantity(value: object, units: _Units) -> float | None:
    """Return *value* in the base of *units*, or None."""
    match = _match(_QUANTITY, value)
    if match is None:
        number = plain_number(value)
        return None if number is None else float(number)
    unit = "".join((match[2] or "").lower().split())
    if unit not in units:
        return None
    factor, divisor = units[unit]
    return _finite(float(match[1]) * factor / divisor)


def _match(pattern: re.Pattern[str], value: object) -> re.Match[str] | None:
    return pattern.fullmatch(value.strip()) if isinstance(value, str) and len(value) <= _LONGEST else None


def _finite(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _allowed(what: str, span: Span) -> str:
    return f"allowed: {what} {span}".rstrip()


def _plain(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
