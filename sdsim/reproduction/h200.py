"""The paper's pairs on an H200, priced by its measured kernels: speedup and target efficiency over batch.

Other sparsities are the paper's: the same model with another number of experts per token. Their MoE kernels were not
measured, so those prices are the kernel family's fit, and the rows say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sdsim.drafts import make_draft
from sdsim.experts import make_routing
from sdsim.gpus import load_gpu
from sdsim.latency.calibrated import make_kernels
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import load_engine
from sdsim.latency.prices import Prices
from sdsim.models import load_model
from sdsim.reproduction.published import published

GPU = "h200"
CONTEXT = 256
"""Stored tokens a sequence: prompts of 38 to 391 tokens (section 4), outputs of a length that is not printed."""
DENSE = "qwen2.5-32b"
"""A dense model of about the paper's OPT-30b's size."""
Row = dict[str, Any]


@lru_cache
def _prices(model: str, per_token: int | None) -> Prices:
    target = load_model(model)
    if per_token is not None:
        target = replace(target, experts_per_token=per_token)
    draft = make_draft("model", target, published().drafts[published().sweep.model])
    latency = ComposedLatency(target, draft, make_kernels(load_gpu(GPU)), load_engine("ideal"))
    return Prices(latency, make_routing(target.experts, target.experts_per_token))


def curve(model: str, gamma: int, batches: Sequence[int], per_token: int | None = None) -> list[Row]:
    """Return speedup and target efficiency of *gamma* drafts of Qwen2-0.5B at each of *batches*.

    *per_token* experts are active, None for the model's own number. The speedup is at the paper's sigma for the gamma,
    None where it prints none; a verification holds gamma + 1 positions, as engines verify.
    """
    priced, tokens = _prices(model, per_token), published().tokens(gamma)
    rows = []
    for batch in batches:
        base, cost = (priced.cost(batch, k, CONTEXT) for k in (0, gamma))
        rows.append(
            {
                "model": model,
                "experts_per_token": per_token or load_model(model).experts_per_token,
                "gamma": gamma,
                "batch": batch,
                "speedup": None if tokens is None else tokens * base.seconds / cost.seconds,
                "target_efficiency": base.target_s / cost.target_s,
                "draft_over_decode": cost.draft_s / (gamma * base.target_s),
                "data_quality": cost.quality,
            }
        )
    return rows
