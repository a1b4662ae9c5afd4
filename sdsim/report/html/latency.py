"""Distributions of TTFT, TPOT, ITL and E2E, a line a policy, with the SLOs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sdsim.metrics import latencies
from sdsim.policy import FloatArray
from sdsim.report.html.bands import SHARES, mean_and_interval, quantiles
from sdsim.report.html.chart import Chart, Trace, axis, band, curve, plain, run_look, seconds_axis
from sdsim.report.html.runs import Group, Line, counted, names
from sdsim.report.numerals import number, time_unit, times, with_interval
from sdsim.report.run_block import STATISTICS
from sdsim.report.runs_table import interval
from sdsim.report.sheet import Column, Sheet
from sdsim.result import Result

TITLES = {
    "ttft_s": "TTFT: time to first token",
    "tpot_s": "TPOT: mean time per output token of a request",
    "itl_s": "ITL: gap between two arrivals of tokens",
    "e2e_s": "E2E: arrival to last token",
}
OFFERED = "Share of the requests offered; a line that ends below 100% left requests unfinished. Further left is better."
GAPS = "Share of the gaps. Further left is better."
PERCENT: dict[str, Any] = {"range": [0, 1], "tickformat": ".0%"}


def latency_charts(groups: Sequence[Group]) -> list[Chart]:
    """Return a chart a latency."""
    lines = [line for group in groups for line in group.lines]
    return [_chart(key, groups, lines) for key in TITLES]


def _chart(key: str, groups: Sequence[Group], lines: Sequence[Line]) -> Chart:
    traces = [trace for line in lines for trace in _traces(key, line)]
    name = key.removesuffix("_s")
    targets = {group.first.scenario.slo.model_dump().get(name) for group in groups if group.first.scenario.slo}
    layout = {"shapes": [_slo(target) for target in sorted(t for t in targets if t is not None)]}
    words = "; ".join(f"{line.label} {_spoken(line, key)}" for line in lines)
    slo = "".join(f" The dashed line is the SLO, {_time(t)}." for t in sorted(t for t in targets if t is not None))
    caption = (_gaps(lines) if key == "itl_s" else OFFERED) + slo
    x = seconds_axis(f"{name.upper()} (logarithmic)", *_reach(traces, targets))
    y = axis("share of gaps" if key == "itl_s" else "share of requests", **PERCENT)
    return Chart(name, TITLES[key], caption, words, traces, x, y, sheet(lines, key), layout=layout)


def _traces(key: str, line: Line) -> list[Trace]:
    values = line.over_seeds(lambda result: quantiles(*_values(key)(result)))
    mean, low, high = mean_and_interval(values)
    look = run_look(line.index)
    known = np.isfinite(mean) & (mean > 0)
    hover = {"hovertemplate": f"{plain(line.label)}<br>%{{y:.1%}} within %{{x}}<extra></extra>"}
    drawn = curve(mean[known], SHARES[known], line.label, look, **hover)
    edges = (np.maximum(low, mean / 10)[known], high[known])
    spread = [band(edges, (SHARES[known], SHARES[known]), look)] if len(values) > 1 else []
    return [*spread, drawn]


def _reach(traces: Sequence[Trace], targets: set[float | None]) -> tuple[float, float]:
    """Return the least and the largest time on the chart, s."""
    lines = [x for trace in traces if "fill" not in trace for x in trace["x"]]
    known = [x for x in (*lines, *targets) if x]
    low, high = (min(known), max(known)) if known else (0.01, 1.0)
    return low, max(high, 1.1 * low)


def _values(key: str) -> Callable[[Result], tuple[FloatArray, FloatArray]]:
    """Return what gives the values of a run and their weights; infinite for requests that never got there."""

    def requests(result: Result) -> tuple[FloatArray, FloatArray]:
        table = counted(result.requests, "arrival_s", result.scenario.warmup)
        values = dict(zip(("ttft_s", "tpot_s", "e2e_s"), latencies(table), strict=True))[key]
        if key == "tpot_s":
            values = values[table["output_tokens"] > 1]
        return np.nan_to_num(values, nan=np.inf), np.ones(len(values))

    def gaps(result: Result) -> tuple[FloatArray, FloatArray]:
        table = counted(result.steps, "start_s", result.scenario.warmup)
        return table["seconds"], table["regular_gaps"]

    return gaps if key == "itl_s" else requests


def _gaps(lines: Sequence[Line]) -> str:
    """Return the caption of the ITL; records hold no gaps of rows that sat a step out, so say how many they may be."""
    rows = sum(float(r.steps["rows"].sum()) for line in lines for r in line.results)
    kept = sum(float(r.steps["regular_gaps"].sum()) for line in lines for r in line.results)
    if rows == kept:
        return GAPS
    missing = f"{1 - kept / rows:.2%}, of rows that sat a step out"
    return f"{GAPS} The table counts every gap; the curves leave out {missing}."


def _slo(target: float) -> dict[str, object]:
    look = {"color": "--text", "width": 1, "dash": "dash"}
    return {"type": "line", "x0": target, "x1": target, "y0": 0, "y1": 1, "yref": "paper", "line": look}


def _spoken(line: Line, key: str) -> str:
    found = line.summary[key]
    return ", ".join(f"{name} {_time(found[name])}" for name in ("p50", "p99"))


def _time(seconds: float | None) -> str:
    scale, unit = time_unit([seconds])
    return "undefined" if seconds is None else f"{times(seconds, scale)} {unit}"


def sheet(lines: Sequence[Line], key: str) -> Sheet:
    """Return mean and percentiles of each line as its summary has them, with intervals."""
    summaries = [line.summary for line in lines]
    scale, unit = time_unit(s[key]["p50"] for s in summaries)
    columns = [names(lines)]
    for name in STATISTICS:
        cells = [
            number(None) if s[key][name] is None else with_interval(s[key][name], interval(s, key, name), scale)
            for s in summaries
        ]
        columns.append(Column(f"{name}, {unit}", cells))
    return Sheet(tuple(columns))
