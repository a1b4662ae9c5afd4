"""Measured times as monotone tables: interpolation between the points, the family's slope beyond them.

Curves are asked for all sizes at once, and answer with arrays. The others are asked for one point at a time, where
arrays only cost: plain floats and bisection.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

from sdsim.latency.quality import Price, PriceList, Quality, listed
from sdsim.policy import FloatArray, IntArray

REMEMBERED = 4096
"""Sizes whose times across a plane are kept."""


class Curve:
    """Seconds over tokens, non-decreasing."""

    def __init__(self, points: Iterable[tuple[int, float]]) -> None:
        best: dict[int, float] = {}
        for tokens, seconds in points:
            best[tokens] = min(seconds, best.get(tokens, math.inf))
        self._tokens = np.array(sorted(best), dtype=np.int64)
        self._seconds = nearest_rising([best[t] for t in self._tokens.tolist()])

    def price(self, tokens: int) -> Price:
        """Return the time at *tokens*."""
        found = self.prices(np.array(tokens))
        return Price(float(found.seconds), Quality(int(found.quality)))

    def prices(self, tokens: IntArray) -> PriceList:
        """Return the times at *tokens*: linear between points; beyond the last, at the last point's rate."""
        xs, ys = self._tokens, self._seconds
        seconds = np.where(tokens > xs[-1], ys[-1] * tokens / xs[-1], np.interp(tokens, xs, ys))
        inside = (tokens >= xs[0]) & (tokens <= xs[-1])
        quality = np.where(inside, Quality.INTERPOLATED, Quality.EXTRAPOLATED)
        known = xs[np.minimum(np.searchsorted(xs, tokens), len(xs) - 1)] == tokens
        return listed(tokens, seconds, np.where(known, Quality.MEASURED, quality))


