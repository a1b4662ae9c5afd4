"""Policies side by side, one row each; the best of each engine is marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdsim.report.numerals import number, percent, time_unit, times, with_interval
from sdsim.report.sheet import Column, Sheet

Summary = dict[str, Any]
MARK = " *"


def runs_sheet(runs: Sequence[Summary]) -> Sheet:
    """Return the table of *runs*; figures that no run has, such as goodput without an SLO, get no column."""
    best = best_rows(runs)
    names = [str(run["policy"]) + (MARK if i in best else "") for i, run in enumerate(runs)]
    keys = [Column("policy", names, best, names=True)]
    if len({run.get("engine") for run in runs}) > 1:
        keys.append(Column("engine", [str(run.get("engine")) for run in runs], best, names=True))
    figures = [*_latencies(runs), *_rates(runs, best), *_speculation(runs)]
    return Sheet((*keys, *figures), len(keys))


def best_figure(runs: Sequence[Summary]) -> str:
    """Return the figure that ranks *runs*: goodput where there are SLOs, else tokens/s per GPU."""
    has_slo = any(run["goodput_rps"] is not None for run in runs)
    return "goodput_rps" if has_slo else "output_tokens_per_gpu_s"


def best_rows(runs: Sequence[Summary]) -> frozenset[int]:
    """Return the rows with the highest figure of their engine; none where there is nothing to compare."""
    figure, best = best_figure(runs), set()
    for engine in {run.get("engine") for run in runs}:
        rows = [i for i, run in enumerate(runs) if run.get("engine") == engine and run[figure] is not None]
        if len(rows) > 1:
            best.add(max(rows, key=lambda i: float(runs[i][figure])))
    return frozenset(best)


def interval(run: Summary, *path: str) -> list[float] | None:
    """Return the 95% interval of the figure at *path*, or None for a single seed."""
    found: Any = run.get("ci95")
    for key in path:
        found = found and found.get(key)
    return list(found) if found else None


def _latencies(runs: Sequence[Summary]) -> list[Column]:
    columns = []
    for name in ("TTFT", "TPOT"):
        found = [run[f"{name.lower()}_s"] for run in runs]
        scale, unit = time_unit(d["p50"] for d in found)
        columns += [Column(f"{name} {p}\n{unit}", [times(d[p], scale) for d in found]) for p in ("p50", "p99")]
    return columns


def _rates(runs: Sequence[Summary], best: frozenset[int]) -> list[Column]:
    ranked = best_figure(runs)
    tokens, goodput = "output_tokens_per_gpu_s", "goodput_rps"

    def cells(figure: str) -> list[str]:
        return [with_interval(run[figure], interval(run, figure) if figure == ranked else None) for run in runs]

    columns = [Column("tok/s\n/GPU", cells(tokens), best if ranked == tokens else frozenset())]
    if ranked == goodput:
        columns += [
            Column("goodput\nreq/s", cells(goodput), best),
            Column("SLO\nmet", [percent(run["slo_attainment"]) for run in runs]),
        ]
    return columns


def _speculation(runs: Sequence[Summary]) -> list[Column]:
    columns = [
        Column("mean\nK", [number(run["speculation"]["mean_draft_length"], 2) for run in runs]),
        Column("accept.\nlength", [number(run["speculation"]["acceptance_length"], 2) for run in runs]),
        Column("mean\nbatch", [number(run["mean_batch"]) for run in runs]),
    ]
    if any(run["preemptions"] for run in runs):
        columns.append(Column("preemp-\ntions", [number(run["preemptions"]) for run in runs]))
    return columns
