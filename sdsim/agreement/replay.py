"""Replayed requests against the same requests simulated on one replica: TPOT, TTFT and throughput of each rate.

Synthetic acceptance in an engine has unconditional rates alpha^(i + 1) per position, which is an independent
conditional alpha: the law that is simulated, with other coins. So several seeds are simulated, and their requests
pooled: the chance that is left in an error is the measurement's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdsim.agreement.figures import relative_error
from sdsim.agreement.setting import Setting
from sdsim.measurements import Replay
from sdsim.metrics import Columns, distribution, latencies, ratio
from sdsim.pools import replica_blocks
from sdsim.result import Result
from sdsim.simulation import simulate
from sdsim.statistics import mean_summary

SEEDS = range(5)
SHORTEST = 8
"""Requests of at most so many tokens have no TPOT worth the name."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """What clients saw: distributions in s, throughput in output tokens/s."""

    tpot_s: dict[str, float | None]
    ttft_s: dict[str, float | None]
    output_tokens_per_s: float | None


def client_figures(runs: Sequence[Columns], shortest: int = SHORTEST) -> Figures:
    """Return the figures of *runs*' finished requests, pooled; TPOT of those of more than *shortest* tokens."""
    done = [{k: v[~np.isnan(run["finish_s"])] for k, v in run.items()} for run in runs]
    pooled = {k: np.concatenate([run[k] for run in done]) for k in done[0]}
    ttft, tpot, _ = latencies(pooled)
    spans = [float(run["finish_s"].max() - run["arrival_s"].min()) if len(run["finish_s"]) else 0.0 for run in done]
    rate = ratio(float(pooled["output_tokens"].sum()), sum(spans))
    return Figures(distribution(tpot[pooled["output_tokens"] > shortest]), distribution(ttft), rate)


def compared(measured: Figures, simulated: Figures) -> Row:
    """Return each figure measured, simulated, and the error."""

    def both(theirs: dict[str, float | None], ours: dict[str, float | None]) -> Row:
        errors = {k: relative_error(ours[k], theirs[k]) for k in theirs}
        return {"measured": theirs, "simulated": ours, "error": errors}

    theirs, ours = measured.output_tokens_per_s, simulated.output_tokens_per_s
    return {
        "tpot_s": both(measured.tpot_s, simulated.tpot_s),
        "ttft_s": both(measured.ttft_s, simulated.ttft_s),
        "output_tokens_per_s": {"measured": theirs, "simulated": ours, "error": relative_error(ours, theirs)},
    }


def replay_row(replay: Replay, setting: Setting, seeds: Sequence[int] = SEEDS) -> Row:
    """Simulate *replay*'s own requests under its limits, and compare. Raises SdsimError for what a user can mend."""
    r = replay.record
    with tempfile.TemporaryDirectory() as folder:
        trace = _write_trace(replay, Path(folder))
        workload = {"kind": "trace", "format": "jsonl", "path": str(trace)}
        scenario = setting.scenario(r, replay.max_num_seqs, workload, f"replay of {r.model} at {r.rate:g}/s")
        system = setting.system(scenario, r)
        blocks = replica_blocks(scenario, system, system.draft if r.draft_length else None, r.draft_length)
        chosen = seeds if r.draft_length else seeds[:1]
        results = [simulate(scenario, seed=seed, system=system) for seed in chosen]
    return {
        "model": r.model,
        "draft": setting.draft_alias(r),
        "engine": setting.engine_label(r),
        "gpu": setting.gpu_of(r),
        "draft_length": r.draft_length,
        "rate": r.rate,
        "requests": len(replay),
        "saturated": replay.saturated,
        **compared(client_figures([_as_run(replay)]), client_figures([r.requests for r in results])),
        "kv_blocks": {"measured": r.kv_blocks, "simulated": blocks},
        **_run_facts(results),
    }


def _write_trace(replay: Replay, folder: Path) -> Path:
    columns = (replay.requests[k] for k in ("arrival_s", "prompt_tokens", "output_tokens"))
    lines = [
        json.dumps({"arrival_s": a, "prompt_tokens": int(p), "output_tokens": int(o)})
        for a, p, o in zip(*(c.tolist() for c in columns), strict=True)
    ]
    path = folder / "requests.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _as_run(replay: Replay) -> Columns:
    """Return the measured requests with the columns of a run: what was emitted counts."""
    return replay.requests | {"output_tokens": replay.requests["got_tokens"]}


def _run_facts(results: Sequence[Result]) -> Row:
    """Return what the engine did, a mean over seeds."""
    summary = mean_summary([result.summary for result in results])
    return {k: summary[k] for k in ("mean_batch", "preemptions", "simulated_s", "data_quality")}
