"""From records to a summary: the figures that `--json` prints, with the contract's keys.

TTFT = first token - arrival. TPOT = (finish - first token) / (tokens - 1), requests of two tokens or more. ITL: each
gap between the chunks of tokens that a client sees. E2E = finish - arrival. Goodput counts requests that meet every
SLO; attainment is their share of the offered ones. What is undefined is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdsim.policy import FloatArray

Columns = dict[str, FloatArray]
PERCENTILES = (50, 90, 99)


Target = float | FloatArray | None
"""Seconds, or an entry a class (infinity: none); None: no target."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Targets a request must meet, s."""

    ttft: Target = None
    tpot: Target = None
    e2e: Target = None


def slo_of(spec: Any, classes: Mapping[str, Any], names: Sequence[str]) -> Slo | None:
    """Return the targets of a scenario: *spec*'s (ttft, tpot, e2e), or a class's own where *classes* give it any.

    *names* are the classes in the order of their numbers. None if nothing has a target.
    """
    own = {name: one.slo for name, one in classes.items() if one.slo is not None}
    if not own:
        return Slo(spec.ttft, spec.tpot, spec.e2e) if spec else None

    def target(figure: str) -> Target:
        seconds = [getattr(own.get(name, spec), figure, None) for name in names]
        return np.array([math.inf if one is None else one for one in seconds])

    return Slo(target("ttft"), target("tpot"), target("e2e"))


def ratio(part: float, whole: float) -> float | None:
    """Return part / whole, or None for nothing of nothing."""
    return part / whole if whole else None


def distribution(values: FloatArray) -> dict[str, float | None]:
    """Return mean, p50, p90 and p99 (numpy's linear percentiles) of *values*."""
    if not len(values):
        return {"mean": None, **{f"p{p}": None for p in PERCENTILES}}
    found = np.percentile(values, PERCENTILES)
    return {"mean": float(values.mean()), **{f"p{p}": float(x) for p, x in zip(PERCENTILES, found, strict=True)}}


def weighted_distribution(values: FloatArray, counts: FloatArray) -> dict[str, float | None]:
    """Return the distribution of *values* each repeated *counts* times, without repeating them."""
    total = int(counts.sum())
    if not total:
        return distribution(np.empty(0))
    order = np.argsort(values, kind="stable")
    ranked, ends = values[order], np.cumsum(counts[order])

    def at(rank: float) -> float:
        low = int(rank)
        below, above = (float(ranked[np.searchsorted(ends, r, side="right")]) for r in (low, min(low + 1, total - 1)))
        return below + (rank - low) * (above - below)

    # not np.dot: over long arrays it runs on every core, and its last digits would follow their number
    mean = float((values * counts).sum() / total)
    return {"mean": mean, **{f"p{p}": at(p / 100 * (total - 1)) for p in PERCENTILES}}


def latencies(requests: Columns) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return TTFT, TPOT and E2E per request, s; NaN where not defined."""
    ttft = requests["first_token_s"] - requests["arrival_s"]
    gaps = requests["output_tokens"] - 1
    span = requests["finish_s"] - requests["first_token_s"]
    tpot = np.divide(span, gaps, out=np.full_like(span, np.nan), where=gaps > 0)
    return ttft, tpot, requests["finish_s"] - requests["arrival_s"]


def meets(slo: Slo, requests: Columns) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which requests finished within every target; a single token has no TPOT to miss."""
    ttft, tpot, e2e = latencies(requests)
    met = ~np.isnan(requests["finish_s"])
    for values, target in ((ttft, slo.ttft), (tpot, slo.tpot), (e2e, slo.e2e)):
        if isinstance(target, np.ndarray):
            target = target[requests["request_class"].astype(np.int64)]
        if target is not None:
            met &= ~(values > target)
    return met


def itl(steps: Columns, irregular: FloatArray) -> dict[str, float | None]:
    """Return the inter-token latency: a step's duration for each row that also emitted in the step before."""
    values = np.concatenate([steps["seconds"], irregular])
    return weighted_distribution(values, np.concatenate([steps["regular_gaps"], np.ones(len(irregular))]))


def speculation(steps: Columns) -> dict[str, float | None]:
    """Return what drafting did: lengths over decode rows, acceptance over verified drafts, shares over time."""
    rows, drafts = float(steps["rows"].sum()), float((steps["verify_tokens"] - steps["rows"]).sum())
    accepted = float(steps["accepted_tokens"].sum())
    emitted = float((steps["emitted_tokens"] - steps["first_tokens"]).sum())
    off = float(steps["seconds"][steps["draft_length"] == 0].sum())
    return {
        "mean_draft_length": ratio(drafts, rows),
        "acceptance_length": ratio(emitted, rows),
        "acceptance_rate": ratio(accepted, drafts),
        "wasted_fraction": (drafts - accepted) / drafts if drafts else 0.0,
        "off_fraction": ratio(off, float(steps["seconds"].sum())),
    }


def summarise(
    requests: Columns, steps: Columns, irregular: FloatArray, slo: Slo | None, gpus: float, warmup_s: float = 0.0
) -> dict[str, Any]:
    """Return the summary of one run. Requests that arrive and steps that start before *warmup_s* are left out.

    The *irregular* gaps are those of the steps that count.
    """
    requests = {k: v[requests["arrival_s"] >= warmup_s] for k, v in requests.items()}
    steps = {k: v[steps["start_s"] >= warmup_s] for k, v in steps.items()}
    done = ~np.isnan(requests["finish_s"])
    finished = {k: v[done] for k, v in requests.items()}
    ttft, tpot, e2e = latencies(requests)
    span = float(finished["finish_s"].max() - requests["arrival_s"].min()) if done.any() else 0.0
    rate = ratio(float(finished["output_tokens"].sum()), span)
    met = int(meets(slo, requests).sum()) if slo else 0
    decoding = steps["rows"] > 0
    experts = steps["distinct_experts"][steps["distinct_experts"] > 0]
    return {
        "requests": {"offered": len(done), "finished": int(done.sum()), "unfinished": int((~done).sum())},
        "ttft_s": distribution(ttft[~np.isnan(ttft)]),
        "tpot_s": distribution(tpot[~np.isnan(tpot)]),
        "itl_s": itl(steps, irregular),
        "e2e_s": distribution(e2e[~np.isnan(e2e)]),
        "output_tokens_per_s": rate,
        "output_tokens_per_gpu_s": None if rate is None else rate / gpus,
        "goodput_rps": ratio(met, span) if slo else None,
        "slo_attainment": ratio(met, len(done)) if slo else None,
        "speculation": speculation(steps),
        "moe": {"distinct_experts_mean": float(experts.mean()) if len(experts) else None},
        "preemptions": int(requests["preemptions"].sum()),
        "steps": len(decoding),
        "mean_batch": float(steps["rows"][decoding].mean()) if decoding.any() else None,
    }
