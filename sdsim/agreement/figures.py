"""Errors of predictions, and their summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BATCH_RANGES = ((1, 8), (9, 64), (65, 256))


def relative_error(predicted: float | None, measured: float | None) -> float | None:
    """Return predicted / measured - 1, or None where either is undefined."""
    return predicted / measured - 1.0 if predicted is not None and measured else None


def error_summary(errors: Sequence[float]) -> dict[str, Any]:
    """Return the number of *errors*, the median, p90 and p95 of their size, and the median with its sign."""
    if not errors:
        return {"points": 0, "median": None, "p90": None, "p95": None, "bias": None}
    median, p90, p95 = (float(x) for x in np.percentile(np.abs(errors), (50, 90, 95)))
    return {"points": len(errors), "median": median, "p90": p90, "p95": p95, "bias": float(np.median(errors))}


def batch_range(batch: int) -> str:
    """Return the range that *batch* falls into, such as `9-64`."""
    for low, high in BATCH_RANGES:
        if batch <= high:
            return f"{low}-{high}"
    return f"{BATCH_RANGES[-1][1] + 1}-"


def mean_quality(qualities: Sequence[dict[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """Return the shares of *qualities* of predicted times, over all of that time."""
    total = sum(weights)
    return {
        name: sum(q[name] * w for q, w in zip(qualities, weights, strict=True)) / total if total else 0.0
        for name in ("measured", "interpolated", "extrapolated")
    }
