"""Stop a chain where the drafter loses confidence: one rule, three published statistics.

- `product`: SpecDec++ (arXiv 2405.19715): stop once 1 - q_1 q_2 ... q_j > h, that is once the chance of the whole chain
  is below the threshold, 1 - h.
- `last`: the assistant confidence threshold of Transformers, the plain form of DISCO's classifier (arXiv 2405.04304):
  stop once q_j is below the threshold.
- `entropy`: AdaEDL: stop before draft j where 1 - sqrt(scale H_j) is below the threshold, H_j the entropy of the
  distribution that j is drawn from. The entropy is not visible here. The reading is a lower bound of it when the
  largest probability is q_j: the two-way entropy above a half, -ln q_j below.

The first two stop after the draft that told them, and the chain keeps it; the third looks ahead. So whether draft j is
verified never depends on its draw, and all three are lossless at temperature. The published rules end the drafting
itself. A plan is made before it, so here they cut the verification, and drafts cost what `length` drafts cost.
"""

from __future__ import annotations

import numpy as np

from sdsim.policies.confidence import confidences, survival
from sdsim.policies.lengths import draft_length, one_of, positive, share
from sdsim.policies.plans import uniform
from sdsim.policy import FloatArray, Observation, Plan, learn_nothing

THRESHOLDS = {"product": 0.3, "last": 0.4, "entropy": 0.4}


class ConfidenceStop:
    """Verify each chain up to where its statistic falls below a threshold."""

    needs = frozenset({"confidence"})
    lossless_at_temperature = True

    def __init__(
        self, length: int = 4, statistic: str = "product", threshold: float | None = None, scale: float = 0.2
    ) -> None:
        self.lengths = tuple(sorted({0, draft_length(length)}))
        self._statistic = one_of("statistic", statistic, tuple(THRESHOLDS))
        self.label = f"confidence-stop-{statistic}"
        self._threshold = THRESHOLDS[statistic] if threshold is None else share("threshold", threshold)
        self._scale = positive("scale", scale)
        self._plan = uniform(length)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the verify lengths at which the chains stop."""
        drafts = int(np.add.reduce(observation.pending))
        if not drafts:
            return self._plan
        going = self._value(confidences(observation), observation, drafts) >= self._threshold
        np.logical_and.accumulate(going, axis=0, out=going)
        lengths = np.add.reduce(going, axis=0, dtype=np.int64)
        lengths += self._statistic != "entropy"
        return self._plan._replace(verify_lengths=np.minimum(lengths, observation.pending, out=lengths))

    def _value(self, believed: FloatArray, observation: Observation, drafts: int) -> FloatArray:
        if self._statistic == "last":
            return believed
        if self._statistic == "product":
            return survival(believed, observation.pending, drafts)
        return np.asarray(1.0 - np.sqrt(self._scale * least_entropy(believed)))

    learn = learn_nothing


def least_entropy(largest: FloatArray) -> FloatArray:
    """Return what the entropy, nats, of a distribution is at least, given its largest probability."""
    rest = 1.0 - largest
    one = -np.log(largest)
    return np.where(largest > 0.5, largest * one - rest * np.log(rest), one)
