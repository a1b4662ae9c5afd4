"""Verify drafts while each pays for the experts it adds: EcoSpec-like (arXiv 2607.12696), on counts of experts.

The paper selects drafts by predicted *marginal* expert cost; its formula is not public here, so the rule is a reading.
t tokens load N(t) = E (1 - (1 - k/E)^t) experts, so one more adds k (1 - k/E)^t at the coverage that the rows, the
prompts and the drafts taken so far have reached, and the step prices T(t) charge for it. Drafts are taken in order of
survival a while a / (T(t + 1) - T(t)) is no less than the tokens a second without it: the first that does not pay
ends the selection. Where experts saturate, the price of one more falls with t, so it may end before a stretch of cheap
drafts that enumerating every budget (`dspark`) finds.

Lossless at temperature: whether a draft is taken depends on likelier ones, and so on its row's confidences up to it.
"""

from __future__ import annotations

import numpy as np

from sdsim.policies.calibration import Calibration
from sdsim.policies.lengths import draft_length
from sdsim.policies.plans import uniform
from sdsim.policies.selection import first_fall, ranked_prefixes, tokens_by_budget
from sdsim.policies.verify_prices import VerifyPrices
from sdsim.policy import Observation, Outcome, Plan, StepCosts


class MarginalExperts:
    """Take drafts by survival until one does not pay its marginal price."""

    needs = frozenset({"confidence"})
    lossless_at_temperature = True

    def __init__(self, cost: StepCosts, length: int = 4) -> None:
        self.lengths = tuple(sorted({0, draft_length(length)}))
        self.label = "marginal-experts"
        self._prices, self._calibration = VerifyPrices(cost, self.lengths), Calibration()
        self._plan = uniform(length)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the verify lengths of the drafts that pay."""
        drafts = int(np.add.reduce(observation.pending))
        if not drafts:
            return self._plan
        survival, rows = self._calibration.survival(observation, drafts), observation.batch
        ranked = np.sort(survival, axis=None)[::-1][:drafts]
        seconds = self._prices.at(observation).verify[rows : rows + drafts + 1]
        budget = first_fall(tokens_by_budget(rows, ranked) / seconds)
        if budget == drafts:
            return self._plan
        return self._plan._replace(verify_lengths=ranked_prefixes(survival, ranked, budget))

    def learn(self, outcome: Outcome, /) -> None:
        """Calibrate the confidences."""
        self._calibration.learn(outcome)
