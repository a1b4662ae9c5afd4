"""A kernel family's fit over all shapes that were measured, for the shapes and sizes that were not.

t = t0 + max(bytes / b, flops / f): a fixed cost, and a roofline with the family's own achieved rates, fitted to the
logarithm of the measured times, so that a short kernel counts as much as a long one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdsim.latency.work import Works
from sdsim.policy import FloatArray


@dataclass(frozen=True, slots=True)
class Family:
    """Fixed seconds, achieved bytes/s and achieved flop/s of one kernel family."""

    fixed_s: float
    bytes_per_s: float
    flops_per_s: float

    def seconds(self, size: float, flops: float) -> float:
        """Return the time of a kernel that moves *size* bytes and computes *flops*."""
        return self.fixed_s + max(size / self.bytes_per_s, flops / self.flops_per_s)

    def all_seconds(self, needed: Works) -> FloatArray:
        """Return the times of a kernel at many sizes."""
        found: FloatArray = self.fixed_s + np.maximum(needed.size / self.bytes_per_s, needed.flops / self.flops_per_s)
        return found


def fit_family(rows: Sequence[dict[str, Any]], bytes_per_s: float, flops_per_s: float) -> Family:
    """Return the fit of measured *rows* (`us_p50`, `bytes`, `flops`), no rate above the GPU's own."""
    from scipy.optimize import least_squares  # 0.3 s to import, and few runs need it

    measured, size, flops = (np.array([r[k] for r in rows], dtype=float) for k in ("us_p50", "bytes", "flops"))

    def error(x: FloatArray) -> FloatArray:
        rates = np.exp(x[1:])
        predicted = np.exp(x[0]) + 1e6 * np.maximum(size / rates[0], flops / rates[1])
        return np.asarray(np.log(predicted / measured))

    start = np.log([5.0, 0.8 * bytes_per_s, 0.7 * flops_per_s])
    low = np.log([0.5, 0.05 * bytes_per_s, 0.02 * flops_per_s])
    high = np.log([60.0, 1.02 * bytes_per_s, 1.02 * flops_per_s])
    found = least_squares(error, start, bounds=(low, high), loss="soft_l1", f_scale=0.1)
    fixed_us, fitted_bytes, fitted_flops = np.exp(found.x)
    return Family(float(fixed_us) * 1e-6, float(fitted_bytes), float(fitted_flops))
