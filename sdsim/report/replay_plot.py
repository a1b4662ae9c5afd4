"""What clients saw of replayed requests, measured and simulated, over the request rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdsim.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
TICKS = 6
PANELS = (("tpot_s", "p50", "TPOT p50"), ("tpot_s", "p90", "TPOT p90"), ("ttft_s", "p50", "TTFT p50"))


def plot_replays(groups: Sequence[tuple[str, Sequence[Row]]], path: Path) -> None:
    """Draw the replay rows of each (title, rows) into *path*: a row of panels each, a colour a draft length."""
    with style.picture(path, 3.2 * len(groups) + 0.8) as figure:
        style.head(figure, "Replayed requests: dots measured, lines simulated")
        panels = figure.subplots(len(groups), len(PANELS) + 1, squeeze=False)
        for (title, rows), axes in zip(groups, panels, strict=True):
            rates = sorted({row["rate"] for row in rows})
            for panel, (key, part, name) in zip(axes, PANELS, strict=False):
                _draw(panel, rows, lambda row, side, k=key, p=part: row[k][side][p])
                _finish(panel, name, "s", rates, log=key == "ttft_s")
            _draw(axes[-1], rows, lambda row, side: row["output_tokens_per_s"][side])
            _finish(axes[-1], "Throughput, tok/s", "", rates)
            axes[0].set_title(f"{title}\nTPOT p50")
            axes[0].legend(fontsize=8, handlelength=1)


def _draw(axes: Axes, rows: Sequence[Row], figure: Callable[..., float | None]) -> None:
    """Draw a figure of every draft length; one that is undefined leaves a gap."""
    for i, length in enumerate(sorted({row["draft_length"] for row in rows})):
        mine = sorted((r for r in rows if r["draft_length"] == length), key=lambda row: float(row["rate"]))
        colour = style.line_style(i)["color"]
        rates = [row["rate"] for row in mine]
        label = f"K = {length}" if length else "OFF"
        sides = [[figure(row, side) or math.nan for row in mine] for side in ("simulated", "measured")]
        axes.plot(rates, sides[0], color=colour, marker="_", label=label)
        axes.plot(rates, sides[1], "o", markersize=4, color=colour)


def _finish(axes: Axes, title: str, unit: str, rates: Sequence[float], log: bool = False) -> None:
    from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullLocator

    axes.set_title(title)
    axes.set_xlabel("requests/s")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(rates[:: math.ceil(len(rates) / TICKS)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(unit))
    axes.tick_params(labelsize=8)
