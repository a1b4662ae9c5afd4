"""Prompt and output lengths of requests, in tokens.

A length law turns a pair of normal scores, one for the prompt and one for the output, into a pair of
lengths of at least one token; drawing the scores is left to the caller, so that one request keeps its
place in the distribution when the law changes. A table (`sdsim/data/lengths/*.csv`) holds quantiles of
a published workload; between them the length is linear in the normal score. Prompt and output are
joined by a Gaussian copula whose correlation is r = 2 sin(pi s / 6) for Spearman's rank correlation s
(Pearson 1907). Tables carry fitted quantiles only; each names its source.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import NormalDist

import numpy as np

from sdsim.errors import ScenarioError, unknown
from sdsim.policy import FloatArray, IntArray

LengthLaw = Callable[[FloatArray, FloatArray], tuple[IntArray, IntArray]]
"""(normal scores of prompts, independent normal scores of outputs) -> (prompt tokens, output tokens)."""

MAX_TOKENS = 10**9

_FOLDER = resources.files("sdsim") / "data" / "lengths"
_TAIL = (0.0001, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035)
LEVELS = (*_TAIL, *(step / 40 for step in range(2, 39)), *(round(1 - p, 6) for p in reversed(_TAIL)))
"""Probabilities at which a table lists its quantiles."""


@dataclass(frozen=True, slots=True)
class LognormalLengths:
    """Lengths with the given means; a sigma (of the natural logarithm) of 0 fixes them at the mean."""

    prompt: float
    output: float
    prompt_sigma: float = 0.0
    output_sigma: float = 0.0

    def __call__(self, prompt_scores: FloatArray, output_scores: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the lengths at these scores."""
        return (
            _lognormal(self.prompt, self.prompt_sigma, prompt_scores),
            _lognormal(self.output, self.output_sigma, output_scores),
        )


@dataclass(frozen=True, slots=True, eq=False)
class LengthTable:
    """Quantiles of a workload's lengths at ascending probabilities, given as normal scores."""

    scores: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray
    rank_correlation: float = 0.0

    def __call__(self, prompt_scores: FloatArray, output_scores: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the lengths at these scores, correlated as the table says."""
        r = 2.0 * math.sin(math.pi * self.rank_correlation / 6.0)
        joined = output_scores if r == 0.0 else r * prompt_scores + math.sqrt(1.0 - r * r) * output_scores
        return (
            _tokens(np.interp(prompt_scores, self.scores, self.prompt_tokens)),
            _tokens(np.interp(joined, self.scores, self.output_tokens)),
        )

    @classmethod
    def fit(cls, prompt_tokens: IntArray, output_tokens: IntArray) -> LengthTable:
        """Fit a table to the lengths of a trace: its quantiles at `LEVELS` and its rank correlation."""
        from scipy.stats import spearmanr

        quantiles = [np.quantile(tokens, LEVELS) for tokens in (prompt_tokens, output_tokens)]
        rank_correlation = float(spearmanr(prompt_tokens, output_tokens).statistic)
        return cls(_scores(LEVELS), quantiles[0], quantiles[1], rank_correlation)


def length_tables() -> list[str]:
    """Return the names of the tables that ship with sdsim."""
    return sorted(entry.name.removesuffix(".csv") for entry in _FOLDER.iterdir() if entry.name.endswith(".csv"))


@cache
def length_table(name: str) -> LengthTable:
    """Return the table called *name*."""
    if name not in length_tables():
        raise ScenarioError(f"{unknown('length table', name, length_tables())}; or give {{prompt: N, output: N}}")
    return parse_table((_FOLDER / f"{name}.csv").read_text(encoding="utf-8"))


def parse_table(text: str) -> LengthTable:
    """Return the table in *text*: `# key: value` lines, a header, then probability,prompt_tokens,output_tokens."""
    lines = text.splitlines()
    notes = dict(line.lstrip("# ").split(": ", 1) for line in lines if line.startswith("#") and ": " in line)
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    prompts, outputs = ([float(row[column]) for row in rows] for column in ("prompt_tokens", "output_tokens"))
    scores = _scores([float(row["probability"]) for row in rows])
    return LengthTable(scores, np.array(prompts), np.array(outputs), float(notes["rank_correlation"]))


def length_law(spec: object) -> LengthLaw:
    """Return the law that *spec* asks for: a table's name, a law, or an object with prompt and output means.

    Such an object may also have `prompt_sigma` and `output_sigma`, the lognormal spreads; 0 where absent.
    """
    if isinstance(spec, str):
        return length_table(spec)
    if callable(spec):
        return spec
    if not (hasattr(spec, "prompt") and hasattr(spec, "output")):
        tables = ", ".join(length_tables())
        raise ScenarioError(f"lengths: {spec!r}; a table ({tables}) or {{prompt: N, output: N}} is allowed; give one")
    sigmas = (float(getattr(spec, side, None) or 0.0) for side in ("prompt_sigma", "output_sigma"))
    return LognormalLengths(float(spec.prompt), float(spec.output), *sigmas)


def _lognormal(mean: float, sigma: float, scores: FloatArray) -> IntArray:
    if sigma == 0.0:
        return np.full(len(scores), max(1, round(mean)), dtype=np.int64)
    return _tokens(np.exp(np.minimum(math.log(mean) - sigma * sigma / 2.0 + sigma * scores, math.log(MAX_TOKENS))))


def _tokens(lengths: FloatArray) -> IntArray:
    np.rint(lengths, out=lengths)
    return np.clip(lengths, 1.0, MAX_TOKENS, out=lengths).astype(np.int64)


def _scores(levels: tuple[float, ...] | list[float]) -> FloatArray:
    inverse = NormalDist().inv_cdf
    return np.array([inverse(level) for level in levels])
