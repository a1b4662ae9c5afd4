"""Predicted against measured steps, and the speedups that both give, over batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdsim.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
BAND = 0.05
PANEL_IN = 3.9
MILLISECONDS = 1000.0
MARKERS = "os^"


def plot_steps(groups: Sequence[tuple[str, Sequence[Row]]], path: Path) -> None:
    """Draw the step rows of each (title, rows) into *path*: a row of panels each."""
    with style.picture(path, PANEL_IN * len(groups) + 0.5) as figure:
        style.head(figure, f"Predicted steps against measured ones (grey: within {BAND:.0%})")
        panels = figure.subplots(len(groups), 2, squeeze=False)
        for (title, rows), (left, right) in zip(groups, panels, strict=True):
            lengths = sorted({row["draft_length"] for row in rows})
            _draw_agreement(left, rows, lengths)
            left.set_title(title)
            if any(row["measured_speedup"] for row in rows if row["draft_length"]):
                _draw_speedups(right, rows, lengths)
            else:
                _draw_errors(right, rows, lengths)


def _draw_agreement(axes: Axes, rows: Sequence[Row], lengths: Sequence[int]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    ends = [MILLISECONDS * end(row["measured_s"] for row in rows) for end in (min, max)]
    ends = [0.8 * ends[0], 1.25 * ends[1]]
    axes.fill_between(ends, [e * (1 - BAND) for e in ends], [e * (1 + BAND) for e in ends], color=style.PALE)
    axes.plot(ends, ends, color=style.GREY, linewidth=0.8)
    for i, length in enumerate(lengths):
        mine = [row for row in rows if row["draft_length"] == length]
        xy = [[MILLISECONDS * row[k] for row in mine] for k in ("measured_s", "predicted_s")]
        axes.plot(*xy, alpha=0.8, label=_label(length), **_dots(i))
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("measured step, ms")
    axes.set_ylabel("predicted step, ms")
    axes.legend(fontsize=8.5, handlelength=1, loc="upper left")


def _draw_speedups(axes: Axes, rows: Sequence[Row], lengths: Sequence[int]) -> None:
    drafting = [row for row in rows if row["draft_length"] and row["measured_speedup"] is not None]
    for i, length in enumerate(lengths):
        mine = sorted((r for r in drafting if r["draft_length"] == length), key=lambda row: int(row["batch"]))
        batches = [row["batch"] for row in mine]
        axes.plot(batches, [r["predicted_speedup"] for r in mine], color=_dots(i)["color"], linewidth=1.3)
        axes.plot(batches, [r["measured_speedup"] for r in mine], **_dots(i))
    axes.axhline(1.0, color=style.GREY, linewidth=1)
    style.batch_axis(axes, sorted({row["batch"] for row in drafting}))
    axes.set_title("Speedup: dots measured, lines predicted")
    axes.set_ylabel("tokens/s over OFF")


def _draw_errors(axes: Axes, rows: Sequence[Row], lengths: Sequence[int]) -> None:
    from matplotlib.ticker import PercentFormatter

    for i, length in enumerate(lengths):
        mine = [row for row in rows if row["draft_length"] == length]
        axes.plot([r["batch"] for r in mine], [r["error"] for r in mine], **_dots(i))
    axes.axhspan(-BAND, BAND, color=style.PALE)
    axes.axhline(0.0, color=style.GREY, linewidth=0.8)
    style.batch_axis(axes, [2**i for i in range(max(row["batch"] for row in rows).bit_length())])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Error of each step")
    axes.set_ylabel("predicted over measured, less one")


def _dots(index: int) -> dict[str, Any]:
    """Return the look of the points of draft length *index*; 21 differ."""
    marker = MARKERS[index // len(style.LINES) % len(MARKERS)]
    return {"linestyle": "", "marker": marker, "markersize": 4, "color": style.line_style(index)["color"]}


def _label(length: int) -> str:
    return f"K = {length}" if length else "OFF"
