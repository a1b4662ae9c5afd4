"""Records of a run as curves of a few hundred points: means over bins of simulated time, and distributions."""

from __future__ import annotations

import numpy as np

from sdsim.metrics import Columns
from sdsim.policy import FloatArray

FEWEST_BINS, MOST_BINS = 40, 160
REQUESTS_A_BIN = 10
CURVE_POINTS = 500
CHUNK_STEPS = 1 << 16
"""Steps integrated at once: a long run has millions, and its records already fill the memory."""


def time_bins(requests: list[Columns], steps: list[Columns]) -> FloatArray:
    """Return the edges, s, of equal bins that hold about ten requests each, from 0 to the last step's start."""
    ends = [float(s["start_s"].max(initial=0.0)) for s in steps]
    ends += [float(r["arrival_s"].max(initial=0.0)) for r in requests]
    count = max((len(r["arrival_s"]) for r in requests), default=0) // REQUESTS_A_BIN
    return np.linspace(0.0, max([*ends, 1e-3]), min(max(count, FEWEST_BINS), MOST_BINS) + 1)


def time_integral(steps: Columns, edges: FloatArray, values: FloatArray) -> FloatArray:
    """Return the integral over each bin of *values*, one a step and constant over it; steps of replicas overlap."""
    chunks = (slice(low, low + CHUNK_STEPS) for low in range(0, len(values), CHUNK_STEPS))
    parts = (_integral(steps["start_s"][c], steps["seconds"][c], edges, values[c]) for c in chunks)
    return sum(parts, start=np.zeros(len(edges) - 1))


def time_mean(steps: Columns, edges: FloatArray, values: FloatArray, where: FloatArray) -> FloatArray:
    """Return the mean of *values* over the time of the steps *where* is 1; NaN in bins without any."""
    time = time_integral(steps, edges, where)
    total = time_integral(steps, edges, values * where)
    # Integrals are differences of large sums: less than a microsecond of a bin is rounding, not a step.
    return np.divide(total, time, out=np.full_like(time, np.nan), where=time > 1e-6)


def _integral(start: FloatArray, seconds: FloatArray, edges: FloatArray, values: FloatArray) -> FloatArray:
    times = np.concatenate([start, start + seconds])
    order = np.argsort(times, kind="stable")
    times = times[order]
    level = np.cumsum(np.concatenate([values, -values])[order])
    area = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(times))])
    return np.diff(np.interp(edges, times, area))


def arrivals_per_s(requests: Columns, edges: FloatArray) -> FloatArray:
    """Return the arrival rate in each bin, requests/s."""
    return np.histogram(requests["arrival_s"], edges)[0] / np.diff(edges)


def distribution_curve(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return points (value, share of all at or below it); infinite values count, but are not reached."""
    ranked = np.sort(values[np.isfinite(values)])
    if not len(ranked):
        return np.empty(0), np.empty(0)
    ranks = np.unique(np.linspace(0, len(ranked) - 1, CURVE_POINTS).astype(np.intp))
    return ranked[ranks], (ranks + 1) / len(values)
