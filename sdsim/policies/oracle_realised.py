"""Oracle O4: the best step when the accepted lengths are known beforehand: it verifies no draft that will be rejected.

Not attainable by any law. What it gains over the oracle that knows chances alone is the price of randomness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policies.confidence import POSITIONS
from sdsim.policies.step_optimum import StepOptimum
from sdsim.policy import FloatArray, IntArray, Observation, StepCosts, Truth


class OracleRealised(StepOptimum):
    """Maximise tokens a second, step by step."""

    def __init__(self, cost: StepCosts, lengths: Sequence[int] = (0, 1, 2, 3, 4, 5, 6)) -> None:
        super().__init__(cost, lengths, "oracle-realised")

    def pending(self, truth: Truth, observation: Observation) -> FloatArray:
        """Return 1 for each draft that will be accepted."""
        return _ones(truth.depths(observation.request_ids, observation.generated, observation.pending))

    def next(self, truth: Truth, observation: Observation, verify: IntArray, length: int) -> FloatArray:
        """Return 1 for each draft of the next step that will be accepted; *verify* drafts are, in this one."""
        start = observation.generated + verify + 1
        return _ones(truth.depths(observation.request_ids, start, np.full(len(start), length)))


def _ones(depths: IntArray) -> FloatArray:
    return np.asarray(POSITIONS[: int(depths.max(initial=0))] < depths, dtype=np.float64)
