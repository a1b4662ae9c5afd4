"""Token histograms of ServeGen's dataset files, and draws from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sdsim.files import read_json, reason
from sdsim.policy import FloatArray, IntArray
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.rows import MAX_TOKENS
from sdsim.trace_readers.servegen_windows import Window
from sdsim.units import shown

LATEST_S = 1e9
FORM = '{"0": {"input_tokens": "{4: 0.25, 5: 0.75}", "output_tokens": "{...}"}}'


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often each length occurs."""

    tokens: IntArray
    reached: FloatArray
    """Cumulative share of requests, ending at 1."""

    def sample(self, uniform: FloatArray) -> IntArray:
        """Return the lengths at these probabilities, by the inverse distribution."""
        return self.tokens[np.searchsorted(self.reached, uniform, side="right")]


Histograms = Mapping[float, tuple[Histogram, Histogram]]
"""Start of a window, s -> histograms of prompt and output tokens."""


def histogram(tokens: FloatArray, weights: FloatArray) -> Histogram:
    """Return the histogram of *tokens* by *weights*; lengths count as one token at least."""
    values, index = np.unique(np.maximum(1, np.rint(tokens)).astype(np.int64), return_inverse=True)
    reached = np.cumsum(np.bincount(index, weights=weights).astype(np.float64))
    reached /= reached[-1]
    reached[-1] = 1.0
    return Histogram(values, reached)


def read_histograms(file: Path) -> Histograms:
    """Return the histograms of the dataset *file*; windows without requests are left out."""
    mistakes = Mistakes(file)
    found: dict[float, tuple[Histogram, Histogram]] = {}
    for key, window in _windows(file, mistakes).items():
        try:
            start_s = float(key)
            if not 0.0 <= start_s <= LATEST_S:
                raise ValueError(f"starts out of 0 to {LATEST_S:g} s")
            sides = [_parsed(window[side]) for side in ("input_tokens", "output_tokens")]
            if all(len(tokens) for tokens, _ in sides):
                found[start_s] = (histogram(*sides[0]), histogram(*sides[1]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            mistakes.add(1, f"window {shown(key)}: {shown(str(error))}; {FORM} is the form allowed; correct the window")
    mistakes.check()
    return found


def pooled(clients: Iterable[tuple[Histograms, Mapping[float, Window]]]) -> tuple[Histogram, Histogram] | None:
    """Return the histograms of all clients together, weighted by their requests; None if there is none."""
    sides: tuple[list[Histogram], list[Histogram]] = ([], [])
    weights: list[float] = []
    for histograms, windows in clients:
        starts = sorted(histograms)
        for start, following in pairwise([*starts, np.inf]):
            weights.append(sum(w.requests for w in windows.values() if start <= w.start_s < following))
            for side, one in zip(sides, histograms[start], strict=True):
                side.append(one)
    if not any(weights):
        return None
    return _mixed(sides[0], weights), _mixed(sides[1], weights)


def _mixed(histograms: list[Histogram], weights: list[float]) -> Histogram:
    shares = [np.diff(one.reached, prepend=0.0) * weight for one, weight in zip(histograms, weights, strict=True)]
    tokens = np.concatenate([one.tokens for one in histograms]).astype(np.float64)
    return histogram(tokens, np.concatenate(shares))


def _windows(file: Path, mistakes: Mistakes) -> Mapping[str, Any]:
    try:
        windows = read_json(file)
    except (OSError, ValueError) as error:
        mistakes.stop(f"no JSON ({reason(error)}); {FORM} is the form allowed; copy or download the file again")
    if not isinstance(windows, dict):
        mistakes.stop(f"no object; {FORM} is the form allowed; give another file")
    return windows


def _parsed(text: str | Mapping[str, float]) -> tuple[FloatArray, FloatArray]:
    """Return (tokens, shares) of a histogram: `{4: 0.25, 5: 0.75}` as a string, or as an object."""
    if isinstance(text, str):
        inside = text.strip().removeprefix("{").removesuffix("}").replace(":", ",")
        numbers = np.array(inside.split(",") if inside.strip() else [], dtype=np.float64)
        tokens, shares = numbers[::2], numbers[1::2]
    else:
        tokens, shares = np.array(list(text), dtype=np.float64), np.array(list(text.values()), dtype=np.float64)
    if len(tokens) != len(shares) or not np.all((tokens >= 0) & (tokens <= MAX_TOKENS)):
        raise ValueError("a histogram with lengths out of range")
    if not np.all((shares >= 0.0) & (shares <= 1e12)) or (len(shares) and shares.sum() <= 0.0):
        raise ValueError("a histogram with shares out of range")
    return tokens, shares
