"""Which drafts to verify with a budget: the likeliest to survive, a prefix of each row's chain."""

from __future__ import annotations

import numpy as np

from sdsim.policy import FloatArray, IntArray


def top_prefixes(survival: FloatArray, budget: int) -> IntArray:
    """Return (rows,) verify lengths of *budget* drafts in all whose summed survival is the largest possible.

    *survival* is (positions, rows) and does not rise along a row; zeros are no drafts. The largest entries of such an
    array are a prefix of each row, so the best prefix-closed set is the best set. Of equals, earlier positions
    come first, then older rows.
    """
    entries = survival.size
    if budget <= 0 or not entries:
        return np.zeros(survival.shape[1], dtype=np.int64)
    cut = entries - min(budget, entries)
    return _down_to(survival, float(np.partition(survival, cut, axis=None)[cut]), budget)


def ranked_prefixes(survival: FloatArray, ranked: FloatArray, budget: int) -> IntArray:
    """Return the same, *ranked* being the survivals in descending order."""
    return _down_to(survival, float(ranked[budget - 1]) if budget else np.inf, budget)


def tokens_by_budget(rows: int, ranked: FloatArray) -> FloatArray:
    """Return (drafts + 1,) tokens that *rows* rows are expected to emit when they verify the 0, 1, ... likeliest."""
    tokens = np.empty(len(ranked) + 1)
    tokens[0], tokens[1:] = rows, ranked
    return np.add.accumulate(tokens, out=tokens)


def _down_to(survival: FloatArray, threshold: float, budget: int) -> IntArray:
    """Return the lengths of the *budget* entries that reach *threshold*, the value of the last of them."""
    chosen = survival >= threshold if threshold > 0 else survival > 0
    lengths: IntArray = np.add.reduce(chosen.view(np.int8), axis=0, dtype=np.int64)
    surplus = int(np.add.reduce(lengths)) - budget
    if surplus > 0:
        equal = np.flatnonzero(survival == threshold)
        lengths -= np.bincount(equal[-surplus:] % len(lengths), minlength=len(lengths))
    return lengths


def first_fall(values: FloatArray) -> int:
    """Return the index of the last value before the first one lower than its predecessor."""
    falls = values[1:] < values[:-1]
    first = int(falls.argmax()) if len(falls) else 0
    return first if len(falls) and falls[first] else len(values) - 1
