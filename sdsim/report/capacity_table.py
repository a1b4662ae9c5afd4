"""Capacities by policy with their intervals, and operating points with their Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.numerals import DASH, number, percent, with_interval
from sdsim.report.runs_table import MARK
from sdsim.report.sheet import HEADING, Column, Sheet

Rows = Sequence[Mapping[str, Any]]


def print_capacity(console: Console, answer: Mapping[str, Any], title: str) -> None:
    """Print the capacity of each policy, and how far it is from the best."""
    runs = answer["runs"]
    console.print(Text(title, style=HEADING))
    console.print()
    cells = [with_interval(run["capacity_rps"], run["ci95"]) for run in runs]
    short = [DASH if run["to_best"] is None else f"{run['to_best']:+.1%}{_span(run['to_best_ci95'])}" for run in runs]
    best = frozenset([max(range(len(runs)), key=lambda i: runs[i]["capacity_rps"] or 0.0)] if len(runs) > 1 else [])
    columns = _keys(runs, best)
    figures = [
        Column("capacity\nreq/s", cells, best),
        Column("against\nthe best", short),
        Column("simu-\nlations", [number(run["simulations"]) for run in runs]),
    ]
    Sheet((*columns, *figures), len(columns)).show(console)
    share = f"{answer['slo_attainment']:.4g}"
    width = f"{answer['tolerance']:.1%}"
    lines = [f"capacity: the highest mean arrival rate at which a share of {share} meets every SLO, to {width}"]
    lines += ["± half a 95% interval over seeds"] if any(run["ci95"] for run in runs) else []
    for line in [*lines, *answer["notes"]]:
        console.print(Text(line, style="dim"), soft_wrap=True)


def print_front(console: Console, answer: Mapping[str, Any], title: str) -> None:
    """Print the operating points; those on the front are marked."""
    points = answer["points"]
    front = frozenset(i for i, point in enumerate(points) if point["on_front"])
    console.print(Text(title, style=HEADING))
    console.print()
    figures = (
        ("arrivals\nreq/s", "rate_rps", number),
        ("tok/s\n/GPU", "output_tokens_per_gpu_s", number),
        ("tok/s\n/user", "output_tokens_per_user_s", number),
        ("goodput\nreq/s", "goodput_rps", number),
        ("SLO\nmet", "slo_attainment", percent),
    )
    columns = _keys(points, front)
    shown = [Column(head, [write(p[key]) for p in points], front) for head, key, write in figures]
    Sheet((*columns, *shown), len(columns)).show(console)
    console.print(Text("* on the front: none has as much of tok/s/GPU and tok/s/user, and more of one", style="dim"))


def _keys(rows: Rows, marked: frozenset[int]) -> list[Column]:
    names = [f"{row['policy']}{MARK if i in marked else ''}" for i, row in enumerate(rows)]
    keys = [Column("policy", names, marked, names=True)]
    if len({row["engine"] for row in rows}) > 1:
        keys.append(Column("engine", [row["engine"] for row in rows], marked, names=True))
    return keys


def _span(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f" ({ends[0]:+.1%} to {ends[1]:+.1%})"
