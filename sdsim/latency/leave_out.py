"""A calibration as if one model had never been measured: what is left prices it by the kernel families' fits alone.

All rows of the model's own shapes go, also those that another model shares with it, so that no table answers for it and
no fit has seen it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sdsim import matrices
from sdsim.latency.calibration import DIMENSIONS, Calibration
from sdsim.models import Model


def without(calibration: Calibration, model: Model) -> Calibration:
    """Return *calibration* less all rows of *model*'s shapes."""
    own = shapes(model)
    kept = tuple(row for row in calibration.rows if not _is_of(row, own))
    return replace(calibration, name=f"{calibration.name} without {model.name}", rows=kept)


def shapes(model: Model) -> dict[str, set[tuple[int, ...]]]:
    """Return the dimensions of *model* by kernel, in the order of `DIMENSIONS`."""
    products = [*matrices.attention(model), matrices.head(model)]
    widths = {model.shared_intermediate, model.intermediate if model.dense_layers else 0} - {0}
    for width in widths:
        products += matrices.feed_forward(model.hidden, width)
    if model.is_moe:
        products += [matrices.router(model), matrices.Matrix(model.hidden, 1)]
    heads: set[tuple[int, ...]] = {(model.heads, model.kv_heads, model.head_dim)}
    return {
        "gemm": {(m.inputs, m.outputs) for m in products},
        "moe": {(model.experts, model.experts_per_token, model.hidden, model.expert_intermediate)},
        **dict.fromkeys(("attention", "prefill", "rope"), heads),
        "latent": {(model.heads, model.mla.kv_lora_rank, model.mla.rope_dim)} if model.mla else set(),
        "norm": {(model.hidden,)},
        "silu_mul": {(width,) for width in widths},
        "rejection": {(model.vocabulary,)},
    }


def _is_of(row: dict[str, Any], own: dict[str, set[tuple[int, ...]]]) -> bool:
    named = DIMENSIONS.get(row["kernel"])
    return named is not None and tuple(int(row["shape"][d]) for d in named) in own[row["kernel"]]
