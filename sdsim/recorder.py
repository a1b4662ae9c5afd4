"""Records of a run: flat arrays of doubles, one row a finished request, one row a step."""

from __future__ import annotations

from array import array

import numpy as np

from sdsim.policy import FloatArray
from sdsim.request import Request
from sdsim.step import StepShape

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


class Recorder:
    """Collects rows as plain doubles: appending costs a fraction of a microsecond and 8 bytes a figure."""

    def __init__(self) -> None:
        self._requests = array("d")
        self._steps = array("d")
        self._gaps = array("d")
        self.gap = self._gaps.append
        """Append one inter-token gap that is not simply a step's duration, s."""

    def finished(self, request: Request, replica: int, finish_s: float) -> None:
        """Record a request that finished at *finish_s*, or (NaN) did not; in the order of REQUEST_COLUMNS."""
        self._requests.extend(
            (
                request.id,
                replica,
                request.arrival_s,
                request.first_token_s,
                finish_s,
                request.prompt,
                request.output,
                request.generated,
                request.request_class,
                request.preemptions,
                request.verify_steps,
            )
        )

    def stepped(
        self, shape: StepShape, replica: int, step: int, start_s: float, seconds: float, waiting: int, kv_used: int,
        emitted: int, accepted: int, regular: int,
    ) -> None:  # fmt: skip
        """Record a step: *emitted* tokens and *accepted* drafts of its decode rows, *regular* of which emitted in the
        step before too; in the order of STEP_COLUMNS.
        """
        self._steps.extend(
            (
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
        )

    @staticmethod
    def _columns(data: array[float], names: tuple[str, ...]) -> dict[str, FloatArray]:
        table = (
            np.frombuffer(data, dtype=np.float64).reshape(-1, len(names)) if len(data) else np.empty((0, len(names)))
        )
        return {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(names)}

    def requests(self) -> dict[str, FloatArray]:
        """Return the requests' columns."""
        return self._columns(self._requests, REQUEST_COLUMNS)

    def steps(self) -> dict[str, FloatArray]:
        """Return the steps' columns."""
        return self._columns(self._steps, STEP_COLUMNS)

    def irregular_gaps(self) -> FloatArray:
        """Return the gaps of rows that sat out a step: evicted, or left out by the token budget."""
        return np.frombuffer(self._gaps, dtype=np.float64).copy() if len(self._gaps) else np.empty(0)
