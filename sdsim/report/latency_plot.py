"""Distributions of TTFT and TPOT over the requests offered, one line a policy, with the SLOs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdsim.metrics import Columns, latencies
from sdsim.policy import FloatArray
from sdsim.report import style
from sdsim.report.series import distribution_curve
from sdsim.report.timeline_plot import labels
from sdsim.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

TITLE = "Latency: further left is better (gap to 100%: unfinished)"
SHARE = 0.995
"""The TPOT axis ends where the slowest policy reaches this share of its requests."""


def plot_latencies(results: Sequence[Result], path: Path) -> None:
    """Draw the distributions of TTFT (logarithmic) and TPOT of *results* into *path*.

    Shares are of the requests offered: a line that ends below 100% left requests unfinished.
    """
    slo = results[0].scenario.slo
    with style.picture(path, 4.4) as figure:
        ttft_axes, tpot_axes = figure.subplots(1, 2, sharey=True)
        handles: list[Line2D] = []
        widest = 0.0
        for i, (name, result) in enumerate(zip(labels(results), results, strict=True)):
            ttft, tpot = offered_latencies(result.requests)
            look = style.line_style(i, len(results))
            ttft_axes.plot(*distribution_curve(ttft), **look)
            x, share = distribution_curve(tpot)
            (line,) = tpot_axes.plot(x, share, label=name, **look)
            widest = max(widest, float(x[np.searchsorted(share, SHARE * share[-1])]) if len(x) else 0.0)
            handles.append(line)
        ttft_axes.set_xscale("log")
        _finish(ttft_axes, "TTFT, time to first token", slo.ttft if slo else None)
        ttft_axes.xaxis.set_major_locator(_log_ticks(ttft_axes))
        _finish(tpot_axes, "TPOT, time per output token", slo.tpot if slo else None)
        tpot_axes.set_xlim(0, 1.05 * max(widest, (slo.tpot or 0.0) if slo else 0.0, 1e-3))
        ttft_axes.set_ylabel("share of requests offered")
        style.head(figure, TITLE, handles)


def offered_latencies(requests: Columns) -> tuple[FloatArray, FloatArray]:
    """Return TTFT and TPOT, s, infinite for requests that never got there; single tokens have no TPOT."""
    ttft, tpot, _ = latencies(requests)
    tpot = tpot[requests["output_tokens"] > 1]
    return np.nan_to_num(ttft, nan=np.inf), np.nan_to_num(tpot, nan=np.inf)


def _log_ticks(axes: Axes) -> LogLocator:
    """Return a tick a decade, two where three decades or less are shown, and three within a decade and a half."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_xlim()
    digits = (1.0,) if high > 1000 * low else (1.0, 3.0) if high > 30 * low else (1.0, 2.0, 5.0)
    return LogLocator(subs=digits)


def _finish(axes: Axes, title: str, slo_s: float | None) -> None:
    from matplotlib.ticker import EngFormatter, NullFormatter, PercentFormatter

    axes.set_title(title, pad=18)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if slo_s is not None:
        axes.axvline(slo_s, color=style.BLACK, linestyle="dashed", linewidth=1)
        above = axes.get_xaxis_transform()
        axes.text(slo_s, 1.01, f"SLO {EngFormatter('s')(slo_s)}", transform=above, ha="center", va="bottom")
