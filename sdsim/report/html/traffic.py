"""What policies did as the traffic moved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from sdsim.policy import FloatArray
from sdsim.report.html.bands import mean_and_interval
from sdsim.report.html.chart import Chart, Key, Look, Trace, axis, axis_from_zero, run_look, seeded_curve
from sdsim.report.html.runs import Group, Line, names
from sdsim.report.numerals import number
from sdsim.report.series import arrivals_per_s, time_bins
from sdsim.report.sheet import Column, Sheet
from sdsim.report.timeline_plot import LONG_S, curves
from sdsim.result import Result

OVER_TIME = {
    "draft_length": ("Draft length over time", "draft length K, tokens", "Mean over the time of decode steps"),
    "batch": ("Batch over time", "decode rows per replica", "Mean over the time of decode steps"),
    "waiting": ("Queue over time", "waiting requests per replica", "Mean over the time of all steps"),
}
EXTREMES = ("mean", "lowest", "highest")
BAND = "; the band is a 95% interval over seeds"


class Clock(NamedTuple):
    """Simulated time as the charts show it: bins of each group, s, and the units in a second."""

    edges: dict[str, FloatArray]
    scale: float
    unit: str

    def axis(self) -> dict[str, object]:
        """Return the axis of time."""
        longest = max(float(edges[-1]) for edges in self.edges.values())
        return axis(f"simulated time, {self.unit}", range=[0, longest * self.scale])

    def middles(self, group: Group) -> FloatArray:
        """Return the middles of the group's bins, as shown."""
        edges = self.edges[group.name]
        return (edges[1:] + edges[:-1]) / 2 * self.scale


def traffic_charts(groups: Sequence[Group]) -> list[Chart]:
    """Return the charts over simulated time."""
    edges = {g.name: time_bins([r.requests for r in g.results], [r.steps for r in g.results]) for g in groups}
    long = max(float(e[-1]) for e in edges.values()) >= LONG_S
    clock = Clock(edges, 1 / 60 if long else 1.0, "min" if long else "s")
    return [_arrivals(groups, clock), *(_panel(panel, groups, clock) for panel in OVER_TIME)]


def _arrivals(groups: Sequence[Group], clock: Clock) -> Chart:
    """Draw the arrivals that all policies of a group meet, or in a closed loop each line's own."""
    traces: list[Trace] = []
    keys, figures = [], []
    for group, line, key in _sources(groups):
        values = line.over_seeds(partial(_rates, edges=clock.edges[group.name]))
        traces += seeded_curve(clock.middles(group), values, key.label, key.look)
        keys.append(key)
        figures.append((float(values.mean()), float(values.mean(axis=0).max())))
    labels = Column("traffic", [key.label for key in keys], names=True)
    columns = [Column(f"{title}, requests/s", [number(f[i]) for f in figures]) for i, title in enumerate(EXTREMES[::2])]
    words = "; ".join(
        f"{key.label} mean {number(mean)}, highest {number(most)} requests/s"
        for key, (mean, most) in zip(keys, figures, strict=True)
    )
    width = np.diff(clock.edges[groups[0].name])[0]
    caption = f"Requests that arrive per second, means over {width:.3g} s{_banded(groups)}."
    y, sheet = axis_from_zero("arrivals, requests/s", traces), Sheet((labels, *columns))
    return Chart("arrivals", "Arrivals", caption, words, traces, clock.axis(), y, sheet, keys, 240)


def _sources(groups: Sequence[Group]) -> list[tuple[Group, Line, Key]]:
    found = []
    for i, group in enumerate(groups):
        if group.first.scenario.workload.kind == "closed":
            found += [(group, line, Key(line.label, run_look(line.index))) for line in group.lines]
        else:
            found.append((group, group.lines[0], Key(f"{group.name}, all policies", Look(f"--part-{(i + 3) % 7}"))))
    return found


def _rates(result: Result, edges: FloatArray) -> FloatArray:
    return arrivals_per_s(result.requests, edges)


def _banded(groups: Sequence[Group]) -> str:
    return BAND if any(len(line.results) > 1 for group in groups for line in group.lines) else ""


def _panel(panel: str, groups: Sequence[Group], clock: Clock) -> Chart:
    """Draw one of the curves that policies leave over time."""
    title, label, caption = OVER_TIME[panel]
    traces: list[Trace] = []
    lines, figures = [], []
    for group in groups:
        for line in group.lines:
            values = line.over_seeds(partial(_curve, panel=panel, edges=clock.edges[group.name]))
            traces += seeded_curve(clock.middles(group), values, line.label, run_look(line.index))
            lines.append(line)
            figures.append([number(x) for x in _extremes(values)])
    columns = [names(lines), *(Column(f"{e} {label}", [f[i] for f in figures]) for i, e in enumerate(EXTREMES))]
    words = "; ".join(
        f"{line.label} mean {mean}, from {low} to {high}"
        for line, (mean, low, high) in zip(lines, figures, strict=True)
    )
    y, sheet = axis_from_zero(label, traces), Sheet(tuple(columns))
    name = panel.replace("_", "-")
    return Chart(name, title, f"{caption}{_banded(groups)}.", words, traces, clock.axis(), y, sheet, height=260)


def _curve(result: Result, panel: str, edges: FloatArray) -> FloatArray:
    return curves(result, edges)[panel]


def _extremes(values: FloatArray) -> tuple[float | None, ...]:
    """Return mean, least and greatest of the means over seeds."""
    mean = mean_and_interval(values)[0]
    known = mean[np.isfinite(mean)]
    return (float(known.mean()), float(known.min()), float(known.max())) if len(known) else (None, None, None)
