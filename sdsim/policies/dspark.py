"""Budgeted verification: DSpark (arXiv 2607.05147) as vLLM 0.28 and SGLang 0.5.23 run it.

Sort the survivals a of all pending drafts, enumerate the budget b, and verify the b likeliest with b = argmax
(n + a_1 + ... + a_b) / T(n + b), on calibrated step prices that count the prompt tokens beside the rows. The budget
comes from the survivals of `staleness` steps ago, resampled to this step's drafts, and the ranking from this step's;
until there are such, all drafts are verified. `draft: sunk` always drafts the longest length, as vLLM, which trims
verification only. `draft: chosen` picks the length too: the same ratio, for the mean survivals seen, all verified.

Lossless at temperature if stale: the budget then cannot see what this step drew, and whether draft j is among the b
likeliest depends on its row's confidences up to j only. With staleness 0 the budget sees later draws.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from sdsim.policies.calibration import Calibration
from sdsim.policies.draft_forecast import DraftForecast
from sdsim.policies.lengths import count, draft_lengths, one_of
from sdsim.policies.plans import uniform
from sdsim.policies.selection import ranked_prefixes, tokens_by_budget
from sdsim.policies.verify_prices import StepPrices, VerifyPrices
from sdsim.policy import FloatArray, IntArray, Observation, Outcome, Plan, StepCosts


class Dspark:
    """Verify the likeliest drafts of the batch while tokens per second rise."""

    needs = frozenset({"confidence"})
    lossless_at_temperature = True

    def __init__(
        self, cost: StepCosts, lengths: Sequence[int] = (0, 1, 2, 3, 4), draft: str = "sunk", staleness: int = 2
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self._chooses = one_of("draft", draft, ("sunk", "chosen")) == "chosen"
        self.label = "dspark-chosen" if self._chooses else "dspark"
        self.lossless_at_temperature = count("staleness", staleness) > 0
        self._index = np.array(self.lengths)
        self._prices = VerifyPrices(cost, self.lengths)
        self._calibration, self._forecast = Calibration(), DraftForecast()
        self._past: deque[FloatArray] = deque(maxlen=staleness + 1)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the budget's verify lengths, and the draft length."""
        if not observation.batch:
            return uniform(self.lengths[-1])
        prices = self._prices.at(observation)
        drafts = int(np.add.reduce(observation.pending))
        survival = self._calibration.survival(observation, drafts) if drafts else None
        choice = self._choice(survival, observation.batch, prices) if self._chooses else -1
        verify = None
        if survival is not None:
            seconds = prices.verify[observation.batch : observation.batch + drafts + 1] + prices.drafting[choice]
            verify = self._verify(survival, drafts, seconds)
        return uniform(self.lengths[choice])._replace(verify_lengths=verify)

    def _choice(self, survival: FloatArray | None, rows: int, prices: StepPrices) -> int:
        """Return which draft length has the most expected tokens a second, its drafts being verified whole."""
        if survival is not None:
            self._forecast.see(survival)
        return int((self._forecast.tokens[self._index] / prices.even(rows)).argmax())

    def _verify(self, survival: FloatArray, drafts: int, seconds: FloatArray) -> IntArray | None:
        """Return the verify lengths at the budget of the most tokens a second; None for all."""
        ranked = np.sort(survival, axis=None)[::-1][:drafts]
        self._past.append(ranked)
        if len(self._past) < (self._past.maxlen or 1):
            return None
        stale = self._past[0]
        if len(stale) != drafts:
            stale = stale[np.arange(drafts) * len(stale) // drafts]
        budget = int((tokens_by_budget(survival.shape[1], stale) / seconds).argmax())
        if budget == drafts:
            return None
        return ranked_prefixes(survival, ranked, budget)

    def learn(self, outcome: Outcome, /) -> None:
        """Calibrate the confidences."""
        self._calibration.learn(outcome)
