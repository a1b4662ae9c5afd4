"""MoESD's equations and its ten-parameter model (arXiv 2505.19645; equation numbers are the paper's).

Two readings differ from the printed text. Algorithm 1, line 11, divides by draft + ar + verify + reject; that caps the
speedup at sigma (gamma + 1) / 2 and contradicts eq. 4, so eq. 4 is used: gamma x draft + verify + reject. And the
paper counts B x gamma tokens in a verification, where an engine verifies gamma + 1 positions: `verify_positions` sets
which; the paper's own fit uses gamma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from sdsim.policy import FloatArray


def sigma(acceptance: float, gamma: int) -> float:
    """Return the share of the gamma + 1 possible tokens that a round yields (eq. 5)."""
    if acceptance >= 1:
        return 1.0
    return (1 - acceptance ** (gamma + 1)) / ((1 - acceptance) * (gamma + 1))


def activated_experts(tokens: npt.ArrayLike, experts: float, per_token: npt.ArrayLike) -> FloatArray:
    """Return N(t) = E (1 - (1 - K / E)^t), the experts that t tokens activate (eq. 8)."""
    rho = np.asarray(per_token, float) / experts
    return np.asarray(experts * (1 - (1 - rho) ** np.asarray(tokens, float)))


def full_activation_tokens(experts: int, per_token: int, share: float = 0.95) -> int:
    """Return the tokens at which *share* of the experts is activated (eq. 9)."""
    if per_token >= experts:
        return 1
    return math.ceil(math.log(1 - share) / math.log1p(-per_token / experts))


def speedup(sigma_: float, gamma: int, t_ar: float, t_verify: float, t_draft: float, t_reject: float) -> float:
    """Return eq. 4: sigma (gamma + 1) T_T(B, 1) / (gamma T_D(B, 1) + T_T(B, gamma) + T_reject). Any one time unit."""
    return sigma_ * (gamma + 1) * t_ar / (gamma * t_draft + t_verify + t_reject)


def roofline_growth(tokens: npt.ArrayLike, ridge: float, s: float) -> FloatArray:
    """Return G(t): s^t up to the ridge, then its tangent (eq. 11)."""
    t = np.asarray(tokens, float)
    return np.asarray(np.where(t <= ridge, s ** np.minimum(t, ridge), s**ridge * (1 + math.log(s) * (t - ridge))))


@dataclass(frozen=True, slots=True)
class Parameters:
    """The ten parameters of Algorithm 1. Times in one unit, here ms; see the paper's appendix C.2 for bounds."""

    bias: float
    """Loading the target's dense parameters."""
    k1: float
    """Roofline strength of the dense part."""
    k2: float
    """Loading one expert of every layer."""
    k3: float
    """Roofline strength of the sparse part."""
    draft_bias: float
    draft_k: float
    reject_bias: float
    reject_k: float
    lam: float
    """Empirical over theoretical ridge point."""
    s: float
    """Growth base."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """Speedups to fit, one entry each: batch, gamma, experts per token, sigma and the measured speedup."""

    batch: FloatArray
    gamma: FloatArray
    per_token: FloatArray
    sigma: FloatArray
    speedup: FloatArray


def target_time(
    p: Parameters, experts: int, ridge: float, tokens: npt.ArrayLike, per_token: npt.ArrayLike
) -> FloatArray:
    """Return the target's forward of *tokens* tokens in the parameters' unit (Algorithm 1, lines 5 to 8).

    *ridge* is the GPU's peak flops over peak bytes per second.
    """
    t, k, r = np.asarray(tokens, float), np.asarray(per_token, float), p.lam * ridge
    active = activated_experts(t, experts, k)
    sparse = roofline_growth(t * k / active, r, p.s)
    return np.asarray(p.bias + p.k1 * roofline_growth(t, r, p.s) + p.k2 * active + p.k3 * sparse)


def draft_time(p: Parameters, ridge: float, batch: npt.ArrayLike) -> FloatArray:
    """Return one forward of the draft, a token a row (Algorithm 1, line 9)."""
    return np.asarray(p.draft_bias + p.draft_k * roofline_growth(batch, p.lam * ridge, p.s))


def reject_time(p: Parameters, batch: npt.ArrayLike) -> FloatArray:
    """Return the rejection sampling of a round (Algorithm 1, line 10)."""
    return np.asarray(p.reject_bias + p.reject_k * np.asarray(batch, float))


def model_speedup(p: Parameters, experts: int, ridge: float, m: Measurements, verify_positions: int = 0) -> FloatArray:
    """Return the modelled speedup of each measurement (Algorithm 1 with eq. 4 for its line 11).

    *ridge* is the GPU's peak flops over peak bytes per second; a verification holds gamma + *verify_positions* tokens.
    """
    decode, verify = (target_time(p, experts, ridge, m.batch * n, m.per_token) for n in (1, m.gamma + verify_positions))
    spent = m.gamma * draft_time(p, ridge, m.batch) + verify + reject_time(p, m.batch)
    return np.asarray(m.sigma * (m.gamma + 1) * decode / spent)


def bounds(
    dense_ms: float, expert_ms: float, draft_ms: float, longest_reject_ms: float
) -> tuple[Parameters, Parameters]:
    """Return the paper's bounds from the times to load the dense part, one expert (all layers) and the draft once."""
    low = Parameters(dense_ms, 0, expert_ms, 0, draft_ms, 0, 0, 0, 0.2, 1)
    inf, reject = math.inf, longest_reject_ms
    high = Parameters(5 * dense_ms, inf, 5 * expert_ms, inf, 5 * draft_ms, inf, reject, reject, 1, 2)
    return low, high


def fit(
    m: Measurements, experts: int, ridge: float, limits: tuple[Parameters, Parameters], starts: int = 8, seed: int = 0
) -> tuple[Parameters, float]:
    """Return the parameters of the least squared error, and that error's root mean square.

    Trust region reflective within *limits*, from *starts* random points: the parameters are not identifiable from
    speedups alone, so several ends fit equally well and only the curve is to be trusted.
    """
    low, high = (np.array(astuple(p)) for p in limits)

    def error(x: FloatArray) -> FloatArray:
        return model_speedup(Parameters(*x), experts, ridge, m) - m.speedup

    from scipy.optimize import least_squares  # 0.3 s to import, and only fits need it

    rng = np.random.default_rng(seed)
    best: tuple[float, FloatArray] | None = None
    for _ in range(starts):
        found = least_squares(
            error,
            _start(low, high, rng),
            bounds=(low, high),
            method="trf",
            max_nfev=800,
        )
        if best is None or found.cost < best[0]:
            best = (float(found.cost), found.x)
    if best is None:
        raise ValueError(f"starts {starts}; allowed: 1 or more")
    return Parameters(*map(float, best[1])), math.sqrt(2 * best[0] / len(m.speedup))


def _start(low: FloatArray, high: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return a random point inside the bounds, growth base near 1 where it matters."""
    top = np.where(np.isfinite(high), high, np.maximum(low, 1.0) * 3)
    x = low + (top - low) * rng.uniform(0.05, 0.6, len(low))
    x[-1] = 1 + 10 ** rng.uniform(-3.5, -1)
    return np.asarray(x)


def measurements(rows: Sequence[tuple[float, float, float, float, float]]) -> Measurements:
    """Return measurements from rows of (batch, gamma, experts per token, sigma, speedup)."""
    return Measurements(*(np.asarray(c) for c in np.array(rows, float).T))
