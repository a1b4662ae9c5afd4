"""Records of a run as curves of a few hundred points: means over bins of simulated time, and distributions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdsim.metrics import Columns
from sdsim.policy import FloatArray

FEWEST_BINS, MOST_BINS = 40, 160
REQUESTS_A_BIN = 10
CURVE_POINTS = 500


def time_bins(requests: list[Columns], steps: list[Columns]) -> FloatArray:
    """Return the edges, s, of equal bins that hold about ten requests each, from 0 to the last step's start."""
    ends = [float(s["start_s"].max(initial=0.0)) for s in steps]
    ends += [float(r["arrival_s"].max(initial=0.0)) for r in requests]
    count = max((len(r["arrival_s"]) for r in requests), default=0) // REQUESTS_A_BIN
    return np.linspace(0.0, max([*ends, 1e-3]), min(max(count, FEWEST_BINS), MOST_BINS) + 1)


@dataclass(frozen=True, slots=True)
class Spans:
    """Steps as intervals of time, ready to be integrated over bins."""

    times: FloatArray
    order: np.ndarray[tuple[int], np.dtype[np.intp]]
    edges: FloatArray

    @classmethod
    def of(cls, steps: Columns, edges: FloatArray) -> Spans:
        """Return the intervals of *steps*, which may overlap: replicas work at the same time."""
        bounds = np.concatenate([steps["start_s"], steps["start_s"] + steps["seconds"]])
        order = np.argsort(bounds, kind="stable")
        return cls(bounds[order], order, edges)

    def integral(self, values: FloatArray) -> FloatArray:
        """Return the integral of *values*, one a step and constant over it, in each bin: unit times s."""
        if not len(values):
            return np.zeros(len(self.edges) - 1)
        level = np.cumsum(np.concatenate([values, -values])[self.order])
        area = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(self.times))])
        return np.diff(np.interp(self.edges, self.times, area))

    def mean(self, values: FloatArray, where: FloatArray) -> FloatArray:
        """Return the mean of *values* over the time of the steps *where* is 1; NaN in bins without any."""
        time = self.integral(where)
        # The integral is a difference of large sums: less than a microsecond of a bin is rounding, not a step.
        return np.divide(self.integral(values * where), time, out=np.full_like(time, np.nan), where=time > 1e-6)


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
