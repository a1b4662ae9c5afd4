"""Stratified steps of a model, timed on this GPU, as records."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdsim.agreement.design import LARGEST_BATCH, LONGEST_DRAFT, Point, stratified_points
from sdsim.cluster import kv_blocks
from sdsim.drafts import Draft, make_draft
from sdsim.errors import ScenarioError
from sdsim.gpus import gpu_of_device, load_gpu
from sdsim.hardware.process import run_module
from sdsim.models import Model, load_model
from sdsim.parallel import Layout

MISSING = "--on gpu needs a checkout with kernels/, and torch and triton: pip install -e '.[gpu]' ({error})"
MEMORY_FRACTION = 0.9
BLOCK = 16
ENGINE = "ideal"
"""What the executor is: captured graphs, with the host's time apart."""
PARTS = ("target", "rejection", "draft", "host")


def require_gpu() -> None:
    """Raise ScenarioError unless what the kernels need can be imported."""
    for name in ("kernels", "torch", "triton"):
        if importlib.util.find_spec(name) is None:
            raise ScenarioError(MISSING.format(error=f"no {name}"))


def measure_points(model: str, draft: str, points: Sequence[Point], alpha: float, seed: int) -> list[dict[str, Any]]:
    """Time *points* of *model*; return a step record each, of acceptance rate *alpha*, which no time depends on."""
    with tempfile.TemporaryDirectory() as folder:
        asked, measured = Path(folder) / "points.json", Path(folder) / "measured.json"
        rows = [{"rows": p.batch, "draft_length": p.draft_length, "context": p.context} for p in points]
        asked.write_text(json.dumps(rows), encoding="utf-8")
        words = ["--model", model, "--draft", draft, "--points", str(asked), "--out", str(measured)]
        run_module("sdsim.hardware.points", [*words, "--seed", str(seed)], f"--on gpu: {model}")
        found = json.loads(measured.read_text(encoding="utf-8"))
    return [_record(row, found, model, draft, alpha) for row in found["points"]]


def _record(row: dict[str, Any], found: dict[str, Any], model: str, draft: str, alpha: float) -> dict[str, Any]:
    length = row["draft_length"]
    gpu = gpu_of_device(found["device"])
    return {
        "model": model,
        "draft": draft if length else None,
        "gamma": length,
        "B": row["rows"],
        "context": row["context"],
        "alpha": alpha if length else None,
        "step_ms_median": 1e3 * row["step_s"],
        **{f"{part}_ms": 1e3 * row[f"{part}_s"] for part in PARTS},
        "distinct_experts": row["distinct_experts"],
        "distinct_experts_se": row["distinct_experts_se"],
        "n": row["repeats"],
        "engine": ENGINE,
        "device": found["device"],
        **({"gpu": gpu} if gpu else {}),
        **{key: found["provenance"][key] for key in ("date", "commit")},
    }


def fitting_points(model: str, draft: str, gpu: str, count: int, seed: int) -> list[Point]:
    """Return *count* stratified points of *model* that fit into *gpu*. Raises SdsimError if it does not fit itself."""
    target = load_model(model)
    loaded = make_draft("model", target, draft)
    try:
        positions = min(m.max_positions for m in (target, loaded.model) if m is not None)
        return stratified_points(count, _kv_tokens(target, loaded, gpu), positions, seed)
    except ValueError as error:
        raise ScenarioError(f"--model: {model} on {gpu}: {error}; name a smaller model") from None


def _kv_tokens(target: Model, draft: Draft, gpu: str) -> float:
    tokens = LARGEST_BATCH * (1 + LONGEST_DRAFT)
    limits = (MEMORY_FRACTION, LARGEST_BATCH, tokens, LONGEST_DRAFT)
    return BLOCK * kv_blocks(target, draft, load_gpu(gpu), Layout(), *limits, BLOCK)
