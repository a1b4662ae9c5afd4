"""Records of a run: columns of doubles, a row a request in the order in which they finished, a row a step."""

from __future__ import annotations

import struct
from array import array

import numpy as np

from sdsim import batch
from sdsim.policy import FloatArray
from sdsim.request import RequestTable
from sdsim.step import StepShape

_TIMES = {"arrival_s": batch.ARRIVAL, "first_token_s": batch.FIRST_TOKEN, "finish_s": batch.FINISH}
_NUMBERS = {
    "request_id": batch.ID,
    "replica": batch.REPLICA,
    "prompt_tokens": batch.PROMPT,
    "output_tokens": batch.OUTPUT,
    "generated_tokens": batch.GENERATED,
    "request_class": batch.CLASS,
    "preemptions": batch.PREEMPTIONS,
    "verify_steps": batch.STEPS,
}
REQUEST_COLUMNS = (
    "request_id",
    "replica",
    "arrival_s",
    "first_token_s",
    "finish_s",
    "prompt_tokens",
    "output_tokens",
    "generated_tokens",
    "request_class",
    "preemptions",
    "verify_steps",
)
STEP_COLUMNS = (
    "replica",
    "step",
    "start_s",
    "seconds",
    "rows",
    "verify_tokens",
    "prefill_tokens",
    "draft_length",
    "drafter",
    "waiting",
    "kv_used_blocks",
    "emitted_tokens",
    "first_tokens",
    "accepted_tokens",
    "distinct_experts",
    "regular_gaps",
)
DRAFTER_CODES = {"dropped": 0.0, "warm": 1.0, "on": 2.0}
_STEP = struct.Struct(f"{len(STEP_COLUMNS)}d")
_KEPT = 4096
"""Steps that are packed before they are taken apart into columns."""


class Recorder:
    """Collects steps as packed doubles, and the order in which the requests of a table finish."""

    def __init__(self, requests: RequestTable) -> None:
        self._requests = requests
        self._order = array("q")
        self._packed = bytearray(_KEPT * _STEP.size)
        self._at = 0
        self._columns: list[list[FloatArray]] = [[] for _ in STEP_COLUMNS]
        self._gaps = array("d")
        self._gap_starts = array("d")
        self.finished = self._order.extend
        """Record requests that finished, or never will."""

    def gaps(self, gaps: FloatArray, start_s: float) -> None:
        """Record inter-token gaps that are not simply a step's duration, s, and end with the step that began then."""
        self._gaps.extend(gaps.tolist())
        self._gap_starts.extend([start_s] * len(gaps))

    def stepped(
        self, shape: StepShape, replica: int, step: int, start_s: float, seconds: float, waiting: int, kv_used: int,
        emitted: int, accepted: int, regular: int,
    ) -> None:  # fmt: skip
        """Record a step: *emitted* tokens and *accepted* drafts of its decode rows, *regular* of which emitted in the
        step before too; in the order of STEP_COLUMNS.
        """
        if self._at == len(self._packed):
            self._take_apart()
        _STEP.pack_into(
            self._packed,
            self._at,
            replica,
            step,
            start_s,
            seconds,
            shape.rows,
            shape.verify_tokens,
            shape.prefill_tokens,
            shape.draft_length,
            DRAFTER_CODES[shape.drafter],
            waiting,
            kv_used,
            emitted + shape.first_tokens,
            shape.first_tokens,
            accepted,
            shape.distinct_experts,
            regular,
        )
        self._at += _STEP.size

    def _take_apart(self) -> None:
        packed = np.frombuffer(self._packed, count=self._at // 8).reshape(-1, len(STEP_COLUMNS))
        for column, part in zip(self._columns, packed.T, strict=True):
            column.append(part.copy())
        self._at = 0

    def requests(self) -> dict[str, FloatArray]:
        """Return the requests' columns."""
        table, order = self._requests, np.array(self._order, dtype=np.int64)
        found = {name: table.numbers[field, order].astype(np.float64) for name, field in _NUMBERS.items()}
        found |= {name: table.times[field, order] for name, field in _TIMES.items()}
        return {name: found[name] for name in REQUEST_COLUMNS}

    def steps(self) -> dict[str, FloatArray]:
        """Return the steps' columns, once: a long run has no room for them twice."""
        self._take_apart()
        found = {}
        for name, column in zip(STEP_COLUMNS, self._columns, strict=True):
            found[name] = np.concatenate(column)
            column.clear()
        return found

    def irregular_gaps(self, from_s: float = 0.0) -> FloatArray:
        """Return the gaps of rows that sat out a step, evicted or left out by the token budget.

        They end with a step that began at *from_s* or later.
        """
        return np.array(self._gaps, dtype=np.float64)[np.array(self._gap_starts) >= from_s]
