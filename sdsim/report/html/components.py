"""Where the time of a step goes, a stacked bar a policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.breakdown import MOMENTS, PARTS, time_by_part
from sdsim.report.html.chart import Chart, Key, Look, axis, numbers, plain
from sdsim.report.html.runs import Group, Line, names
from sdsim.report.numerals import number, percent
from sdsim.report.sheet import Column, Sheet
from sdsim.simulation import make_system

MS = 1000.0
FEWEST = 100
"""Moments of a run that are priced, of however many seeds."""
SAID = {
    "attention": "attention and its projections",
    "experts": "experts: router, routed, shared, dense layers",
    "head and norms": "head and norms",
    "verify": "verify: sampling and rejection",
    "draft": "draft: all passes of the drafter",
    "collectives": "collectives",
    "overhead": "overhead: launches and host",
}
CAPTION = (
    "Mean time of a step of the scenario's own replicas, prompts included. Recomputed from the recorded steps through "
    "the latency model; attention takes what is left of the recorded time, so the parts add up to it."
)


def component_chart(groups: Sequence[Group]) -> Chart:
    """Return the parts of the mean step of every line; seeds count alike."""
    lines = [line for group in groups for line in group.lines]
    parts = [mean_parts(line) for line in lines]
    shown = [part for part in PARTS if any(found[part] > 0 for found in parts)]
    labels = [plain(line.label) for line in lines]
    keys = [Key(SAID[part], Look(f"--part-{list(PARTS).index(part)}")) for part in shown]
    traces = []
    for i, part in enumerate(shown):
        ms = numbers(np.array([MS * found[part] for found in parts]))
        bars = {"type": "bar", "orientation": "h", "y": labels, "x": ms, "name": part}
        hover = f"{part}<br>%{{x:.3g}} ms of %{{y}}<extra></extra>"
        marker, meta = {"color": keys[i].look.colour}, {"runs": [line.index for line in lines]}
        traces.append({**bars, "marker": marker, "hovertemplate": hover, "meta": meta})
    words = "; ".join(f"{line.label} {_spoken(found)}" for line, found in zip(lines, parts, strict=True))
    y = {"automargin": True, "autorange": "reversed", "type": "category", "showgrid": False}
    layout = {"barmode": "stack", "bargap": 0.3}
    sheet, x, height = _sheet(lines, parts, shown), axis("mean step, ms"), 90 + 30 * len(lines)
    return Chart("components", "Step time by component", CAPTION, words, traces, x, y, sheet, keys, height, layout)


def mean_parts(line: Line) -> dict[str, float]:
    """Return the mean over seeds of the seconds of a step in each part."""
    system = make_system(line.results[0].scenario)
    moments = max(MOMENTS // len(line.results), FEWEST)
    found = [time_by_part(result, system, moments) for result in line.results]
    return {part: float(np.mean([one[part] for one in found])) for part in PARTS}


def _spoken(found: dict[str, float]) -> str:
    total = sum(found.values())
    if not total:
        return "took no step"
    shares = ", ".join(f"{part} {percent(found[part] / total)}" for part in found if found[part] >= 0.01 * total)
    return f"{number(MS * total)} ms: {shares}"


def _sheet(lines: Sequence[Line], parts: Sequence[dict[str, float]], shown: Sequence[str]) -> Sheet:
    columns = [names(lines), Column("step, ms", [number(MS * sum(found.values())) for found in parts])]
    columns += [Column(f"{part}, ms", [number(MS * found[part]) for found in parts]) for part in shown]
    return Sheet(tuple(columns))
