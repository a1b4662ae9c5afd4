"""How sources look in the pictures of the reproduction: dots are measured, lines modelled, a colour an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdsim.report import style
from sdsim.reproduction.sources import ALGORITHM, EXECUTOR, PAPER, PRICES, engine_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Row = dict[str, Any]
TICKS = (1, 4, 16, 64, 256)
SIZE = 4.5


def source_look(source: str, device: str) -> dict[str, Any]:
    """Return the colour, line, marker and label of *source* on *device*."""
    looks: dict[str, dict[str, Any]] = {
        PAPER: {"color": style.BLACK, "marker": "o", "linestyle": "", "label": f"paper, {device}"},
        ALGORITHM: {"color": style.BLACK, "linestyle": style.DASHES[1], "label": f"Algorithm 1, {device}"},
        PRICES: {"color": style.BLUE, "label": f"our model, {device}"},
        EXECUTOR: {"color": style.BLUE, "marker": "s", "linestyle": "", "label": f"our executor, {device}"},
    }
    if source in looks:
        return looks[source]
    if source.startswith(engine_model("")):
        return {"color": style.VERMILLION, "linestyle": style.DASHES[3], "label": f"{source}"}
    return {"color": style.VERMILLION, "marker": "^", "linestyle": "", "label": f"{source}, {device}"}


def draw_points(axes: Axes, rows: Sequence[Row], x: str, y: str, look: dict[str, Any]) -> Line2D:
    """Draw *y* over *x* where there is one; rows whose `paired` is false as hollow dots. Return the line."""
    rows = [row for row in rows if row[y] is not None]
    hollow = [row for row in rows if row.get("paired") is False]
    solid = [row for row in rows if row.get("paired") is not False]
    look = {"markersize": SIZE} | look
    if hollow:
        axes.plot([r[x] for r in hollow], [r[y] for r in hollow], **look | {"markerfacecolor": "white"})
    (line,) = axes.plot([r[x] for r in solid], [r[y] for r in solid], **look)
    return line


def hollow_note(rows: Sequence[Row]) -> str:
    """Return what a title says of hollow dots, where *rows* have any."""
    moved = any(row["paired"] is False for row in rows)
    return " (hollow: OFF moved by its price)" if moved else ""


def over_batch(axes: Axes, rows: Sequence[Row]) -> None:
    """Make x an axis of the batches in *rows*, with a line where speculation neither gains nor loses."""
    style.batch_axis(axes, [tick for tick in TICKS if tick <= max(row["batch"] for row in rows)])
    axes.axhline(1.0, color=style.GREY, linewidth=1)
