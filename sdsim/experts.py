"""Distinct experts that the tokens of one step activate in a MoE layer.

Uniform, independent routing of t tokens to k of E experts touches N(t) = E (1 - (1 - k/E)^t) of them (MoESD,
arXiv 2505.19645, eq. 8). Measured models touch 10 to 30% fewer, because neighbouring tokens agree. Two knobs
model that by counting effective tokens: `within` for consecutive tokens of one request, `between` for tokens of
different requests. `skewed` keeps tokens independent and makes some experts popular.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Routing(Protocol):
    """A law of routing for a MoE layer."""

    def distinct(self, tokens_per_row: npt.ArrayLike, prefill_tokens: int = 0, padding: int = 0) -> float:
        """Return the expected distinct experts of a step.

        *tokens_per_row* holds the target positions of each decode row, *prefill_tokens* the prompt tokens of one
        chunk, *padding* the padding tokens that reach the router: all alike, they choose one set of experts.
        """
        ...

    def distinct_uniform_rows(self, rows: int, tokens: int, prefill_tokens: int = 0, padding: int = 0) -> float:
        """Return the same for *tokens* shared evenly by *rows*: a scalar, for the simulator's inner loop."""
        ...


@dataclass(frozen=True, slots=True)
class Correlated:
    """Uniform popularity with agreement between tokens; within = between = 1 is independent routing."""

    experts: int
    per_token: int
    within: float = 1.0
    between: float = 1.0

    def effective_tokens(self, rows: float, tokens: float, prefill_tokens: float, padding: int) -> float:
        """Return the number of independent tokens that touch as many experts.

        A row of q tokens, or a chunk, counts 1 + within (q - 1). The largest of them counts whole, and `between` of
        every other: what they share with it they do not load again.
        """
        row = 1 + self.within * (tokens / rows - 1) if rows else 0.0
        chunk = 1 + self.within * (prefill_tokens - 1) if prefill_tokens else 0.0
        largest = max(row, chunk)
        return largest + self.between * (rows * row + chunk - largest) + (padding > 0)

    def _coverage(self, effective_tokens: float) -> float:
        return self.experts * -math.expm1(effective_tokens * math.log1p(-self.per_token / self.experts))

    def distinct(self, tokens_per_row: npt.ArrayLike, prefill_tokens: int = 0, padding: int = 0) -> float:
        """See `Routing.distinct`."""
        tokens = np.asarray(tokens_per_row)
        return self.distinct_uniform_rows(tokens.size, int(tokens.sum()), prefill_tokens, padding)

    def distinct_uniform_rows(self, rows: int, tokens: int, prefill_tokens: int = 0, padding: int = 0) -> float:
        """See `Routing.distinct_uniform_rows`."""
        if self.per_token >= self.experts:
            return float(self.experts if tokens + prefill_tokens + padding else 0)
        return self._coverage(self.effective_tokens(rows, tokens, prefill_tokens, padding))


class Skewed:
    """Independent tokens; expert e is chosen in proportion to rank^-alpha, k of them without replacement.

    The chance that a token picks expert e is taken as 1 - exp(-c p_e) with c set so that they sum to k: exponential
    races stopped at a fixed time instead of at the k-th arrival, within 1% of the exact draw for the sizes in use.
    """

    def __init__(self, experts: int, per_token: int, alpha: float) -> None:
        from scipy.optimize import brentq  # 0.3 s to import, and few runs need it

        weights = np.arange(1, experts + 1, dtype=float) ** -alpha
        weights /= weights.sum()
        if per_token >= experts:
            self.inclusion = np.ones(experts)
            return

        def excess(log_c: float) -> float:
            return float(-np.expm1(-math.exp(log_c) * weights).sum() - per_token)

        self.inclusion = -np.expm1(-math.exp(brentq(excess, -5.0, 60.0)) * weights)

    def distinct(self, tokens_per_row: npt.ArrayLike, prefill_tokens: int = 0, padding: int = 0) -> float:
        """See `Routing.distinct`."""
        tokens = np.asarray(tokens_per_row)
        return self.distinct_uniform_rows(tokens.size, int(tokens.sum()), prefill_tokens, padding)

    def distinct_uniform_rows(self, rows: int, tokens: int, prefill_tokens: int = 0, padding: int = 0) -> float:
        """See `Routing.distinct_uniform_rows`; independence makes the split over rows irrelevant."""
        total = tokens + prefill_tokens + (padding > 0)
        return float((1.0 - (1.0 - self.inclusion) ** total).sum())


class NoExperts:
    """A dense model: no MoE layer, no experts."""

    def distinct(self, tokens_per_row: npt.ArrayLike, prefill_tokens: int = 0, padding: int = 0) -> float:
        """Return 0."""
        return 0.0

    def distinct_uniform_rows(self, rows: int, tokens: int, prefill_tokens: int = 0, padding: int = 0) -> float:
        """Return 0."""
        return 0.0


def make_routing(experts: int, per_token: int, kind: str = "uniform", **knobs: float) -> Routing:
    """Return the law *kind* (uniform, correlated, skewed) for *experts* of which a token uses *per_token*."""
    if not experts:
        return NoExperts()
    if kind == "skewed":
        return Skewed(experts, per_token, knobs["alpha"])
    return Correlated(experts, per_token, **knobs)


def other_ranks_reached(experts: int, per_token: int, ranks: int) -> float:
    """Return how many ranks a token has experts on besides its own, *experts* being spread evenly over *ranks*.

    The chance that none of its *per_token* lies on a given rank is C(E - E/n, k) / C(E, k).
    """
    elsewhere = experts - experts / ranks
    missed = math.prod(max(elsewhere - j, 0.0) / (experts - j) for j in range(per_token))
    return (ranks - 1) * (1 - missed)


def busiest_rank(experts: int, per_token: int, tokens: int, distinct: float, ranks: int) -> tuple[int, float]:
    """Return the tokens and the distinct experts of the busiest of *ranks* GPUs that the *experts* are spread over.

    Tokens are counted by their *per_token* experts: each rank has tokens / ranks in the mean. Independent choices
    make both counts hypergeometric; the largest of n such counts, which sum to a constant, lies at the normal order
    statistic (Blom 1958) times sqrt(n / (n - 1)) deviations above the mean.
    """
    if ranks == 1:
        return tokens, distinct
    above, each = _above_mean(ranks), experts / ranks
    chosen = tokens * per_token
    most = chosen / ranks + above * math.sqrt(chosen * (experts - per_token) / (experts - 1))
    loaded = distinct / ranks + above * math.sqrt(max(distinct * (experts - distinct), 0.0) / (experts - 1))
    pairs = min(most, tokens * min(per_token, each))
    return math.ceil(pairs / per_token), min(max(loaded, min(distinct, 1.0)), each, distinct)


@lru_cache
def _above_mean(ranks: int) -> float:
    """Return how far the largest of *ranks* equal shares lies above the mean, in units of sqrt(what is shared)."""
    largest = NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) * math.sqrt(ranks / (ranks - 1))
    return largest * math.sqrt((1 - 1 / ranks) / ranks)
