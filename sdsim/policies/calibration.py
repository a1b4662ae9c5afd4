"""What a drafter's confidences are worth, learnt from what the target accepted.

q = sigmoid(w logit(confidence) + b_j) for the j-th draft of a chain, as vLLM's online acceptance estimator has it
(0.33, `spec_decode/acceptance_estimator.py`), with ridge towards the confidence itself (w = 1, b = 0). It is fitted by
Newton's method on counts of drafts tried and won by position and confidence, at every REFIT-th outcome.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sdsim.policies.confidence import POSITIONS, confidences, survival
from sdsim.policies.ledger import Ledger
from sdsim.policies.lengths import LONGEST
from sdsim.policy import FloatArray, Observation, Outcome

CENTRES = np.arange(-13.75, 14.0, 0.5)
"""Groups of confidences, by logit; `confidence.EDGE` keeps them inside."""
FITTED_AT = (1, 2, 4, 8, 16)
REFIT = 32
ROUNDS = 3
RIDGE = 5.0
"""In trials of even odds, four times as many: 20 trials weigh as much as the prior."""
HALF_LIFE = 20_000.0
"""Trials after which a trial counts half."""


class Calibration:
    """A running logistic fit of acceptance on confidence. A late, lost or repeated outcome does no harm."""

    def __init__(self) -> None:
        self.slope, self.shift = 1.0, np.zeros((LONGEST, 1))
        self._tried = np.zeros((LONGEST, len(CENTRES)))
        self._won = np.zeros((LONGEST, len(CENTRES)))
        self._seen = Ledger[FloatArray]()
        self._outcomes = 0

    def survival(self, observation: Observation, drafts: int, offsets: FloatArray | float = 0.0) -> FloatArray:
        """Return (positions, rows) the chance that a draft and all before it are accepted; 0 where none is pending.

        *drafts* is the sum of `observation.pending`; *offsets*, (rows,), are added to the logits of each row's drafts.
        """
        logits = confidences(observation)
        np.divide(logits, 1.0 - logits, out=logits)
        np.log(logits, out=logits)
        self._seen.note(observation.step, logits)
        chance = logits * -self.slope
        chance -= self.shift[: len(chance)] + offsets
        np.exp(chance, out=chance)
        chance += 1.0
        np.reciprocal(chance, out=chance)
        return survival(chance, observation.pending, drafts)

    def learn(self, outcome: Outcome) -> None:
        """Count the drafts tried and won in a step seen; a chain that lost draft j tried j + 1."""
        logits = self._seen.take(outcome.step)
        if logits is not None and logits.shape[1] == len(outcome.verified):
            self._count(logits, POSITIONS[: len(logits)] < np.minimum(outcome.accepted + 1, outcome.verified), outcome)

    def _count(self, logits: FloatArray, tried: npt.NDArray[np.bool_], outcome: Outcome) -> None:
        """Take in (positions, rows) drafts, *tried* or not."""
        depth = POSITIONS[: len(logits)]
        cell = ((logits + 14.0) * 2.0).astype(np.int64) + depth * len(CENTRES)
        trials, wins = _counts(cell[tried], len(logits)), _counts(cell[tried & (depth < outcome.accepted)], len(logits))
        fade = 0.5 ** (trials.sum() / HALF_LIFE)
        for kept, new in ((self._tried, trials), (self._won, wins)):
            kept *= fade
            kept[: len(new)] += new
        self._outcomes += 1
        if self._outcomes in FITTED_AT or self._outcomes % REFIT == 0:
            self._fit()

    def _fit(self) -> None:
        for _ in range(ROUNDS):
            q = 1.0 / (1.0 + np.exp(-(self.slope * CENTRES + self.shift)))
            weight, miss = self._tried * q * (1.0 - q), self._won - self._tried * q
            gradient = np.append((miss @ CENTRES).sum() - RIDGE * (self.slope - 1.0), miss.sum(axis=1))
            gradient[1:] -= RIDGE * self.shift[:, 0]
            cross = weight @ CENTRES
            curvature = np.diag(np.append((weight @ CENTRES**2).sum(), weight.sum(axis=1)) + RIDGE)
            curvature[0, 1:] = curvature[1:, 0] = cross
            step = np.clip(np.linalg.solve(curvature, gradient), -1.0, 1.0)
            self.slope = max(self.slope + float(step[0]), 0.0)
            self.shift[:, 0] += step[1:]


def _counts(cells: np.ndarray[tuple[int], np.dtype[np.int64]], positions: int) -> FloatArray:
    """Return (positions, groups) how many drafts fell into each group."""
    counted = np.bincount(cells, minlength=positions * len(CENTRES)).reshape(positions, -1)
    return np.asarray(counted, dtype=np.float64)
