"""The paper's tables, and its speedup curve from every source, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdsim.report import style
from sdsim.report.reproduction_figures import draw_dense, draw_experts, draw_gain, draw_sparsity
from sdsim.report.source_lines import draw_points, hollow_note, over_batch, source_look

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

Row = dict[str, Any]
MARKERS = "os^D"


def draw_reproduction(answer: Row, folder: Path, plots: str) -> None:
    """Draw *answer* into *folder*, in the format *plots*."""
    draw_tables(answer["tables"], folder / f"tables.{plots}")
    draw_sources(answer["sources"], folder / f"sources.{plots}")
    draw_experts(answer["experts"], folder / f"figure-1.{plots}")
    draw_gain(answer["sources"], answer["efficiency"], folder / f"figure-2.{plots}")
    draw_dense(answer["efficiency"], folder / f"figure-3.{plots}")
    draw_sparsity(answer["sparsity"], folder / f"figure-4.{plots}")


def draw_tables(tables: Row, path: Path) -> None:
    """Draw predicted over printed peak speedups, by device."""
    within, rows = tables["tolerance"], tables["rows"]
    ends = [0.95 * min(row["printed"] for row in rows), 1.05 * max(row["printed"] for row in rows)]
    title = f"Tables 1 and 2: {tables['within']} of {tables['cells']} peak speedups within {within:.0%} (grey)"
    with style.picture(path, 4.6) as figure:
        axes = figure.subplots()
        axes.fill_between(ends, [e * (1 - within) for e in ends], [e * (1 + within) for e in ends], color=style.PALE)
        axes.plot(ends, ends, color=style.GREY, linewidth=0.8)
        handles = []
        for i, device in enumerate(dict.fromkeys(row["device"] for row in rows)):
            mine = [row for row in rows if row["device"] == device]
            look = {"color": style.LINES[i], "marker": MARKERS[i % len(MARKERS)], "linestyle": "", "label": device}
            handles.append(draw_points(axes, mine, "printed", "predicted", look))
        axes.set_xlabel("printed peak speedup")
        axes.set_ylabel("predicted peak speedup")
        style.head(figure, title, handles)


def draw_sources(rows: Sequence[Row], path: Path) -> None:
    """Draw speedup over batch from every source, a panel a gamma."""
    gammas = sorted({row["gamma"] for row in rows})
    with style.picture(path, 5.0) as figure:
        panels = figure.subplots(1, len(gammas), sharey=True)
        handles: dict[str, Line2D] = {}
        for gamma, axes in zip(gammas, panels, strict=True):
            for source in dict.fromkeys(row["source"] for row in rows):
                mine = [row for row in rows if (row["source"], row["gamma"]) == (source, gamma)]
                if mine:
                    line = draw_points(axes, mine, "batch", "speedup", source_look(source, mine[0]["device"]))
                    handles.setdefault(source, line)
            over_batch(axes, rows)
            axes.set_title(f"gamma {gamma}")
        panels[0].set_ylabel("speedup over decoding without drafts")
        style.head(figure, f"One speedup curve from every source{hollow_note(rows)}", list(handles.values()))
