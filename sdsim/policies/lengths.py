"""Checks of the draft lengths that a policy is built with."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 16


def draft_length(value: object) -> int:
    """Return *value* as a draft length, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LONGEST:
        raise ValueError(f"draft length {value!r}; allowed: an integer from 0 to {LONGEST}")
    return value


def draft_lengths(values: object) -> tuple[int, ...]:
    """Return *values* ascending, without repeats and with 0, or raise ValueError."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"lengths {values!r}; allowed: a list of integers from 0 to {LONGEST}")
    return tuple(sorted({0, *(draft_length(v) for v in values)}))


def positive(name: str, value: object) -> float:
    """Return *value* as a finite number above 0, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} {value!r}; allowed: a number above 0")
    return float(value)
