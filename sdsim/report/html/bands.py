"""Curves of a few hundred points, with 95% intervals over seeds."""

from __future__ import annotations

import numpy as np
from scipy import stats

from sdsim.policy import FloatArray
from sdsim.statistics import CONFIDENCE

SHARES = np.unique(np.concatenate([np.linspace(0.005, 0.95, 100), np.linspace(0.95, 0.9995, 50)]))
"""Shares of the requests at which distributions are drawn, denser in the tail."""


def mean_and_interval(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mean and 95% t-interval over the seeds of (seeds, points) *values*.

    A point that one seed lacks (NaN or infinite) has none; the interval of one seed is the mean itself.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    mean, seeds = values.mean(axis=0), len(values)
    if seeds < 2:
        return mean, mean, mean
    half = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * values.std(axis=0, ddof=1) / np.sqrt(seeds)
    return mean, mean - half, mean + half


def quantiles(values: FloatArray, weights: FloatArray | None = None, shares: FloatArray = SHARES) -> FloatArray:
    """Return the least values that *shares* of all weight do not exceed; infinite ones count, NaN if there is none."""
    weights = np.ones(len(values)) if weights is None else weights
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    if not len(values) or not reached[-1]:
        return np.full(len(shares), np.nan)
    # A share that is met exactly is met, whatever rounding says.
    places = np.searchsorted(reached, shares * reached[-1] * (1 - 1e-12))
    return np.asarray(values[order][np.minimum(places, len(values) - 1)], dtype=float)


def means_by_bin(x: FloatArray, values: FloatArray, weights: FloatArray, edges: FloatArray) -> FloatArray:
    """Return the weighted means of *values* in the bins of *x*; NaN in empty ones."""
    total, _ = np.histogram(x, edges, weights=weights)
    summed, _ = np.histogram(x, edges, weights=weights * values)
    means: FloatArray = np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
    return means


def batch_edges(most: int) -> FloatArray:
    """Return edges of batch bins, whole numbers between them: single sizes first, then about eight a doubling."""
    tops = [2.0 ** (i / 8) for i in range(8 * max(most, 1).bit_length() + 1)]
    sizes = sorted({min(int(top), most) for top in tops})
    return np.array([sizes[0] - 0.5, *(size + 0.5 for size in sizes)])
