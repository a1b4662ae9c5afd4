"""Measured decode steps against predicted ones: the time of each, and how far off they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sdsim.agreement.figures import batch_range, error_summary, relative_error
from sdsim.agreement.setting import Setting
from sdsim.latency.prices import Prices
from sdsim.measurements import StepMeasurement

ANY_WORKLOAD = {"kind": "poisson", "rate": 1, "limit": 1, "lengths": {"prompt": 1, "output": 1}}
"""A step needs no requests, a scenario does."""
GROUP = ("model", "engine", "gpu")
Row = dict[str, Any]


def step_rows(measured: Sequence[StepMeasurement], setting: Setting) -> list[Row]:
    """Return a row for each measured step, with its predicted time; times in s, tokens per sequence."""
    known: dict[object, Prices] = {}
    rows = []
    for one in measured:
        r = one.record
        system = r.target_name(), setting.draft_of(r), setting.engine_of(r), setting.gpu_of(r)
        key = (*system, r.draft_length, r.alpha, one.max_num_seqs, r.capture_sizes)
        if key not in known:
            name = f"{r.model}, {r.draft_length} drafts"
            scenario = setting.scenario(r, one.max_num_seqs, ANY_WORKLOAD, name)
            known[key] = setting.system(scenario, r).prices
        rows.append(_row(one, known[key], setting))
    return rows


def _row(one: StepMeasurement, prices: Prices, setting: Setting) -> Row:
    r = one.record
    cost = prices.cost(r.batch, r.draft_length, r.mean_context)
    experts = prices.shape(r.batch, r.draft_length, r.mean_context).distinct_experts
    predicted = {
        "target_s": cost.target_s,
        "reject_s": cost.reject_s,
        "draft_s": cost.draft_s,
        "distinct_experts": experts,
    }
    return {
        "model": r.model,
        "draft": setting.draft_alias(r),
        "engine": setting.engine_label(r),
        "gpu": setting.gpu_of(r),
        "draft_length": r.draft_length,
        "batch": r.batch,
        "prompt": r.prompt,
        "context": r.mean_context,
        "measured_s": r.step_s,
        "predicted_s": cost.seconds,
        **predicted,
        "error": relative_error(cost.seconds, r.step_s),
        "measured_tokens_per_step": r.tokens_per_seq_step,
        "tokens_per_step": r.expected_tokens,
        "parts": {k: {"measured": v, "error": relative_error(predicted[k], v)} for k, v in r.parts.items()},
        "components": cost.components,
        "data_quality": cost.quality,
    }


def step_summaries(rows: Sequence[Row]) -> list[Row]:
    """Return the errors of each model, in all and by draft length and batch range."""
    return [
        dict(zip(GROUP, key, strict=True))
        | error_summary([row["error"] for row in group])
        | {
            "by_draft_length": _by("draft_length", lambda row: row["draft_length"], group),
            "by_batch": _by("batch", lambda row: batch_range(row["batch"]), group),
            "by_part": _parts(group),
        }
        for key, group in grouped(rows).items()
    ]


def grouped(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Return *rows* by model, engine and GPU, in order of appearance."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in GROUP), []).append(row)
    return groups


def _by(name: str, label: Callable[[Row], object], rows: Sequence[Row]) -> list[Row]:
    """Return the errors of *rows* for each *label*, in ascending order of what it is made from."""
    errors: dict[object, list[float]] = {}
    for row in sorted(rows, key=lambda row: int(row[name])):
        errors.setdefault(label(row), []).append(row["error"])
    return [{name: key} | error_summary(found) for key, found in errors.items()]


def _parts(rows: Sequence[Row]) -> list[Row]:
    """Return the errors of each part of a step that was measured apart."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        for name, part in row["parts"].items():
            errors.setdefault(name, []).append(part["error"])
    return [{"part": name} | error_summary(found) for name, found in errors.items()]
