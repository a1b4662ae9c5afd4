"""What a bandit knows of its arms in one context: how often each was played, and what it paid."""

from __future__ import annotations

from sdsim.policy import Outcome


class Arms:
    """Mean reward of each arm. A reward counts once for each row of its step: every row is a pull."""

    def __init__(self, arms: int) -> None:
        self.plays = [0] * arms
        """Times that each arm was chosen, whether or not a reward came of it."""
        self.pulls = [0] * arms
        """Rows whose reward was credited."""
        self.means = [0.0] * arms
        self.highest = 0.0
        """Highest reward of a single step."""

    def credit(self, arm: int, reward: float, rows: int) -> None:
        """Add the reward of one step of *rows* rows."""
        self.pulls[arm] += rows
        self.means[arm] += (reward - self.means[arm]) * rows / self.pulls[arm]
        self.highest = max(self.highest, reward)

    def weight(self, arm: int) -> int:
        """Return the pulls, or the plays where those are more: an arm that never pays is not tried for ever."""
        return max(self.pulls[arm], self.plays[arm])


def tokens_per_row_second(outcome: Outcome) -> float:
    """Return the reward of a step with rows: tokens that a row emitted a second."""
    rows = len(outcome.request_ids)
    return (1.0 + int(outcome.accepted.sum()) / rows) / outcome.seconds
