"""One chart of the page: its traces for plotly.js, the words that stand for it, and the table of its numbers.

Colours are names of the page's custom properties, such as `--run-0`, which the page resolves for its theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np

from sdsim.policy import FloatArray
from sdsim.report import style
from sdsim.report.html.bands import mean_and_interval
from sdsim.report.sheet import Sheet

DASHES = ("solid", "dash", "dot", "dashdot")
SIGNIFICANT = 5
TICKS = {
    0.44: (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0),
    0.66: (1.0, 2.0, 3.0, 5.0, 7.0),
    1.37: (1.0, 2.0, 5.0),
    2.3: (1.0, 3.0),
    math.inf: (1.0,),
}
"""Decades that a logarithmic axis stays below -> the digits at which it has ticks: labels apart on 220 pixels."""
WIDEST_BAND = 2.0
"""Times the highest line, to which an axis makes room for intervals."""
Trace = dict[str, Any]


class Look(NamedTuple):
    """How a line is drawn; *run* is the line of the report that it belongs to, and is hidden with."""

    colour: str
    dash: str = "solid"
    run: int | None = None


class Key(NamedTuple):
    """An entry of a legend: a look, and what it stands for."""

    label: str
    look: Look


@dataclass(frozen=True)
class Chart:
    """A figure with its caption, what it says in words with numbers, and its table."""

    name: str
    title: str
    caption: str
    words: str
    """What someone who does not see the picture is told."""
    traces: Sequence[Trace]
    x: dict[str, Any]
    y: dict[str, Any]
    sheet: Sheet
    keys: Sequence[Key] = ()
    """Its own legend; without one, the colours are those of the runs."""
    height: int = 300
    layout: dict[str, Any] = field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        """Return what the page's script draws."""
        layout = {"xaxis": self.x, "yaxis": self.y, "height": self.height, **self.layout}
        return {"name": self.name, "traces": list(self.traces), "layout": layout}


def run_look(index: int) -> Look:
    """Return the look of line *index*: a colour, and for each round through the colours a dash pattern."""
    count = len(style.LINES)
    return Look(f"--run-{index % count}", DASHES[index // count % len(DASHES)], index)


def dots(look: Look) -> Trace:
    """Return what makes a line show its points."""
    return {"mode": "lines+markers", "marker": {"size": 5, "color": look.colour}}


def axis(title: str, log: bool = False, **more: Any) -> dict[str, Any]:
    """Return an axis with its title, unit included."""
    return {"title": {"text": plain(title)}, "separatethousands": True, **({"type": "log"} if log else {}), **more}


def axis_from_zero(title: str, traces: Sequence[Trace], least: float = 0.0) -> dict[str, Any]:
    """Return an axis from 0 to a little above *traces* and *least*; intervals beyond twice the lines are cut."""
    line, spread = (
        max((y for trace in traces if ("fill" in trace) == filled for y in trace["y"] if y), default=0.0)
        for filled in (False, True)
    )
    top = max(1.15 * max(line, least), 1.05 * min(spread, WIDEST_BAND * line))
    return axis(title, range=[0, top or 1.0])


def seconds_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis of times from *low* to *high*, s, with about five ticks, in s, ms or µs."""
    decades = math.log10(high / low)
    digits = next(found for most, found in TICKS.items() if decades < most)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**exponent for exponent in exponents for digit in digits]
    span = [math.log10(low) - 0.03 * decades, math.log10(high) + 0.03 * decades]
    text = [_time(tick) for tick in ticks]
    return axis(title, log=True, range=span, tickvals=ticks, ticktext=text, tickangle=0)


def _time(seconds: float) -> str:
    scale, unit = (1.0, "s") if seconds > 0.9 else (1e3, "ms") if seconds > 0.9e-3 else (1e6, "µs")
    return f"{seconds * scale:.3g} {unit}"


def plain(text: str) -> str:
    """Return *text* as plotly.js has to be given it to show it: it takes <, > and & for markup."""
    return escape(text, quote=False)


def numbers(values: FloatArray) -> list[float | None]:
    """Return *values* to a few significant digits, None for what is not finite."""
    return [shortened(value) for value in np.asarray(values, dtype=float).tolist()]


def shortened(value: float) -> float | None:
    """Return *value* to a few significant digits, or None if it is not finite."""
    return float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None


def curve(x: FloatArray, y: FloatArray, label: str, look: Look, **more: Any) -> Trace:
    """Return a line."""
    line = {"color": look.colour, "dash": look.dash, "width": 2}
    known = {"x": numbers(x), "y": numbers(y), "name": plain(label)}
    return {"type": "scatter", "mode": "lines", **known, "line": line, **_of(look), **more}


def band(x: tuple[FloatArray, FloatArray], y: tuple[FloatArray, FloatArray], look: Look) -> Trace:
    """Return the area between the curves (x[0], y[0]) and (x[1], y[1]); points that lack a figure are left out."""
    known = np.isfinite(np.stack([*x, *y])).all(axis=0)
    around = [numbers(np.concatenate([one[known], other[known][::-1]])) for one, other in (x, y)]
    area = {"fill": "toself", "fillcolor": f"{look.colour}-band", "line": {"width": 0}, "hoverinfo": "skip"}
    return {"type": "scatter", "mode": "lines", "x": around[0], "y": around[1], **area, **_of(look)}


def _of(look: Look) -> Trace:
    return {} if look.run is None else {"meta": {"run": look.run}}


def seeded_curve(x: FloatArray, values: FloatArray, label: str, look: Look, **more: Any) -> list[Trace]:
    """Return the mean over seeds of (seeds, points) *values*, on its 95% interval where there are several.

    No value is below 0, so no interval is drawn there.
    """
    mean, low, high = mean_and_interval(values)
    line = curve(x, mean, label, look, **more)
    return [*([band((x, x), (np.maximum(low, 0.0), high), look)] if len(values) > 1 else []), line]
