"""Measured collectives and steps of several GPUs, against what is predicted for them.

A collective is predicted three ways: by the network's assumed links; by the latency and rate that the all-reduce's two
ends imply; and by the points around it, as if it had not been measured itself. A step is predicted whole, its layers
and its head, from the kernels' calibration and the measured collectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdsim.agreement.figures import error_summary, relative_error
from sdsim.experts import make_routing
from sdsim.gpus import load_gpu
from sdsim.latency.calibrated import make_kernels
from sdsim.latency.collectives import (
    Collectives,
    MeasuredCollectives,
    gpu_of_file,
    load_collectives,
    make_collectives,
)
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import load_engine
from sdsim.latency.prices import verify_step
from sdsim.latency.tables import Curve
from sdsim.models import load_model
from sdsim.parallel import Layout

Row = dict[str, Any]
DECODING = (4 << 10, 16 << 20)
"""Bytes of an all-reduce or all-to-all in decode steps: from one row of 2,048 to 1,024 rows of 8,192."""
NETWORK = "hgx"


def collectives_answer(path: Path, calibration: str | None) -> dict[str, Any]:
    """Return predicted beside measured for the file *path* of collectives: rows, and errors in summary."""
    gpu = gpu_of_file(path)
    measured = load_collectives(path, gpu)
    collectives, steps = collective_rows(measured), step_rows(measured, calibration)
    decoding = [row for row in collectives if DECODING[0] <= row["bytes"] <= DECODING[1] and row["error"] is not None]
    return {
        "gpu": gpu,
        "collectives": collectives,
        "steps": steps,
        "summary": {
            "collectives": error_summary([row["error"] for row in decoding]) if decoding else None,
            "steps": {name: error_summary([row["error"] for row in of]) for name, of in _by_model(steps).items()},
        },
    }


def collective_rows(measured: MeasuredCollectives) -> list[Row]:
    """Return a row for each measured collective; `error` is that of the points around it, None at the ends."""
    gpu = load_gpu(measured.gpu)
    rows = []
    for (op, ranks), points in sorted(measured.points.items()):
        without_points = replace(measured, points={})
        assumed = make_collectives(gpu, ranks, NETWORK, without_points)
        linked = Collectives(make_collectives(gpu, ranks, NETWORK, measured).network)
        for size in sorted(points):
            around = {other: seconds for other, seconds in points.items() if other != size}
            inside = around and min(around) < size < max(around)
            predicted = Curve(list(around.items())).price(size).seconds if inside else None
            rows.append({
                "op": op, "ranks": ranks, "bytes": size, "measured_s": points[size], "predicted_s": predicted,
                "assumed_s": getattr(assumed, op)(size, ranks).seconds,
                "link_s": getattr(linked, op)(size, ranks).seconds,
                "error": None if predicted is None else relative_error(predicted, points[size]),
            })  # fmt: skip
    return rows


def step_rows(measured: MeasuredCollectives, calibration: str | None) -> list[Row]:
    """Return a row for each measured step."""
    gpu = load_gpu(measured.gpu)
    kernels, engine = make_kernels(gpu, calibration), load_engine("ideal")
    rows = []
    for step in measured.steps:
        model = load_model(step["model"])
        dense = round(model.dense_layers * step["layers"] / model.layers)
        model = replace(model, layers=step["layers"], dense_layers=dense)
        ranks, spread = step["ranks"], step["parallel"] == "expert"
        layout = Layout(ranks, 1 if spread else ranks, spread)
        collectives = make_collectives(gpu, ranks, NETWORK, measured)
        latency = ComposedLatency(model, None, kernels, engine, layout, collectives)
        routing = make_routing(model.experts, model.experts_per_token)
        tokens = step["batch"] * step["q_len"]
        shape = verify_step(routing, step["batch"], tokens, step["context"] - step["q_len"], "dropped")
        cost, seconds = latency.cost(shape), step["us_p50"] * 1e-6
        keys = ("model", "parallel", "ranks", "layers", "batch", "q_len", "context")
        rows.append({key: step[key] for key in keys} | {
            "measured_s": seconds, "predicted_s": cost.target_s, "error": relative_error(cost.target_s, seconds),
            "components": cost.components, "data_quality": cost.quality,
        })  # fmt: skip
    return rows


def _by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row['model']}, {row['parallel']} parallel {row['ranks']}", []).append(row)
    return found
