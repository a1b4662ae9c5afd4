"""Figures 1 to 4 of the paper, each beside this project's: priced and measured on an H200."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdsim.models import load_model
from sdsim.moesd import activated_experts
from sdsim.report import style
from sdsim.report.source_lines import draw_points, hollow_note, over_batch, source_look
from sdsim.reproduction.answer import GAMMA
from sdsim.reproduction.counts import RANDOM
from sdsim.reproduction.h200 import GPU
from sdsim.reproduction.published import published
from sdsim.reproduction.sources import ALGORITHM, EXECUTOR, PAPER, PRICES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Row = dict[str, Any]
MARKERS = "os^DvPX"
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128)


def draw_experts(experts: Row | None, path: Path) -> None:
    """Draw Figure 1: N(t) as a share of E; with counts also what models touch, as a share of N(t)."""
    counted = [row for row in experts["rows"] if row["kind"] != RANDOM] if experts else []
    with style.picture(path, 4.6) as figure:
        panels = figure.subplots(1, 2 if counted else 1, squeeze=False)[0]
        shapes = {(row["experts"], row["per_token"]) for row in counted} or _figure_1_shapes()
        handles = _draw_law(panels[0], sorted(shapes, key=lambda shape: shape[1] / shape[0]))
        if counted:
            panels[0].legend(handles=handles, fontsize=8.5, loc="lower right")
            handles = _draw_counted(panels[1], counted)
        title = (
            "Figure 1: distinct experts, counted and by independence"
            if counted
            else "Figure 1: distinct experts of eq. 8"
        )
        style.head(figure, title, handles)


def _figure_1_shapes() -> set[tuple[int, int]]:
    return {(shape["experts"], shape["experts_per_token"]) for shape in published().figure_1.values()}


def _draw_law(axes: Axes, shapes: Sequence[tuple[int, int]]) -> list[Line2D]:
    """Draw the share of E that N(t) is, a line each (E, k)."""
    lines = []
    for i, (experts, per_token) in enumerate(shapes):
        shares = activated_experts(TOKENS, experts, per_token) / experts
        lines += axes.plot(TOKENS, shares, label=f"{per_token} of {experts}", **style.line_style(i))
    style.batch_axis(axes, TOKENS)
    _as_percent(axes)
    axes.set_xlabel("tokens t")
    axes.set_ylabel("N(t), share of a layer's experts")
    axes.set_title("Independent routing (eq. 8)")
    return lines


def _draw_counted(axes: Axes, rows: Sequence[Row]) -> list[Line2D]:
    """Draw what was counted over N(t), dots a model."""
    lines = []
    for i, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
        mine = [row | {"share": row["measured"] / row["independent"]} for row in rows if row["model"] == model]
        look = {"color": style.line_style(i)["color"], "marker": MARKERS[i % len(MARKERS)], "linestyle": ""}
        lines.append(draw_points(axes, mine, "tokens", "share", look | {"label": model}))
    axes.axhline(1.0, color=style.GREY, linewidth=1)
    style.batch_axis(axes, TOKENS)
    _as_percent(axes)
    axes.set_xlabel("tokens t")
    axes.set_ylabel("counted, share of N(t)")
    axes.set_title("Counted in models (100%: independent)")
    return lines


def _as_percent(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))


def draw_gain(sources: Sequence[Row], efficiency: Sequence[Row], path: Path) -> None:
    """Draw Figure 2: speedup and target efficiency over batch."""
    longest = max(row["batch"] for row in efficiency)
    gains = [row for row in sources if row["gamma"] == GAMMA and row["batch"] <= longest]
    ours = [row for row in efficiency if row["model"] == published().sweep.model]
    with style.picture(path, 4.6) as figure:
        left, right = figure.subplots(1, 2)
        handles = _draw_all(left, gains, (PAPER, ALGORITHM, PRICES, EXECUTOR), "speedup")
        _draw_all(right, ours, (ALGORITHM, PRICES, EXECUTOR), "target_efficiency")
        left.set_title("Speedup")
        left.set_ylabel("tokens/s over decoding without drafts")
        _efficiency_axis(right)
        right.set_title("Target efficiency: at 1 verifying is free")
        style.head(figure, f"Figure 2: gamma {GAMMA}{hollow_note(gains)}", handles)


def _draw_all(axes: Axes, rows: Sequence[Row], sources: Sequence[str], y: str) -> list[Line2D]:
    lines = []
    for source in sources:
        mine = [row for row in rows if row["source"] == source]
        if mine:
            lines.append(draw_points(axes, mine, "batch", y, source_look(source, _device(source))))
    over_batch(axes, rows)
    return lines


def _device(source: str) -> str:
    return published().sweep.device if source in (PAPER, ALGORITHM) else GPU


def _efficiency_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.1)
    axes.set_ylabel("target time, without drafts over verifying")


def draw_dense(rows: Sequence[Row], path: Path) -> None:
    """Draw Figure 3: target efficiency of a MoE and of a dense model; dots are of this project's executor."""
    with style.picture(path, 4.4) as figure:
        axes = figure.subplots()
        handles = []
        for i, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
            look = style.line_style(i)
            kind = "MoE" if load_model(model).experts else "dense"
            for source in (PRICES, EXECUTOR):
                mine = [row for row in rows if (row["model"], row["source"]) == (model, source)]
                how = {"label": f"{model} ({kind}), {source}, {GPU}"}
                if source == EXECUTOR:
                    how |= {"marker": MARKERS[i], "linestyle": ""}
                if mine:
                    handles.append(draw_points(axes, mine, "batch", "target_efficiency", look | how))
        over_batch(axes, rows)
        _efficiency_axis(axes)
        style.head(figure, f"Figure 3: sparse against dense, gamma {GAMMA} (dots at contexts of their own)", handles)


