"""Checks of what a policy is built with: draft lengths, counts, rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LONGEST = 16


def draft_length(value: object) -> int:
    """Return *value* as a draft length, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LONGEST:
        raise ValueError(f"draft length {value!r}; allowed: an integer from 0 to {LONGEST}")
    return value


def draft_lengths(values: object) -> tuple[int, ...]:
    """Return *values* ascending, without repeats and with 0, or raise ValueError."""
    return tuple(sorted({0, *(draft_length(v) for v in listed("lengths", values))}))


def listed(name: str, values: object) -> Iterable[object]:
    """Return *values* as something to iterate over, not a string."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name} {values!r}; allowed: a list of integers")
    return values


def positive(name: str, value: object) -> float:
    """Return *value* as a finite number above 0, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} {value!r}; allowed: a number above 0")
    return float(value)


def not_negative(name: str, value: object) -> float:
    """Return *value* as a finite number of 0 or more, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} {value!r}; allowed: a number, 0 or more")
    return float(value)


def count(name: str, value: object, least: int = 0) -> int:
    """Return *value* as an integer of *least* or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} {value!r}; allowed: an integer from {least}")
    return value


def share(name: str, value: object) -> float:
    """Return *value* as a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} {value!r}; allowed: a number from 0 to 1")
    return float(value)


def one_of(name: str, value: object, allowed: Sequence[str]) -> str:
    """Return *value*, one of *allowed*."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} {value!r}; allowed: {', '.join(allowed)}")
    return value


def flag(name: str, value: object) -> bool:
    """Return *value*, true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} {value!r}; allowed: true or false")
    return value
