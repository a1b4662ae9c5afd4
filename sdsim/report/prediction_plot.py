"""Where speculation pays and why: speedup, target efficiency, and the parts of a step, over batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdsim.report import style
from sdsim.report.step_bars import Row, draw_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

TITLE, OFF_TITLE = "Where speculation pays, and what a step is made of", "What a step is made of"
CURVES = (
    ("speedup", "Speedup: above 1 pays", "tokens/s over OFF"),
    ("target_efficiency", "Target efficiency: at 1 verifying is free", "target time, OFF over K"),
)
MOST_MARKERS = 16


def plot_predict(rows: Sequence[Row], components: Sequence[Row], path: Path) -> None:
    """Draw the rows of `predict` into *path*, with the *components* of its steps: batch, draft_length, name -> s.

    Of several contexts the first is drawn, and the title says so.
    """
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    first = [row for row in rows if row["context"] == contexts[0]]
    drafts = sorted({row["draft_length"] for row in first} - {0})
    with style.picture(path, 8.4 if drafts else 4.4) as figure:
        which = "" if len(contexts) == 1 else f", the first of {len(contexts)}"
        style.head(figure, f"{TITLE if drafts else OFF_TITLE} (context {contexts[0]:,}{which})")
        *above, bars = figure.subfigures(2 if drafts else 1, 1, squeeze=False)[:, 0]
        for curves in above:
            _draw_curves(curves, first, drafts)
        draw_steps(bars, first, components)


def _draw_curves(figure: FigureBase, rows: Sequence[Row], drafts: Sequence[int]) -> None:
    panels = figure.subplots(1, 2)
    batches = sorted({row["batch"] for row in rows})
    for axes, (key, title, label) in zip(panels, CURVES, strict=True):
        for i, length in enumerate(drafts):
            values = {row["batch"]: row[key] for row in rows if row["draft_length"] == length}
            _draw_curve(axes, batches, [values[batch] for batch in batches], length, style.line_style(i))
        axes.axhline(1.0, color=style.GREY, linewidth=1)
        style.batch_axis(axes, batches)
        axes.set_title(title)
        axes.set_ylabel(label)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.2), "alignment": "left"}
        axes.legend(title="★ peak, and its batch", ncols=2, fontsize=8.5, handlelength=1.5, columnspacing=1.0, **place)


def _draw_curve(axes: Axes, batches: Sequence[int], values: Sequence[float], length: int, look: dict[str, Any]) -> None:
    peak = max(range(len(values)), key=values.__getitem__)
    marker = "o" if len(batches) <= MOST_MARKERS else ""
    label = f"K = {length}: {values[peak]:.2f} at {batches[peak]}"
    axes.plot(batches, values, marker=marker, markersize=3, label=label, **look)
    axes.plot(batches[peak], values[peak], "*", markersize=10, color=look["color"])