def nearest_rising(seconds: Sequence[float]) -> FloatArray:
    """Return the non-decreasing times closest to *seconds* in the sum of absolute errors of their logarithms.

    A library may pick a tile for one count that takes half as long again as for those around it; the largest so far
    would carry that to all larger counts. Pool adjacent violators with medians (Robertson and Waltman 1968).
    """
    blocks: list[list[float]] = []
    for value in seconds:
        blocks.append([value])
        while len(blocks) > 1 and median(blocks[-2]) > median(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return np.concatenate([np.full(len(block), median(block)) for block in blocks])


class ExpertTable:
    """Seconds of a MoE layer over tokens and distinct experts, non-decreasing in both.

    *expert_s* is what one more expert's weights take to read: the slope beyond the measured distinct counts.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], experts: int, expert_s: float) -> None:
        levels: dict[int, dict[int, float]] = {}
        for row in rows:
            level = levels.setdefault(row["tokens"], {})
            seconds = row["us_p50"] * 1e-6
            level[row["distinct"]] = min(seconds, level.get(row["distinct"], math.inf))
        self._tokens = sorted(levels)
        self._points = {(t, d) for t, level in levels.items() for d in level}
        grid = np.arange(1, experts + 1)
        table = [_across(levels[t], grid, expert_s) for t in self._tokens]
        self._seconds = np.maximum.accumulate(np.maximum.accumulate(np.array(table), axis=1), axis=0).tolist()
        self._experts = experts

    def price(self, tokens: int, distinct: float) -> Price:
        """Return the time of *tokens* tokens that load *distinct* experts."""
        xs = self._tokens
        i = bisect_left(xs, tokens)
        if i == len(xs):
            return Price(self._at(i - 1, distinct) * tokens / xs[-1], Quality.EXTRAPOLATED)
        if xs[i] == tokens:
            measured = (tokens, round(distinct)) in self._points
            return Price(self._at(i, distinct), Quality.MEASURED if measured else Quality.INTERPOLATED)
        if i == 0:
            return Price(self._at(0, distinct), Quality.EXTRAPOLATED)
        part = (tokens - xs[i - 1]) / (xs[i] - xs[i - 1])
        low, high = self._at(i - 1, distinct), self._at(i, distinct)
        return Price(low + part * (high - low), Quality.INTERPOLATED)

    def _at(self, level: int, distinct: float) -> float:
        row: list[float] = self._seconds[level]
        place = min(max(distinct, 1.0), float(self._experts)) - 1.0
        low = int(place)
        high = min(low + 1, self._experts - 1)
        return row[low] + (place - low) * (row[high] - row[low])


def _across(level: dict[int, float], grid: Any, expert_s: float) -> Any:
    """Return the times of one token count at every distinct count of *grid*."""
    counts = sorted(level)
    times = np.interp(grid, counts, [level[d] for d in counts])
    below, above = grid < counts[0], grid > counts[-1]
    times[below] -= (counts[0] - grid[below]) * expert_s
    times[above] += (grid[above] - counts[-1]) * expert_s
    return np.maximum(times, 0.0)


def along(places: Sequence[float], seconds: Sequence[float], place: float) -> float:
    """Return the time at *place*: linear between *places*, on the last slope beyond them, the first time below them.

    Beyond a single place the time is in proportion.
    """
    i = bisect_right(places, place)
    if i == 0:
        return seconds[0]
    if i == len(places):
        if i == 1:
            return seconds[0] * place / places[0]
        i -= 1
    start, first = places[i - 1], seconds[i - 1]
    return first + (place - start) * (seconds[i] - first) / (places[i] - start)


class Plane:
    """Seconds over two sizes, bilinear: a kernel's time is nearly a fixed cost and a part in proportion.

    Missing corners, where the memory or the time of the measurement ended, go on at the rate of the nearest size below;
    where nothing smaller was measured, the nearest above bounds them.
    """

    def __init__(self, points: dict[tuple[int, int], float]) -> None:
        rows: dict[int, dict[int, float]] = {}
        columns: dict[int, dict[int, float]] = {}
        for (x, y), seconds in points.items():
            rows.setdefault(x, {})[y] = seconds
            columns.setdefault(y, {})[x] = seconds
        self.xs, self.ys = sorted(rows), sorted(columns)
        table = [[self._filled(rows[x], columns[y], x, y) for y in self.ys] for x in self.xs]
        self._table = np.maximum.accumulate(np.maximum.accumulate(np.array(table), axis=0), axis=1).tolist()
        self._across: dict[float, list[float]] = {}

    def _filled(self, row: dict[int, float], column: dict[int, float], x: int, y: int) -> float:
        if y in row:
            return row[y]
        for line, place in ((row, y), (column, x)):
            if smaller := [at for at in line if at < place]:
                return line[max(smaller)] * place / max(smaller)
        return row[min(row)]

    @property
    def largest(self) -> tuple[int, int]:
        """The largest measured sizes."""
        return self.xs[-1], self.ys[-1]

    def across(self, x: float) -> list[float]:
        """Return the times at every measured y for *x*: the smallest's below it, beyond the last in proportion."""
        known = self._across.get(x)
        if known is None:
            if len(self._across) >= REMEMBERED:
                self._across.clear()
            known = self._across[x] = self._interpolated(x)
        return known

    def across_at(self, x: float, ys: Sequence[int]) -> list[float]:
        """Return the times at *ys*, for *x*."""
        times = self.across(x)
        if ys == self.ys:
            return times
        return [along(self.ys, times, y) for y in ys]

    def _interpolated(self, x: float) -> list[float]:
        xs, table = self.xs, self._table
        if x <= xs[0]:
            return list(table[0])
        if x >= xs[-1]:
            return [s * x / xs[-1] for s in table[-1]]
        i = bisect_right(xs, x) - 1
        part = (x - xs[i]) / (xs[i + 1] - xs[i])
        return [low + part * (high - low) for low, high in zip(table[i], table[i + 1], strict=True)]

    def seconds(self, x: float, y: float) -> float:
        """Return the time at sizes (*x*, *y*)."""
        return along(self.ys, self.across(x), y)
