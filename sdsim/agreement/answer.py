"""The answer of `crosscheck`: the object that `--json` prints. Parts that were not asked for are empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sdsim.agreement.figures import mean_quality
from sdsim.agreement.leave_out import leave_out_rows, leave_out_summaries
from sdsim.agreement.replay import replay_row
from sdsim.agreement.runs import compare_runs
from sdsim.agreement.setting import GPU, Setting
from sdsim.agreement.speedups import best_lengths, with_speedups
from sdsim.agreement.steps import step_rows, step_summaries
from sdsim.agreement.tolerance import Check, Tolerances, replay_checks, run_checks, step_checks
from sdsim.measurements import Measurements
from sdsim.result import Result

Row = dict[str, Any]


def measured_answer(measured: Measurements, setting: Setting, allowed: Tolerances | None) -> Row:
    """Return how well *measured* is predicted; without tolerances nothing is judged."""
    setting = replace(setting, folder=measured.folder)
    rows = with_speedups(step_rows(measured.steps, setting))
    summaries = step_summaries(rows)
    replays = [replay_row(replay, setting) for replay in measured.replays]
    checks = [*step_checks(summaries, allowed), *replay_checks(replays, allowed)] if allowed else []
    steps = {"rows": rows, "summary": summaries, "best": best_lengths(rows)}
    qualities = [(row["data_quality"], row["predicted_s"]) for row in rows]
    qualities += [(row["data_quality"], row["simulated_s"]) for row in replays]
    return _answer(checks, qualities, steps=steps, replays=replays)


def runs_answer(pairs: Iterable[tuple[Result, Result]], allowed: Tolerances) -> Row:
    """Return how well each simulated run, second of its pair, agrees with the one on hardware, first."""
    runs, checks, qualities = [], [], []
    for measured, simulated in pairs:
        run = compare_runs(measured, simulated)
        runs.append(run)
        checks += run_checks(run["policy"], run, run["saturated"], allowed)
        qualities.append((run["data_quality"], float(simulated.summary["simulated_s"])))
    return _answer(checks, qualities, runs=runs)


def leave_out_answer(setting: Setting) -> Row:
    """Return the leave-one-model-out errors of a calibration's own whole-model measurements."""
    rows = leave_out_rows(setting.gpu or GPU, setting.calibration)
    return _answer([], [], leave_out={"rows": rows, "summary": leave_out_summaries(rows)})


def _answer(checks: Sequence[Check], qualities: Sequence[tuple[dict[str, float], float]], **parts: Any) -> Row:
    empty: Row = {
        "steps": {"rows": [], "summary": [], "best": []},
        "replays": [],
        "runs": [],
        "leave_out": {"rows": [], "summary": []},
    }
    return {
        **(empty | parts),
        "checks": [check.row() for check in checks],
        "ok": all(check.ok for check in checks) if checks else None,
        "data_quality": mean_quality([q for q, _ in qualities], [s for _, s in qualities]) if qualities else None,
    }
