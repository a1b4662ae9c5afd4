"""Intervals over seeds. Runs of one seed share requests and coins, so policies are compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from sdsim.policy import FloatArray

CONFIDENCE = 0.95


def interval(values: Sequence[float] | FloatArray) -> tuple[float, float] | None:
    """Return the 95% t-interval of the mean of *values*, or None for fewer than two."""
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return None
    half = special.stdtrit(len(sample) - 1, (1 + CONFIDENCE) / 2) * sample.std(ddof=1) / np.sqrt(len(sample))
    return float(sample.mean() - half), float(sample.mean() + half)


def relative_gain(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Return the mean of ours / theirs - 1 over pairs of one seed, and its 95% interval."""
    ratios = np.asarray(ours, dtype=float) / np.asarray(theirs, dtype=float) - 1.0
    return float(ratios.mean()), interval(ratios)


def mean_summary(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one summary whose figures are means over seeds, with their intervals under `ci95`.

    A figure that any seed lacks is None. Counts are means as well, kept whole where all seeds agree.
    """
    first = summaries[0]
    if len(summaries) == 1:
        return dict(first)
    merged, spread = _merge(summaries)
    merged["seed"] = [s["seed"] for s in summaries]
    spread.pop("seed", None)
    return {**merged, "ci95": spread}


def _merge(values: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    merged: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    for key, head in values[0].items():
        column = [v[key] for v in values]
        if isinstance(head, Mapping):
            merged[key], spread[key] = _merge(column)
        elif any(c is None or isinstance(c, str) for c in column):
            merged[key] = head if all(c == head for c in column) else None
        else:
            same = all(c == head for c in column)
            merged[key] = head if same else float(np.mean(column))
            found = interval(column)
            spread[key] = None if found is None else list(found)
    return merged, spread
