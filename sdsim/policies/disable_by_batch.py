"""One draft length while the batch is small, none above: vLLM V0's `speculative_disable_by_batch_size` (PR 4592)."""

from __future__ import annotations

from sdsim.policies.lengths import draft_length, positive
from sdsim.policies.plans import WARM, uniform
from sdsim.policy import Observation, Plan, learn_nothing


class DisableByBatch:
    """Draft *length* tokens while at most *threshold* rows decode; else keep the drafter warm."""

    lossless_at_temperature = True
    constant_while = "batch"

    def __init__(self, length: int, threshold: int) -> None:
        self.lengths = tuple(sorted({0, draft_length(length)}))
        self.label = f"disable-by-batch-{length}-{threshold}"
        self._threshold = positive("threshold", threshold)
        self._on = uniform(length)

    def plan(self, observation: Observation, /) -> Plan:
        """Compare the decode rows with the threshold."""
        return self._on if len(observation.request_ids) <= self._threshold else WARM

    learn = learn_nothing
