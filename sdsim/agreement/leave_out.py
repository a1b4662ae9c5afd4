"""Whole stacks of layers and draft passes that a calibration timed, against their prices with and without the model.

A stack is some layers in one captured graph; a draft pass is a whole small model, head included. Neither prices
anything, so both are a check: of the sum of kernels and gaps, and, with the model's own rows left out, of the fits for
models that nobody measured. The gap between kernels stays: it is one figure for all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdsim.agreement.figures import error_summary, relative_error
from sdsim.drafts import Draft
from sdsim.errors import CalibrationError
from sdsim.experts import make_routing
from sdsim.gpus import load_gpu
from sdsim.latency.calibrated import make_kernels
from sdsim.latency.calibration import load_calibration, load_shipped
from sdsim.latency.composition import ComposedLatency, Kernels
from sdsim.latency.engine_overhead import load_engine
from sdsim.models import Model, load_model
from sdsim.step import StepShape

Row = dict[str, Any]
HEAD = ("lm_head", "sampling")
"""Components that a stack of layers does not have."""


def leave_out_rows(gpu: str, calibration: str | None) -> list[Row]:
    """Return each stack and each single draft pass of a calibration, measured and predicted both ways; times in s."""
    place = load_gpu(gpu)
    loaded = load_calibration(Path(calibration), gpu) if calibration else load_shipped(gpu)
    known: dict[str, tuple[Model, Kernels, Kernels]] = {}
    rows = []
    for row in [*loaded.of("layers"), *loaded.of("draft")] if loaded else []:
        kind, name, *size = row["key"].split("/")
        if kind == "draft" and (row["q_len"] != 1 or size[-1] != "k1"):
            continue
        if name not in known:
            model = load_model(name)
            known[name] = model, make_kernels(place, calibration), make_kernels(place, calibration, unseen=model)
        rows.append(_row(row, kind, *known[name]))
    if not rows:
        where = calibration or f"the shipped calibration of {gpu}"
        raise CalibrationError(f"--leave-out: {where} has no stack of layers; profile one, or give --measured FILE")
    return rows


def _row(row: Row, kind: str, model: Model, kernels: Kernels, without: Kernels) -> Row:
    measured = row["us_p50"] * 1e-6
    layers = int(row["key"].split("/n")[1].split("/")[0]) if kind == "layers" else model.layers
    seconds = [_price(row, kind, model, layers, priced_by) for priced_by in (kernels, without)]
    return {
        "model": model.name,
        "what": "draft pass" if kind == "draft" else f"{layers} layers",
        "batch": row["batch"],
        "q_len": row["q_len"],
        "context": row["context"],
        "measured_s": measured,
        "calibrated_s": seconds[0],
        "left_out_s": seconds[1],
        "calibrated_error": relative_error(seconds[0], measured),
        "left_out_error": relative_error(seconds[1], measured),
    }


def _price(row: Row, kind: str, model: Model, layers: int, kernels: Kernels) -> float:
    batch, q_len, stored = row["batch"], row["q_len"], row["context"] - row["q_len"]
    tokens = batch * q_len
    shape = StepShape(
        rows=batch,
        verify_tokens=tokens,
        context_tokens=batch * stored,
        attention_pairs=tokens * stored,
        distinct_experts=make_routing(model.experts, model.experts_per_token).distinct_uniform_rows(batch, tokens),
    )
    ideal = load_engine("ideal")
    if kind == "draft":
        shape = shape._replace(draft_length=1, draft_rows=batch, drafter="on")
        return ComposedLatency(model, Draft("model", model, False, 1.0), kernels, ideal).cost(shape).draft_s
    parts = ComposedLatency(model, None, kernels, ideal).cost(shape).components
    return sum(s for name, s in parts.items() if name not in HEAD) * layers / model.layers


def leave_out_summaries(rows: Sequence[Row]) -> list[Row]:
    """Return the errors of each model with its own rows and without them."""
    models = list(dict.fromkeys((row["model"], row["what"]) for row in rows))
    return [
        {
            "model": model,
            "what": what,
            **{
                way: error_summary([r[f"{way}_error"] for r in rows if (r["model"], r["what"]) == (model, what)])
                for way in ("calibrated", "left_out")
            },
        }
        for model, what in models
    ]
