"""Oracle O3: the best step when every draft's true chance of acceptance is known, but not what will come of it.

No law can see more than that before the target has run. The price of estimating is what a law loses against this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policies.confidence import survival
from sdsim.policies.step_optimum import StepOptimum
from sdsim.policy import FloatArray, IntArray, Observation, StepCosts, Truth


class OracleExpected(StepOptimum):
    """Maximise expected tokens a second, step by step."""

    def __init__(self, cost: StepCosts, lengths: Sequence[int] = (0, 1, 2, 3, 4, 5, 6)) -> None:
        super().__init__(cost, lengths, "oracle-expected")

    def pending(self, truth: Truth, observation: Observation) -> FloatArray:
        """Return the survival of the drafts at hand."""
        pending = observation.pending
        longest = int(pending.max())
        chances = truth.chances(observation.request_ids, observation.generated, longest)
        return survival(chances.T.copy(), pending, int(np.add.reduce(pending)))

    def next(self, truth: Truth, observation: Observation, verify: IntArray, length: int) -> FloatArray:
        """Return the survival of drafts not drawn yet."""
        rates = truth.rates(observation.request_ids, length)
        return np.asarray(np.multiply.accumulate(rates.T, axis=0))
