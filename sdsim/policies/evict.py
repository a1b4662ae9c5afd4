"""EVICT (arXiv 2605.00342): each request keeps the drafts of the best ratio of summed path probability to cost.

k* = argmax (sum of the top k scores) / C(k). The score of a draft is the probability of its path, so on a chain the
top k are the first k; the token to extend is the root and scores 1. C(k) is the *average* profiled iteration time,
without a prediction of which experts the tokens need. The reading for a batch, which the paper leaves to each request:
C(k) is the time of a step in which every row verifies k, without prompts, and each row takes its own argmax.

Not lossless at temperature: whether draft j is kept depends on the probabilities of what was drawn after it.
"""

from __future__ import annotations

import numpy as np

from sdsim.policies.calibration import Calibration
from sdsim.policies.confidence import tokens_of
from sdsim.policies.lengths import draft_length
from sdsim.policies.plans import uniform
from sdsim.policies.verify_prices import VerifyPrices
from sdsim.policy import Observation, Outcome, Plan, StepCosts


class Evict:
    """Cut each row's chain where its expected tokens over the average step time are highest."""

    needs = frozenset({"confidence"})
    lossless_at_temperature = False

    def __init__(self, cost: StepCosts, length: int = 4) -> None:
        self.lengths = tuple(sorted({0, draft_length(length)}))
        self.label = "evict"
        self._prices, self._calibration = VerifyPrices(cost, self.lengths), Calibration()
        self._plan = uniform(length)

    def plan(self, observation: Observation, /) -> Plan:
        """Return each row's best cut."""
        drafts = int(np.add.reduce(observation.pending))
        if not drafts:
            return self._plan
        survival, rows = self._calibration.survival(observation, drafts), observation.batch
        seconds = self._prices.at(observation._replace(prefill_tokens=0)).verify[rows::rows]
        tokens = tokens_of(survival)
        tokens /= seconds[: len(tokens), None]
        return self._plan._replace(verify_lengths=np.minimum(tokens.argmax(axis=0), observation.pending))

    def learn(self, outcome: Outcome, /) -> None:
        """Calibrate the confidences."""
        self._calibration.learn(outcome)
