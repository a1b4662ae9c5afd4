"""What policies did as the batch grew, and at which batches they spent their time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sdsim.policy import FloatArray
from sdsim.report.html.bands import batch_edges, mean_and_interval, means_by_bin
from sdsim.report.html.chart import Chart, Trace, axis, axis_from_zero, curve, dots, plain, run_look, seeded_curve
from sdsim.report.html.runs import Group, Line, names
from sdsim.report.numerals import number, percent
from sdsim.report.sheet import Column, Sheet
from sdsim.result import Result

QUOTED = (1, 4, 16, 64, 256)
"""Batches that the table quotes."""
NEAR = 0.1
SHARES = (0.1, 0.5, 0.9)


def load_charts(groups: Sequence[Group]) -> list[Chart]:
    """Return the draft length and the time spent, by batch."""
    lines = [line for group in groups for line in group.lines]
    return [_by_batch(lines), _at_batch(lines)]


def batch_axis() -> dict[str, object]:
    """Return a logarithmic axis of batch sizes."""
    sizes = [2**i for i in range(14)]
    return axis("decode batch, rows per replica", log=True, tickvals=sizes, ticktext=[str(size) for size in sizes])


def _decoding(column: str) -> Callable[[Result], tuple[FloatArray, FloatArray, FloatArray]]:
    """Return what gives the batch, a column and the time of the steps that decode."""

    def of(result: Result) -> tuple[FloatArray, FloatArray, FloatArray]:
        steps = result.steps
        decode = steps["rows"] > 0
        return steps["rows"][decode], steps[column][decode], steps["seconds"][decode]

    return of


def _largest(lines: Sequence[Line]) -> int:
    return int(max(float(r.steps["rows"].max(initial=1)) for line in lines for r in line.results))


def _by_batch(lines: Sequence[Line]) -> Chart:
    """Draw the draft length chosen at each batch."""
    edges, of = batch_edges(_largest(lines)), _decoding("draft_length")
    middles = np.sqrt((edges[:-1] + 0.5) * (edges[1:] - 0.5))
    traces: list[Trace] = []
    means = []
    for line in lines:
        values = line.over_seeds(lambda result: means_by_bin(*of(result), edges))
        means.append(mean_and_interval(values)[0])
        known, look = np.isfinite(means[-1]), run_look(line.index)
        traces += seeded_curve(middles[known], values[:, known], line.label, look, **dots(look))
    columns = [names(lines)]
    columns += [Column(f"batch {size}", [number(_near(middles, mean, size)) for mean in means]) for size in QUOTED]
    words = "; ".join(f"{line.label} {_spoken(middles, mean)}" for line, mean in zip(lines, means, strict=True))
    caption = "Mean draft length of the steps with so many decode rows, weighted by their time."
    y, sheet = axis_from_zero("draft length K, tokens", traces), Sheet(tuple(columns))
    return Chart("by-batch", "Draft length over load", caption, words, traces, batch_axis(), y, sheet)


def _near(middles: FloatArray, mean: FloatArray, size: int) -> float | None:
    """Return the mean of the bin nearest to *size*, of those that are near and known."""
    known = np.flatnonzero(np.isfinite(mean) & (np.abs(np.log(middles / size)) < NEAR))
    return float(mean[known[np.argmin(np.abs(middles[known] - size))]]) if len(known) else None


def _spoken(middles: FloatArray, mean: FloatArray) -> str:
    known = np.flatnonzero(np.isfinite(mean))
    ends = list(dict.fromkeys([known[0], known[-1]])) if len(known) else []
    return " and ".join(f"K {mean[i]:.1f} at batch {middles[i]:.0f}" for i in ends) or "never decoded"


def _at_batch(lines: Sequence[Line]) -> Chart:
    """Draw the share of the decode time that was spent at or below each batch."""
    traces, reached = [], []
    for line in lines:
        sizes, share = _time_at(line)
        hover = f"{plain(line.label)}<br>%{{y:.0%}} of the time at %{{x}} rows or fewer<extra></extra>"
        trace = curve(sizes, share, line.label, run_look(line.index), hovertemplate=hover)
        trace["line"]["shape"] = "hv"
        traces.append(trace)
        found = [int(sizes[np.searchsorted(share, at)]) if len(sizes) else None for at in SHARES]
        reached.append([number(size) for size in found])
    columns = [names(lines)]
    columns += [Column(f"{percent(at)} of the time", [row[i] for row in reached]) for i, at in enumerate(SHARES)]
    words = "; ".join(f"{line.label} half of the time at {row[1]} rows or fewer"
                      for line, row in zip(lines, reached, strict=True))  # fmt: skip
    caption = "Share of the decode time spent at this batch or a smaller one: where the traffic lies on such axes."
    y, sheet = axis("share of decode time", range=[0, 1], tickformat=".0%"), Sheet(tuple(columns))
    return Chart("at-batch", "Time by batch", caption, words, traces, batch_axis(), y, sheet)


def _time_at(line: Line) -> tuple[FloatArray, FloatArray]:
    """Return the batches of *line*, all seeds together, and the share of its decode time at or below each."""
    parts = [_decoding("rows")(result) for result in line.results]
    batch, seconds = (np.concatenate([part[i] for part in parts]) for i in (0, 2))
    sizes, which = np.unique(batch, return_inverse=True)
    time: FloatArray = np.cumsum(np.bincount(which, seconds)) if len(sizes) else seconds
    return sizes, time / time[-1] if len(time) else time
