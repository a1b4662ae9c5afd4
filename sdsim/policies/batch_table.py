"""vLLM's dynamic speculative decoding: a hand-set table from batch size to draft length.

The semantics of `num_speculative_tokens_per_batch_size` (vLLM PR 32374, first in 0.24.0;
`v1/spec_decode/dynamic/utils.py`): inclusive ranges [first, last, K], sorted and disjoint, the first starting at 1;
gaps and the tail carry the previous K; K is clamped to the longest. The key is the number of scheduled requests: a
request that prefills counts one, whatever its chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.lengths import LONGEST, draft_length
from sdsim.policy import Observation, Plan, learn_nothing


class BatchTable:
    """Look the draft length up by scheduled requests."""

    lossless_at_temperature = True

    def __init__(self, table: Sequence[Sequence[int]], longest: int = LONGEST) -> None:
        rows = _checked(table)
        self.label = "batch-table"
        self._plans: list[Plan] = []
        previous, longest = 0, draft_length(longest)
        for first, last, length in rows:
            self._fill(first, previous)
            previous = min(length, longest)
            self._fill(last + 1, previous)
        self._tail = _plan(previous)
        self.lengths = tuple(sorted({0, self._tail.draft_length, *(p.draft_length for p in self._plans[1:])}))

    def _fill(self, end: int, length: int) -> None:
        self._plans += [_plan(length)] * (end - len(self._plans))

    def plan(self, observation: Observation, /) -> Plan:
        """Return the table's entry for the requests of this step."""
        requests = len(observation.request_ids) + observation.prefill_requests
        return self._plans[requests] if requests < len(self._plans) else self._tail

    learn = learn_nothing


def _plan(length: int) -> Plan:
    return Plan(length, drafter="on" if length else "warm")


def _checked(table: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return the ranges of a legal table, or raise ValueError."""
    rows: list[tuple[int, int, int]] = []
    if not isinstance(table, list | tuple) or not table:
        raise ValueError(f"table {table!r}; allowed: a list of [first, last, length]")
    for row in table:
        if not isinstance(row, list | tuple) or len(row) != 3 or any(type(v) is not int for v in row):
            raise ValueError(f"table row {row!r}; allowed: [first, last, length], three integers")
        first, last, length = row
        start = rows[-1][1] + 1 if rows else 1
        if first < start or last < first or last > 1_000_000 or (not rows and first != 1):
            raise ValueError(f"table row {row!r}; allowed: ranges ascending and disjoint, the first from 1")
        rows.append((first, last, draft_length(length)))
    return rows
