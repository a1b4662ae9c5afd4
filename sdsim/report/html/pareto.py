"""What a GPU serves against what a user sees: each policy a point, those that no other beats on a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sdsim.report.html.chart import Chart, Look, Trace, axis, plain, run_look, shortened
from sdsim.report.html.runs import Group, Line, names
from sdsim.report.numerals import number, with_interval
from sdsim.report.runs_table import interval
from sdsim.report.sheet import Column, Sheet

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
CAPTION = (
    "Output tokens/s per GPU against tokens/s per user, 1 / the median TPOT. Up and right is better; the dotted line "
    "joins the policies that no other beats in both."
)


class Point(NamedTuple):
    """One line's rates: tokens/s that its median user sees, and output tokens/s per GPU."""

    line: Line
    per_user: float
    per_gpu: float


def pareto_chart(groups: Sequence[Group]) -> Chart:
    """Return the chart of all lines that finished requests of two tokens or more."""
    points = [point for group in groups for line in group.lines for point in _points(line)]
    best = front(points)
    traces: list[Trace] = [_front(best)] if len(best) > 1 else []
    traces += [_marker(point) for point in points]
    words = "; ".join(
        f"{p.line.label} {number(p.per_user)} tokens/s per user at {number(p.per_gpu)} per GPU" for p in points
    )
    x, y = axis("tokens/s per user"), axis("output tokens/s per GPU")
    return Chart("pareto", "Throughput against speed", CAPTION, words, traces, x, y, _sheet(points, best), height=360)


def _points(line: Line) -> list[Point]:
    run = line.summary
    tpot, rate = run["tpot_s"]["p50"], run["output_tokens_per_gpu_s"]
    return [Point(line, 1 / tpot, rate)] if tpot and rate else []


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both rates, by ascending rate per user."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.per_user, -p.per_gpu)):
        if not best or point.per_gpu > best[-1].per_gpu:
            best.append(point)
    return best[::-1]


def _front(best: Sequence[Point]) -> Trace:
    x, y = [shortened(p.per_user) for p in best], [shortened(p.per_gpu) for p in best]
    line = {"color": "--text", "width": 1, "dash": "dot"}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip"}


def _marker(point: Point) -> Trace:
    run, look = point.line.summary, run_look(point.line.index)
    hover = f"{plain(point.line.label)}<br>%{{x:.4g}} tokens/s per user<br>%{{y:.4g}} per GPU<extra></extra>"
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [shortened(point.per_user)],
        "y": [shortened(point.per_gpu)],
        "marker": {"size": 11, "color": look.colour, "symbol": SYMBOLS[point.line.index % len(SYMBOLS)]},
        "meta": {"run": point.line.index},
        "hovertemplate": hover,
    }
    gpu, tpot = interval(run, "output_tokens_per_gpu_s"), interval(run, "tpot_s", "p50")
    if gpu:
        trace["error_y"] = _error(point.per_gpu, gpu[0], gpu[1], look)
    if tpot and tpot[0] > 0:
        trace["error_x"] = _error(point.per_user, 1 / tpot[1], 1 / tpot[0], look)
    return trace


def _error(middle: float, low: float, high: float, look: Look) -> dict[str, object]:
    ends = {"array": [shortened(high - middle)], "arrayminus": [shortened(middle - low)]}
    return {"type": "data", "symmetric": False, "color": look.colour, "thickness": 1.5, **ends}


def _sheet(points: Sequence[Point], best: Sequence[Point]) -> Sheet:
    stressed = frozenset(i for i, point in enumerate(points) if point in best)
    runs, key = [point.line.summary for point in points], "output_tokens_per_gpu_s"
    return Sheet(
        (
            replace(names([point.line for point in points]), stressed=stressed),
            Column("tokens/s per user", [number(float(point.per_user)) for point in points]),
            Column("output tokens/s per GPU", [with_interval(run[key], interval(run, key)) for run in runs]),
            Column("unbeaten", ["yes" if i in stressed else "no" for i in range(len(points))]),
        )
    )
