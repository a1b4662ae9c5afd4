"""One look for all pictures: colours that the colour-blind tell apart, and text that reads at 1200 pixels.

Colours are those of Okabe and Ito, "Color Universal Design" (2008). matplotlib takes a second to import, so it is
imported where a picture is drawn. Pictures go through Figure objects and no global state, and the same figures give
the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdsim.errors import ScenarioError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
GREY, PALE = "#7F7F7F", "#D9D9D9"
LINES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Colours of lines on white, in order; yellow is too pale for a line."""
THINNEST, THINNING = 1.3, 0.5
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))

WIDTH_IN, DPI = 8.0, 150
LEGEND_ROW, LEGEND_LINE = 105, 8
"""Characters in a row of a legend, and those that a line and its gap take."""
FORMATS = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""Picture formats by file suffix, with the metadata that would differ from run to run."""
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "svg.hashsalt": "sdsim",
    "text.parse_math": False,
    "pdf.fonttype": 42,
}


@contextmanager
def picture(path: Path, height_in: float) -> Iterator[Figure]:
    """Yield an empty figure of the common style, and write it to *path* in the format of its suffix.

    Raises ScenarioError for an unknown format, or a file that cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise ScenarioError(f"{path}: {path.suffix or 'no suffix'} is no picture format; known: {known}; rename it")
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        try:
            figure.savefig(path, metadata=FORMATS[path.suffix.lower()])
        except OSError as error:
            raise ScenarioError(f"{path}: cannot be written: {error.strerror}; name another file") from None


def line_style(index: int, count: int = 0) -> dict[str, Any]:
    """Return the look of line *index*; 28 differ. Of *count* lines that may coincide, each shows beside the next."""
    return {
        "color": LINES[index % len(LINES)],
        "linestyle": DASHES[index // len(LINES) % len(DASHES)],
        "linewidth": THINNEST + THINNING * max(count - 1 - index, 0),
    }


def head(figure: Figure, title: str, handles: Sequence[Line2D] = ()) -> None:
    """Write the title above the axes, and a legend of *handles* below it."""
    look: dict[str, Any] = {"size": 12, "weight": "bold"}
    if handles:
        columns = legend_columns([str(handle.get_label()) for handle in handles])
        text = {"title": title, "title_fontproperties": look, "alignment": "left"}
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, borderaxespad=0.2, **text)
    else:
        figure.suptitle(title, x=0.01, ha="left", **look)


def legend_columns(names: Sequence[str]) -> int:
    """Return how many of *names* stand in a row of the figure's width, each with its line."""
    widths = [len(name) + LEGEND_LINE for name in names]
    return len(names) if sum(widths) <= LEGEND_ROW else max(LEGEND_ROW // max(widths), 1)


def batch_axis(axes: Axes, batches: Sequence[int]) -> None:
    """Make x a logarithmic axis of batch sizes, with a tick at some of *batches*."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(spread_evenly(batches, 10)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_xlabel("batch, sequences")


def spread_evenly(batches: Sequence[int], most: int) -> list[int]:
    """Return at most *most* of the ascending *batches*, about evenly on a logarithmic axis; rather powers of two."""
    powers = [batch for batch in batches if batch.bit_count() == 1]
    if len(batches) > most and len(powers) > most // 2 and 2 * powers[-1] > batches[-1]:
        batches = powers
    least = math.log(batches[-1] / batches[0]) / max(most - 1, 1)
    kept = [batches[0]]
    for batch in batches[1:]:
        if math.log(batch / kept[-1]) >= least * (1 - 1e-9):
            kept.append(batch)
    return kept
