"""Speedups read off the paper's Figure 4, from a file that the user brings: the project ships none of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sdsim.models import load_model
from sdsim.moesd import Measurements, measurements
from sdsim.reproduction.published import published
from sdsim.reproduction.table_file import Header, Row, placed, read_table
from sdsim.units import COUNT, POSITIVE, Span, parse_number, parse_whole, shown

SPEEDUPS = ("speedup", "speedup_adj_digitised")
HIDDEN = ("", "none", "nan")
"""How a file may write a point that the figure hides."""
WANTED = "a CSV file with the columns K, gamma, B and speedup, a line a point of Figure 4"
HOW_TO_GET = (
    "--points: not given, so the shipped parameters stand for the paper's measurements. To fit again, read the points "
    f"off Figure 4 of arXiv 2505.19645 (a plot digitiser does it in minutes) into {WANTED}."
)


class Point(NamedTuple):
    """One measured speedup of the sweep."""

    per_token: int
    gamma: int
    batch: int
    speedup: float


def read_points(path: Path) -> list[Point]:
    """Return the points in *path*, in the paper's order: by K, gamma and batch. Raises TraceError."""
    return sorted(read_table(path, WANTED, _point_reader))


def _point_reader(columns: Header) -> Callable[[Row], Point | None] | None:
    speedup = next((name for name in SPEEDUPS if name in columns), None)
    if speedup is None or not columns >= {"K", "gamma", "B"}:
        return None
    return partial(_point, speedup)


def _point(speedup: str, row: Row) -> Point | None:
    if row[speedup].strip().lower() in HIDDEN:
        return None
    experts = load_model(published().sweep.model).experts
    return Point(
        placed("K", row, partial(parse_whole, span=Span(1, experts))),
        placed("gamma", row, _gamma),
        placed("B", row, partial(parse_whole, span=COUNT)),
        placed(speedup, row, partial(parse_number, span=POSITIVE)),
    )


def _gamma(text: str) -> int:
    gammas = published().sweep.gammas
    gamma = parse_whole(text)
    if gamma not in gammas:
        raise ValueError(f"found {shown(text)}; allowed: {', '.join(map(str, gammas))}, as in Figure 4; correct it")
    return gamma


def as_measurements(points: list[Point]) -> Measurements:
    """Return *points* with the sigma of their gamma, to be fitted."""
    paper = published()
    return measurements([(p.batch, p.gamma, p.per_token, paper.sigma(p.gamma) or 0.0, p.speedup) for p in points])
