"""Hand-set tables: a value for each inclusive range of an integer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Ranges(Generic[Value]):
    """Values by ranges (first, last, value) of *what* that ascend from *start*; gaps and the tail carry the one before.

    Raises ValueError for ranges that overlap, descend, or start elsewhere.
    """

    def __init__(self, what: str, entries: Sequence[tuple[int, int, Value]], start: int) -> None:
        free = start
        for first, last, _ in entries:
            if first < free or last < first or (free == start and first != start):
                allowed = f"ranges ascending and disjoint, the first from {start}"
                raise ValueError(f"{what} range {first} to {last}; allowed: {allowed}")
            free = last + 1
        self._firsts = [first for first, _, _ in entries]
        self.values = [value for _, _, value in entries]

    def at(self, key: int) -> Value:
        """Return the value at *key*."""
        return self.values[max(bisect_right(self._firsts, key) - 1, 0)]


def integer_rows(table: object, widths: Sequence[int], form: str) -> list[list[int]]:
    """Return *table* as a list of lists of integers, each as long as one of *widths*, or raise ValueError."""
    if not isinstance(table, list | tuple) or not table:
        raise ValueError(f"table {table!r}; allowed: a list of {form}")
    for row in table:
        if not isinstance(row, list | tuple) or len(row) not in widths or any(type(v) is not int for v in row):
            raise ValueError(f"table row {row!r}; allowed: {form}, integers")
    return [list(row) for row in table]
