"""A stretch of steps with one draft length, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from sdsim.policy import Outcome


@dataclass(slots=True)
class Trial:
    """One length held until *wanted* clean steps were seen or *limit* planned; and what they took and gave."""

    arm: int
    wanted: int
    limit: int
    planned: int = 0
    steps: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the trial has ended."""
        return self.steps >= self.wanted or self.planned >= self.limit

    def see(self, outcome: Outcome) -> None:
        """Add a step."""
        self.steps += 1
        self.rows += len(outcome.request_ids)
        self.tokens += len(outcome.request_ids) + int(outcome.accepted.sum())
        self.seconds += outcome.seconds