def _not_measured(rows: Sequence[Row]) -> str:
    """Return which prices lie outside what was measured."""
    outside = sorted({row["experts_per_token"] for row in rows if row["data_quality"]["extrapolated"] > 0})
    return f" (ours extrapolated at {', '.join(map(str, outside))})" if outside else ""


def draw_sparsity(rows: Sequence[Row], path: Path) -> None:
    """Draw Figure 4: speedup over batch, a panel each number of experts per token, a colour a gamma."""
    sparsities, gammas = sorted({row["experts_per_token"] for row in rows}), sorted({row["gamma"] for row in rows})
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "paper": ("paper", {"marker": "o", "linestyle": "", "markersize": 3}),
        "algorithm_1": ("Algorithm 1", {"linestyle": style.DASHES[1]}),
        "our_model": (f"our model, {GPU}", {}),
    }
    with style.picture(path, 6.6) as figure:
        panels = figure.subplots(2, -(-len(sparsities) // 2), sharex=True, sharey=True).flat
        handles: dict[str, Line2D] = {}
        for k, axes in zip(sparsities, panels, strict=False):
            for i, gamma in enumerate(gammas):
                mine = [row for row in rows if (row["experts_per_token"], row["gamma"]) == (k, gamma)]
                for key, (name, look) in ways.items():
                    if any(row[key] is not None for row in mine):
                        label = f"{name}, gamma {gamma}"
                        look = look | {"color": style.LINES[i], "label": label}
                        handles.setdefault(label, draw_points(axes, mine, "batch", key, look))
            over_batch(axes, rows)
            axes.set_xlabel("")
            axes.set_title(f"{k} of {load_model(published().sweep.model).experts} experts")
        figure.supxlabel("batch, sequences", size=9.5)
        figure.supylabel("speedup over decoding without drafts", size=9.5)
        style.head(figure, f"Figure 4: the same model, sparser and denser{_not_measured(rows)}", list(handles.values()))
