"""vLLM RFC 48627 / PR 48944 (open): the table from batch size to draft length, with a second axis for the context.

Entries are [batch first, batch last, context first, context last, K]; [batch first, batch last, K] holds for all
contexts. Entries of one batch range stand together, with contexts that ascend from 0. As in the table by batch alone,
ranges are inclusive, gaps and tails carry the entry before, K is clamped to the longest, and the batch counts all
scheduled requests. The RFC leaves open which context stands for a batch; the reading taken here is the mean over the
decode rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from sdsim.policies.lengths import LONGEST, draft_length
from sdsim.policies.plans import uniform
from sdsim.policies.ranges import Ranges, integer_rows
from sdsim.policy import Observation, Plan, learn_nothing

FORM = "[batch first, batch last, context first, context last, length]"
EVERY_CONTEXT = [0, 10**12]


class BatchContextTable:
    """Look the draft length up by scheduled requests, then by mean context."""

    lossless_at_temperature = True

    def __init__(self, table: Sequence[Sequence[int]], longest: int = LONGEST) -> None:
        longest = draft_length(longest)
        rows = [
            row if len(row) == 5 else row[:2] + EVERY_CONTEXT + row[2:] for row in integer_rows(table, (3, 5), FORM)
        ]
        batches: list[tuple[int, int, Ranges[Plan]]] = []
        for (first, last), group in groupby(rows, lambda row: (row[0], row[1])):
            contexts = [(row[2], row[3], uniform(min(draft_length(row[4]), longest))) for row in group]
            batches.append((first, last, Ranges("context", contexts, 0)))
        self.label = "batch-context-table"
        self._by_batch = Ranges("batch", batches, 1)
        self.lengths = tuple(sorted({0, *(min(row[4], longest) for row in rows)}))

    def plan(self, observation: Observation, /) -> Plan:
        """Return the table's entry for the requests and the mean context of this step."""
        rows = len(observation.request_ids)
        context = observation.stored_tokens // rows if rows else 0
        return self._by_batch.at(rows + observation.prefill_requests).at(context)

    learn = learn_nothing
