"""Arrival times of synthetic traffic, in s, as endless ascending blocks.

Each law is a Poisson process with a rate of its own in time. A Poisson process of rate 1 is mapped
through the inverse of the integrated rate, which is exact where the rate is constant piece by piece;
the sinusoid is thinned instead (Lewis and Shedler 1979).

poisson   a constant rate, and sessions, which begin so.
bursty    a regular cycle: `peak` for the middle `duty` of each `period`, `rate` around it. "Doubles for one
          minute in five" is rate 12/s, peak 24/s, period 5 min, duty 0.2: the burst runs from minute 2 to 3.
mmpp      `rate` and `peak` take turns for exponential times of mean `mean_low` and `mean_high` s; the
          state at 0 is drawn from the stationary law, so the mean rate is the same at any time.
diurnal   a sinusoid of the given `period` that starts at `rate` and is at `peak` half a period later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from sdsim.errors import ScenarioError, unknown
from sdsim.policy import FloatArray
from sdsim.streams import stream

BLOCK = 8192
"""Arrivals drawn at a time: fixed, so that the same seed gives the same arrivals to every caller."""
_SEGMENTS = 256
_LAWS = ("bursty", "diurnal", "mmpp", "poisson", "sessions")
_STEADY = ("poisson", "sessions")

Segments = Iterator[tuple[FloatArray, FloatArray]]
"""Blocks of (durations in s, rates in 1/s)."""


def arrivals(workload: Any, seed: int) -> Iterator[FloatArray]:
    """Yield the arrivals of *workload*: `kind`, `rate` (1/s) and what the kind needs beside it."""
    kind = workload.kind
    if kind not in _LAWS:
        raise ScenarioError(f"workload.kind: {unknown('arrival law', str(kind), _LAWS)}")
    rates = [float(getattr(workload, name)) for name in ("rate", "peak") if name == "rate" or kind not in _STEADY]
    if not all(0.0 <= rate < math.inf for rate in rates) or max(rates) <= 0.0:
        raise ScenarioError(f"workload: rates {rates} per s; finite ones, one over 0, are allowed; correct them")
    return _arrivals(workload, seed, rates)


def _arrivals(workload: Any, seed: int, rates: list[float]) -> Iterator[FloatArray]:
    units = unit_arrivals(stream(seed, "arrivals"))
    if workload.kind in _STEADY:
        return (block / rates[0] for block in units)
    if workload.kind == "diurnal":
        return _sinusoid(units, stream(seed, "arrivals-thinning"), rates[0], rates[1], workload.period)
    if workload.kind == "bursty":
        return _cycle(units, rates[0], rates[1], workload.period, workload.duty)
    states = stream(seed, "arrivals-states")
    return piecewise(units, _two_states(states, rates[0], rates[1], workload.mean_low, workload.mean_high))


def unit_arrivals(generator: np.random.Generator) -> Iterator[FloatArray]:
    """Yield the arrivals of a Poisson process of rate 1."""
    reached = 0.0
    while True:
        block = generator.standard_exponential(BLOCK)
        block[0] += reached
        np.cumsum(block, out=block)
        reached = float(block[-1])
        yield block


def piecewise(units: Iterator[FloatArray], segments: Segments) -> Iterator[FloatArray]:
    """Yield *units* mapped onto a rate that is constant in each of *segments*, which never end."""
    times, areas = np.zeros(1), np.zeros(1)
    for block in units:
        mapped, done = np.empty_like(block), 0
        while done < len(block):
            while areas[-1] <= block[done]:
                durations, rates = next(segments)
                times = times[-1] + np.cumsum(np.append(0.0, durations))
                areas = areas[-1] + np.cumsum(np.append(0.0, durations * rates))
            stop = int(np.searchsorted(block, areas[-1]))
            mapped[done:stop] = np.interp(block[done:stop], areas, times)
            done = stop
        yield mapped


def _cycle(units: Iterator[FloatArray], rate: float, peak: float, period: float, duty: float) -> Iterator[FloatArray]:
    times = np.array([0.0, (1.0 - duty) / 2, (1.0 + duty) / 2, 1.0]) * period
    areas = np.append(0.0, np.cumsum(np.diff(times) * [rate, peak, rate]))
    for block in units:
        cycle, area = np.divmod(block, areas[-1])
        yield cycle * period + np.interp(area, areas, times)


def _two_states(generator: np.random.Generator, rate: float, peak: float, low_s: float, high_s: float) -> Segments:
    first_high = generator.random() < high_s / (low_s + high_s)
    means, rates = np.tile([low_s, high_s], _SEGMENTS), np.tile([rate, peak], _SEGMENTS)
    if first_high:
        means, rates = np.roll(means, 1), np.roll(rates, 1)
    while True:
        yield generator.standard_exponential(len(means)) * means, rates


def _sinusoid(
    units: Iterator[FloatArray], generator: np.random.Generator, rate: float, peak: float, period: float
) -> Iterator[FloatArray]:
    most = max(rate, peak)
    for block in units:
        times = block / most
        wave = (1.0 - np.cos(2.0 * math.pi * times / period)) / 2.0
        yield times[generator.random(len(times)) * most < rate + (peak - rate) * wave]
