"""vLLM's dynamic speculative decoding: a hand-set table from batch size to draft length.

The semantics of `num_speculative_tokens_per_batch_size` (vLLM PR 32374, first in 0.24.0;
`v1/spec_decode/dynamic/utils.py`): inclusive ranges [first, last, K], sorted and disjoint, the first starting at 1;
gaps and the tail carry the previous K; K is clamped to the longest. The key is the number of scheduled requests: a
request that prefills counts one, whatever its chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.lengths import LONGEST, draft_length
from sdsim.policies.plans import uniform
from sdsim.policies.ranges import Ranges, integer_rows
from sdsim.policy import Observation, Plan, learn_nothing


class BatchTable:
    """Look the draft length up by scheduled requests."""

    lossless_at_temperature = True
    constant_while = "batch"

    def __init__(self, table: Sequence[Sequence[int]], longest: int = LONGEST) -> None:
        longest = draft_length(longest)
        rows = integer_rows(table, (3,), "[first, last, length]")
        entries = [(first, last, uniform(min(draft_length(k), longest))) for first, last, k in rows]
        self.label = "batch-table"
        self._plans = Ranges("batch", entries, 1)
        self.lengths = tuple(sorted({0, *(plan.draft_length for plan in self._plans.values)}))

    def plan(self, observation: Observation, /) -> Plan:
        """Return the table's entry for the requests of this step."""
        return self._plans.at(len(observation.request_ids) + observation.prefill_requests)

    learn = learn_nothing
