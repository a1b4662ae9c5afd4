"""One draft length while the queue is short, none above.

The companion of a threshold on the batch (vLLM V0's `speculative_disable_by_batch_size`, whose help text speaks of
enqueued requests): the signal is the number of requests that wait for admission.
"""

from __future__ import annotations

from sdsim.policies.lengths import count, draft_length
from sdsim.policies.plans import WARM, uniform
from sdsim.policy import Observation, Plan, learn_nothing


class DisableByQueue:
    """Draft *length* tokens while at most *threshold* requests wait; else keep the drafter warm."""

    lossless_at_temperature = True

    def __init__(self, length: int, threshold: int) -> None:
        self.lengths = tuple(sorted({0, draft_length(length)}))
        self.label = f"disable-by-queue-{length}-{threshold}"
        self._threshold = count("threshold", threshold)
        self._on = uniform(length)

    def plan(self, observation: Observation, /) -> Plan:
        """Compare the waiting requests with the threshold."""
        return self._on if observation.waiting <= self._threshold else WARM

    learn = learn_nothing
