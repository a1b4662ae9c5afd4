"""A running estimate of the acceptance rate, from outcomes that may be late, repeated or lost."""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.ledger import Newest
from sdsim.policies.lengths import share
from sdsim.policy import Outcome


class AcceptanceEstimate:
    """Maximum likelihood for one rate: drafts accepted over drafts tried.

    A chain that lost draft j tried j + 1; the drafts behind it say nothing. *prior* counts as *weight* trials, and
    the memory fades by half every *half_life* trials.
    """

    def __init__(self, prior: float = 0.7, weight: float = 50.0, half_life: float = 20_000.0) -> None:
        self._won, self._tried = share("prior", prior) * weight, weight
        self._half_life = half_life
        self._newest = Newest()

    @property
    def rate(self) -> float:
        """The estimate, below 1."""
        return min(self._won / self._tried, 0.999)

    def tokens(self, lengths: Sequence[int]) -> list[float]:
        """Return the expected tokens of a row's verify step of each of *lengths* drafts."""
        rate = self.rate
        lost = 1.0 - rate
        return [(1.0 - rate ** (length + 1)) / lost for length in lengths]

    def update(self, outcome: Outcome) -> None:
        """Take in a step's verified and accepted drafts; a step seen before changes nothing."""
        if not self._newest.passes(outcome):
            return
        won, tried = outcome.trials
        if not tried:
            return
        fade = 0.5 ** (tried / self._half_life)
        self._won = self._won * fade + won
        self._tried = self._tried * fade + tried


def tokens_per_step(rate: float, length: int) -> float:
    """Return (1 - a^(K+1)) / (1 - a): tokens that a verify step of *length* drafts emits (Leviathan et al. 2023)."""
    return (1.0 - rate ** (length + 1)) / (1.0 - rate) if rate < 1.0 else length + 1.0
