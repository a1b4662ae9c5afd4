"""One scenario run on hardware and simulated: step times by batch and draft length, experts, and what clients saw."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdsim.agreement.figures import relative_error
from sdsim.agreement.replay import client_figures, compared
from sdsim.measurements.replay import queue_grew
from sdsim.metrics import Columns, distribution
from sdsim.policy import FloatArray
from sdsim.result import Result

Row = dict[str, Any]


def compare_runs(measured: Result, simulated: Result) -> Row:
    """Return hardware against simulation: clients' figures, and each kind of decode step that both ran."""
    figures = compared(*(client_figures([run.requests], shortest=1) for run in (measured, simulated)))
    return {
        "policy": simulated.policy,
        "engine": simulated.summary["engine"],
        "requests": {"measured": _finished(measured), "simulated": _finished(simulated)},
        "saturated": queue_grew(measured.requests),
        **figures,
        "step_s": step_kinds(measured.steps, simulated.steps, "seconds"),
        "distinct_experts": step_kinds(measured.steps, simulated.steps, "distinct_experts"),
        "data_quality": simulated.summary["data_quality"],
    }


def _finished(result: Result) -> int:
    return int(result.summary["requests"]["finished"])


def step_kinds(measured: Columns, simulated: Columns, figure: str) -> list[Row]:
    """Return *figure* of steps without prompts, by draft length and by batch in powers of two, as distributions."""
    theirs, ours = _kinds(measured, figure), _kinds(simulated, figure)
    rows = []
    for length, high in sorted(theirs.keys() & ours.keys()):
        both = [distribution(kinds[length, high]) for kinds in (theirs, ours)]
        rows.append(
            {
                "draft_length": length,
                "batch": [high // 2 + 1, high],
                "steps": {"measured": len(theirs[length, high]), "simulated": len(ours[length, high])},
                "measured": both[0],
                "simulated": both[1],
                "error": {k: relative_error(both[1][k], both[0][k]) for k in both[0]},
            }
        )
    return rows


def _kinds(steps: Columns, figure: str) -> dict[tuple[int, int], FloatArray]:
    """Return the values of *figure* by (draft length, the power of two that the batch rounds up to)."""
    decoding = (steps["rows"] > 0) & (steps["prefill_tokens"] == 0)
    lengths = steps["draft_length"][decoding].astype(int)
    highs = 2 ** np.ceil(np.log2(steps["rows"][decoding])).astype(int)
    values = steps[figure][decoding]
    pairs = sorted(set(zip(lengths.tolist(), highs.tolist(), strict=True)))
    return {(k, b): values[(lengths == k) & (highs == b)] for k, b in pairs}
