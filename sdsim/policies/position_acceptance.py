"""Acceptance at each position of the draft, from outcomes that may be late, repeated or lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policies.ledger import Newest
from sdsim.policies.lengths import share
from sdsim.policy import Outcome


class PositionAcceptance:
    """An exponential moving average of the conditional acceptance at each of *longest* positions.

    Each trial of a position moves its average by the share *alpha* towards what came of it, so that a step counts by
    its rows. A position not tried yet counts as the one before it, the first as *prior*.
    """

    def __init__(self, longest: int, prior: float = 0.7, alpha: float = 0.01) -> None:
        self._prior, self._alpha = share("prior", prior), share("alpha", alpha)
        self._rates: list[float | None] = [None] * longest
        self._newest = Newest()

    def rates(self) -> list[float]:
        """Return the chance of each position to be accepted, those before it being accepted."""
        rates, last = [], self._prior
        for known in self._rates:
            last = last if known is None else known
            rates.append(last)
        return rates

    def tokens(self, lengths: Sequence[int]) -> list[float]:
        """Return the expected tokens of a row's verify step of each of *lengths* drafts."""
        tokens, reached = [1.0], 1.0
        for conditional in self.rates():
            reached *= conditional
            tokens.append(tokens[-1] + reached)
        return [tokens[length] for length in lengths]

    def update(self, outcome: Outcome) -> None:
        """Take in a step's verified and accepted drafts; a step seen before changes nothing."""
        if not self._newest.passes(outcome):
            return
        positions = len(self._rates)
        accepted, verified = np.minimum(outcome.accepted, positions), np.minimum(outcome.verified, positions)
        ended = np.bincount(accepted, minlength=positions + 1)
        exhausted = np.bincount(accepted[accepted == verified], minlength=positions + 1)
        reached = ended[::-1].cumsum()[::-1]  # rows that accepted at least j drafts
        tried = (reached - exhausted)[:positions].tolist()
        before = self.rates()
        for position, (trials, won) in enumerate(zip(tried, reached[1:].tolist(), strict=True)):
            if trials:
                moved = 1.0 - (1.0 - self._alpha) ** trials
                self._rates[position] = before[position] + moved * (won / trials - before[position])
