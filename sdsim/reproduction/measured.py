"""Speedups and target efficiencies from measured steps, at the paper's sigma, each beside its price.

Tokens per round are the paper's sigma (gamma + 1), so that curves differ by their step times alone. A step with drafts
needs the step without at its batch and context. Where the record has none there, the nearest in batch is moved by the
ratio of the two steps' prices: the row says by how much, and is `paired` while that is little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdsim.agreement.setting import Setting
from sdsim.agreement.steps import step_rows
from sdsim.errors import TraceError
from sdsim.measurements import StepMeasurement, StepRecord, read_measurements
from sdsim.models import load_model
from sdsim.reproduction.published import published

PAIRED = 0.05
"""Largest relative move of a step without drafts that still counts as measured there."""
EXECUTOR = "ideal"
"""The engine that the project's own executor writes into records."""
Row = dict[str, Any]


def read_records(paths: Sequence[Path]) -> list[Row]:
    """Return a row for each measured step with drafts in *paths*; files of one folder are read as one.

    Raises SdsimError, also for steps with drafts of an engine that no step without stands beside.
    """
    folders: dict[Path, list[StepMeasurement]] = {}
    for path in paths:
        found = read_measurements(path)
        if not found.steps:
            raise TraceError(f"{path}: holds no steps; needed: steps with step_ms_median; give a record of steps")
        folders.setdefault(found.folder, []).extend(found.steps)
    return [row for folder, steps in folders.items() for row in measured_rows(steps, replace(Setting(), folder=folder))]


def measured_rows(steps: Sequence[StepMeasurement], setting: Setting) -> list[Row]:
    """Return a row for each of *steps* with drafts.

    Raises TraceError where its model, engine and GPU have no step without.
    """
    bases: dict[tuple[str, ...], list[StepMeasurement]] = {}
    for one in steps:
        if not one.record.draft_length:
            bases.setdefault(_process(one.record, setting), []).append(one)
    drafting = [one for one in steps if one.record.draft_length]
    alone = {_process(one.record, setting) for one in drafting} - set(bases)
    if alone:
        names = [f"{model} by {engine} on {gpu}" for model, engine, gpu in sorted(alone)]
        raise TraceError(f"{setting.folder}: {', '.join(names)}: no step with gamma 0 to compare with; add its record")
    nearest = [_nearest(one.record, bases[_process(one.record, setting)]) for one in drafting]
    moved = [_moved(base, one.record) for one, base in zip(drafting, nearest, strict=True)]
    prices = [[row["predicted_s"] for row in step_rows(part, setting)] for part in (drafting, moved, nearest)]
    return [
        _row(one.record, base.record, price, setting)
        for one, base, *price in zip(drafting, nearest, *prices, strict=True)
    ]


def _process(r: StepRecord, setting: Setting) -> tuple[str, ...]:
    return load_model(r.target_name(), setting.folder).name, setting.engine_label(r), setting.gpu_of(r)


def _nearest(r: StepRecord, bases: Sequence[StepMeasurement]) -> StepMeasurement:
    """Return the base nearest in batch, then in context."""

    def distance(base: StepMeasurement) -> tuple[float, float]:
        b = base.record
        return abs(math.log(b.batch / r.batch)), abs(math.log(b.mean_context / r.mean_context))

    return min(bases, key=distance)


def _moved(base: StepMeasurement, r: StepRecord) -> StepMeasurement:
    """Return *base* as it would be at the batch and context of *r*."""
    return replace(base, record=base.record.model_copy(update={"batch": r.batch, "context": r.mean_context}))


def _row(r: StepRecord, base: StepRecord, prices: Sequence[float], setting: Setting) -> Row:
    """Return one step's row; *prices* are of the step, of the one without drafts there, and of that where it is."""
    step_s, off_s, base_s = prices
    moved = off_s / base_s
    model, engine, gpu = _process(r, setting)
    tokens = published().tokens(r.draft_length)
    targets = base.target_ms, r.target_ms
    return {
        "source": "executor" if engine == EXECUTOR else engine,
        "model": model,
        "gpu": gpu,
        "gamma": r.draft_length,
        "batch": r.batch,
        "context": r.mean_context,
        "step_s": r.step_s,
        "off_s": base.step_s * moved,
        "off_moved": moved - 1,
        "paired": abs(moved - 1) <= PAIRED,
        "speedup": None if tokens is None else tokens * base.step_s * moved / r.step_s,
        "predicted_speedup": None if tokens is None else tokens * off_s / step_s,
        "target_efficiency": targets[0] * moved / targets[1] if targets[0] and targets[1] else None,
    }
