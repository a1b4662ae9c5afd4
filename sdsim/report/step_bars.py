"""The parts of predicted steps as stacked bars, OFF beside the longest draft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdsim.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

Row = dict[str, Any]
Part = Mapping[str, float]
"""Component -> s."""

MILLISECONDS = 1000.0
MOST_BARS, MOST_TICKS, FEWEST_PLACES = 16, 6, 4
SMALLEST_SHARE = 0.01
"""Components below this share of every bar are drawn as one."""
OTHER = "other"
LOOKS = {
    "attention_projections": (style.SKY, ""),
    "attention": (style.BLUE, ""),
    "router": (style.VERMILLION, "...."),
    "experts": (style.VERMILLION, ""),
    "shared_expert": (style.VERMILLION, "////"),
    "dense_ffn": (style.VERMILLION, "xxxx"),
    "norms": (style.GREEN, "...."),
    "lm_head": (style.GREEN, ""),
    "collectives": (style.PURPLE, ""),
    "launch_gaps": (style.GREY, ""),
    "sampling": (style.GREEN, "////"),
    "draft": (style.ORANGE, ""),
    "host": (style.YELLOW, ""),
    OTHER: (style.PALE, ""),
}
"""Colour and hatch of each component, from the bottom of the bar: the same in every picture."""


def draw_steps(figure: FigureBase, rows: Sequence[Row], components: Sequence[Row]) -> None:
    """Draw a panel for OFF and one for the longest draft of *components*, and mark what whole steps of *rows* take."""
    parts = parts_of(components)
    lengths = sorted({length for _, length in parts})
    batches = style.spread_evenly(sorted({batch for batch, _ in parts}), MOST_BARS)
    shown = {length: [parts[batch, length] for batch in batches] for length in (lengths[0], lengths[-1])}
    names = visible([part for bars in shown.values() for part in bars])
    merged = {length: [merge(part, names) for part in bars] for length, bars in shown.items()}
    labelled = visible([part for bars in merged.values() for part in bars])
    wholes = {(row["batch"], row["draft_length"]): row["step_s"] for row in rows}
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (length, bars) in zip(panels, shown.items(), strict=True):
        _draw_bars(axes, merged[length], labelled)
        _mark_wholes(axes, [sum(part.values()) for part in bars], [wholes[batch, length] for batch in batches])
        ticked = [batches.index(batch) for batch in style.spread_evenly(batches, MOST_TICKS)]
        axes.set_xticks(ticked, [str(batches[i]) for i in ticked])
        axes.set_xlim(-0.6, max(len(batches), FEWEST_PLACES) - 0.4)
        axes.set_xlabel("batch, sequences")
        axes.set_title(f"Step at K = {length}" if length else "Step at OFF")
    panels[0].set_ylabel("step time, ms")
    handles, texts = panels[-1].get_legend_handles_labels()
    figure.legend(handles[::-1], texts[::-1], loc="outside right upper")


def parts_of(components: Sequence[Row]) -> Mapping[tuple[int, int], Part]:
    """Return the components by (batch, draft length); of several contexts, those of the first."""
    parts: dict[tuple[int, int], dict[str, float]] = {}
    for row in components:
        times = {name: s for name, s in row.items() if name not in ("batch", "draft_length", "context")}
        parts.setdefault((row["batch"], row["draft_length"]), times)
    return parts


def visible(bars: Sequence[Part]) -> list[str]:
    """Return the components that reach the smallest share of some bar, in their order of LOOKS."""
    large = {name for part in bars for name, s in part.items() if s > SMALLEST_SHARE * sum(part.values())}
    return [*(name for name in LOOKS if name in large), *sorted(large - set(LOOKS))]


def merge(part: Part, names: Sequence[str]) -> dict[str, float]:
    """Return the times of *names*, and of all else under one name."""
    merged = {name: part.get(name, 0.0) for name in names}
    merged[OTHER] = merged.get(OTHER, 0.0) + sum(s for name, s in part.items() if name not in names)
    return merged


def _draw_bars(axes: Axes, bars: Sequence[Part], labelled: Sequence[str]) -> None:
    bottom = [0.0] * len(bars)
    for name in bars[0]:
        heights = [MILLISECONDS * part[name] for part in bars]
        colour, hatch = LOOKS.get(name, LOOKS[OTHER])
        look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}
        label = name.replace("_", " ") if name in labelled else None
        axes.bar(range(len(bars)), heights, 0.85, bottom, label=label, **look)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.grid(visible=False, axis="x")


def _mark_wholes(axes: Axes, sums: Sequence[float], wholes: Sequence[float]) -> None:
    """Mark how long whole steps take where the parts overlap, as host work does."""
    if any(abs(whole - total) > SMALLEST_SHARE * total for whole, total in zip(wholes, sums, strict=True)):
        heights = [MILLISECONDS * whole for whole in wholes]
        axes.plot(range(len(wholes)), heights, "_k", markersize=12, label="whole step")
