"""Outcomes come late, twice or never: what a law needs to take each in once, and to credit the right plan."""

from __future__ import annotations

from typing import Generic, TypeVar

from sdsim.policy import Outcome

Entry = TypeVar("Entry")
KEPT = 256
"""Steps after which an outcome that has not come counts as lost."""


class Ledger(Generic[Entry]):
    """What was noted when a step was planned, until its outcome comes."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}

    def note(self, step: int, entry: Entry) -> None:
        """Keep *entry* for the outcome of *step*."""
        self._entries[step] = entry
        if len(self._entries) > KEPT:
            del self._entries[next(iter(self._entries))]

    def take(self, step: int) -> Entry | None:
        """Return what was noted for *step*, once."""
        return self._entries.pop(step, None)


class Newest:
    """Lets outcomes through in order: one of a step seen before, or overtaken, is turned away."""

    def __init__(self) -> None:
        self._step = -1

    def passes(self, outcome: Outcome) -> bool:
        """Return whether *outcome* is newer than all before."""
        if outcome.step <= self._step:
            return False
        self._step = outcome.step
        return True
