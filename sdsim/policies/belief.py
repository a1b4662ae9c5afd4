"""What each request's drafts are believed to be worth: the drafter's confidence, calibrated, and the request's record.

logit q = w logit(confidence) + b_j + u_r for draft j of request r. The first two terms are `Calibration`'s. u_r comes
from the request's own drafts: those won against those expected to be without it, shrunk towards 0 by `WEIGHT` trials.

When the drafts of late differ from what was believed by more than chance explains, most of the past is forgotten: after
a change of traffic the record would else outweigh the news for long.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sdsim.policies.calibration import Calibration
from sdsim.policies.forecast import Forecast
from sdsim.policies.ledger import Ledger
from sdsim.policy import FloatArray, IntArray, Observation, Outcome

PLACES = 4096
"""Requests remembered; one whose id is the same modulo this takes another's place."""
WEIGHT = 32.0
"""Trials that all requests count for in a request's own: as if acceptances of requests had a correlation of 3%."""
TYPICAL = 0.7
NEWS_TRIALS = 256.0
"""Trials after which a trial counts 1 / e in what is news."""
SURPRISE = 5.0
"""Standard deviations of the news at which the past is forgotten."""


class Belief(Calibration):
    """A calibration that also learns each request's own acceptance, and what the next drafts will be worth."""

    def __init__(self) -> None:
        super().__init__()
        self.forecast = Forecast()
        self._owner = np.full(PLACES, -1, dtype=np.int64)
        self._own_won, self._own_tried, self._own_expected, self._offset = np.zeros((4, PLACES))
        self._believed: Ledger[tuple[FloatArray, IntArray]] = Ledger()
        self._miss = self._variance = 0.0

    def of(self, observation: Observation, drafts: int) -> FloatArray:
        """Return (positions, rows) the chance that a pending draft, one of *drafts*, and all before it are accepted."""
        places = observation.request_ids & (PLACES - 1)
        known = self._owner[places] == observation.request_ids
        survival = self.survival(observation, drafts, self._offset[places] * known)
        self._believed.note(observation.step, (survival, observation.pending.copy()))
        return survival

    def learn(self, outcome: Outcome) -> None:
        """Take in what came of a step seen."""
        believed = self._believed.take(outcome.step)
        if believed is not None and len(believed[1]) == len(outcome.verified):
            self.forecast.see(*believed)
            self._compare(believed[0], outcome)
        super().learn(outcome)

    def _compare(self, survival: FloatArray, outcome: Outcome) -> None:
        """Add to the news how many of the verified drafts survived against how many were believed to."""
        believed = survival * (np.arange(len(survival))[:, None] < outcome.verified)
        expected = float(np.add.reduce(believed, axis=None))
        trials = int(np.add.reduce(outcome.verified))
        # drafts of a chain survive together, so the variance of their sum is that of whole chains
        chain = np.add.reduce(believed, axis=0)
        depth = 2.0 * np.arange(len(survival)) + 1.0
        variance = float(np.add.reduce(depth @ believed - chain * chain)) if trials else 0.0
        keep = math.exp(-trials / NEWS_TRIALS)
        self._miss = keep * self._miss + int(np.add.reduce(outcome.accepted)) - expected
        self._variance = keep * keep * self._variance + variance
        if self._miss**2 > SURPRISE**2 * max(self._variance, 1.0):
            self._forget()

    def _forget(self) -> None:
        """Let all that was counted weigh no more than the news."""
        keep = min(NEWS_TRIALS / max(float(self._tried.sum()), 1.0), 1.0)
        self._tried *= keep
        self._won *= keep
        self._owner[:] = -1
        self._miss = self._variance = 0.0

    def _count(self, logits: FloatArray, tried: npt.NDArray[np.bool_], outcome: Outcome) -> None:
        places = outcome.request_ids & (PLACES - 1)
        fresh = places[self._owner[places] != outcome.request_ids]
        self._owner[places] = outcome.request_ids
        for record in (self._own_won, self._own_tried, self._own_expected):
            record[fresh] = 0.0
        chance = 1.0 / (1.0 + np.exp(-(self.slope * logits + self.shift[: len(logits)])))
        self._own_won[places] += outcome.accepted
        self._own_tried[places] += np.add.reduce(tried, axis=0)
        self._own_expected[places] += np.add.reduce(chance * tried, axis=0)
        super()._count(logits, tried, outcome)
        won, expected = self._own_won[places] + WEIGHT * TYPICAL, self._own_expected[places] + WEIGHT * TYPICAL
        total = self._own_tried[places] + WEIGHT
        self._offset[places] = np.log(won * (total - expected) / ((total - won) * expected))
