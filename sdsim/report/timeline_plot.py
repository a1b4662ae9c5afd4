"""What policies did as the traffic moved: arrivals, decode batch, draft length and queue over simulated time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdsim.policy import FloatArray
from sdsim.report import style
from sdsim.report.series import arrivals_per_s, time_bins, time_mean
from sdsim.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

TITLE = "Draft length and batch as the traffic moves"
PANELS = {
    "arrivals": "Arrivals\nrequests/s",
    "batch": "Decode batch\nrows per replica",
    "draft_length": "Draft length K\ntokens",
    "waiting": "Waiting\nper replica",
}
LONG_S = 600.0


def plot_timeline(results: Sequence[Result], path: Path) -> None:
    """Draw panels over simulated time for one or several *results* of one scenario, a line each, into *path*."""
    edges = time_bins([r.requests for r in results], [r.steps for r in results])
    scale, unit = (60.0, "min") if edges[-1] >= LONG_S else (1.0, "s")
    with style.picture(path, 7.6) as figure:
        panels = figure.subplots(len(PANELS), 1, sharex=True, height_ratios=(2, 3, 3, 2))
        axes = dict(zip(PANELS, panels, strict=True))
        middles = (edges[1:] + edges[:-1]) / 2
        handles: list[Line2D] = []
        for i, (name, result) in enumerate(zip(labels(results), results, strict=True)):
            look = style.line_style(i, len(results))
            # A bin between idle ones has no neighbour to draw a line to: a dot narrower than the line shows it.
            look |= {"marker": "o", "markersize": 0.8 * look["linewidth"], "markeredgewidth": 0}
            for panel, values in curves(result, edges).items():
                (line,) = axes[panel].plot(middles / scale, values, label=name, **look)
            handles.append(line)
        _draw_arrivals(axes["arrivals"], results, edges, scale)
        for panel, label in PANELS.items():
            axes[panel].set_ylabel(label)
            axes[panel].set_ylim(0, max(axes[panel].get_ylim()[1], 0.0 if panel == "arrivals" else 1.0))
        panels[-1].set_xlabel(f"simulated time, {unit} (means over {np.diff(edges)[0]:.3g} s)")
        panels[-1].set_xlim(0, edges[-1] / scale)
        figure.align_ylabels()
        style.head(figure, TITLE, handles)


def curves(result: Result, edges: FloatArray) -> dict[str, FloatArray]:
    """Return means a replica: batch and draft length over the time of decode steps, waiting over that of all steps."""
    steps = result.steps
    decoding = (steps["rows"] > 0).astype(float)
    return {
        "batch": time_mean(steps, edges, steps["rows"], decoding),
        "draft_length": time_mean(steps, edges, steps["draft_length"], decoding),
        "waiting": time_mean(steps, edges, steps["waiting"], np.ones_like(decoding)),
    }


def labels(results: Sequence[Result]) -> list[str]:
    """Return a name for each of *results*: its policy, and its engine where they differ."""
    engines = {r.summary.get("engine") for r in results}
    return [r.policy + (f", {r.summary.get('engine')}" if len(engines) > 1 else "") for r in results]


def _draw_arrivals(axes: Axes, results: Sequence[Result], edges: FloatArray, scale: float) -> None:
    """Fill the arrivals once where all policies meet the same requests; closed loops differ, so a line each."""
    rates = [arrivals_per_s(r.requests, edges) for r in results]
    if all(np.allclose(rate, rates[0]) for rate in rates):
        axes.stairs(rates[0], edges / scale, fill=True, color=style.GREY)
        return
    for i, rate in enumerate(rates):
        axes.stairs(rate, edges / scale, baseline=None, **style.line_style(i, len(rates)))
