"""Which drafts the target accepts.

Every output position of a request has one coin u, the same under every policy (`streams.coins`). A draft for that
position, the j-th of its chain, is accepted if all before it were and u < q_j, with q_j its conditional acceptance.
So the drafts accepted by a chain that starts at position p are a run of won coins: the *depth* at p. It is computed
once per request, and a step only looks it up. For i.i.d. acceptance a, a chain of K emits (1 - a^(K+1)) / (1 - a)
tokens on average, bonus included (Leviathan et al. 2023, eq. 1).

With a confidence model (`auc`), q varies from token to token: logit q = m + spread z, with m set so that its mean
is the law's rate. That leaves the acceptances' distribution as it was, and gives the drafter something to see:
sigmoid(logit q + sigma z'), with sigma set so that a won draft outranks a lost one with probability `auc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import yaml
from scipy import special

from sdsim.errors import ScenarioError, unknown
from sdsim.policy import FloatArray, IntArray
from sdsim.streams import Depths, coins, runs

MAX_DRAFT_LENGTH = 16
TOKEN_SPREAD = 2.0
_GRID_Z, _GRID_W = np.polynomial.hermite_e.hermegauss(64)


@lru_cache
def _profiles() -> dict[str, list[float]]:
    text = resources.files("sdsim").joinpath("data/acceptance.yaml").read_text()
    loaded: dict[str, list[float]] = yaml.safe_load(text)
    return loaded


def profile_names() -> list[str]:
    """Return the names of the shipped acceptance profiles."""
    return sorted(_profiles())


def conditional_rates(unconditional: FloatArray) -> FloatArray:
    """Return q_j = r_j / r_(j-1) for the chance r_j that draft j and all before it are accepted."""
    before = np.concatenate([[1.0], unconditional[:-1]])
    return np.asarray(np.divide(unconditional, before, out=np.zeros_like(unconditional), where=before > 0), dtype=float)


def profile_rates(lengths: list[float]) -> FloatArray:
    """Return (K, K) conditional rates, row K - 1 for draft length K, from acceptance lengths at 1, 2, ...

    The gain of each further draft is the unconditional rate of its position, made non-increasing; the row of K is
    scaled to K's own measured length, because these lengths are not one curve: each holds at its own K.
    """
    gains = np.minimum.accumulate(np.maximum(np.diff([1.0, *lengths]), 0.0))
    rates = np.zeros((len(lengths), len(lengths)))
    for k, length in enumerate(lengths, start=1):
        row = gains[:k] * ((length - 1.0) / gains[:k].sum())
        rates[k - 1, :k] = conditional_rates(np.minimum(row, 1.0))
    return rates


@dataclass(frozen=True, slots=True)
class Component:
    """One class of a mixture: its share of the requests, its mean rate, and the sd of the rate between requests."""

    name: str
    weight: float
    rate: float
    spread: float = 0.0


@dataclass(frozen=True)
class Acceptance:
    """A law of acceptance for one run.

    Either `components` (a rate per request, constant along its chains) or `positions`, (planes, positions)
    conditional rates: one plane for all draft lengths, or plane K - 1 for draft length K.
    """

    seed: int
    components: tuple[Component, ...] = ()
    positions: FloatArray | None = None
    auc: float | None = None
    class_names: tuple[str, ...] = ()
    every: int = 0
    """With components: each holds for as many requests in turn, in order of id. 0: each request draws its own."""
    sigma: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if self.auc is not None:
            object.__setattr__(self, "sigma", _sigma_for(self.auc, self.mean_rate))

    @property
    def mean_rate(self) -> float:
        """Mean conditional acceptance over requests (components) or positions."""
        if self.positions is not None:
            return float(self.positions[-1].mean())
        weights = np.array([c.weight for c in self.components])
        return float(np.average([c.rate for c in self.components], weights=weights))

    @property
    def planes(self) -> int:
        """Depth tables: 1, or one per draft length."""
        return 1 if self.positions is None else len(self.positions)

    @property
    def longest(self) -> int:
        """The longest draft that the law says anything about."""
        return MAX_DRAFT_LENGTH if self.positions is None else self.positions.shape[1]

    def request_rates(self, ids: IntArray, classes: IntArray) -> FloatArray:
        """Return (requests,) each request's own rate, for a law made of components."""
        which = self.component(ids, classes)
        rates = np.array([c.rate for c in self.components])[which]
        level = coins(self.seed, "acceptance-level", ids, np.zeros_like(ids))
        for index, component in enumerate(self.components):
            if component.spread:
                mine = which == index
                rates[mine] = special.betaincinv(*_beta_parameters(component), level[mine])
        return rates

    def component(self, ids: IntArray, classes: IntArray) -> IntArray:
        """Return (requests,) each request's place in `components`."""
        if self.every:
            return ids // self.every % len(self.components)
        names = [c.name for c in self.components]
        if self.class_names and set(self.class_names) <= set(names):
            return np.array([names.index(n) for n in self.class_names], dtype=np.int64)[classes]
        shares = np.cumsum([c.weight for c in self.components])
        draw = coins(self.seed, "acceptance-class", ids, np.zeros_like(ids)) * shares[-1]
        return np.asarray(np.minimum(np.searchsorted(shares, draw, side="right"), len(names) - 1), dtype=np.int64)

    def depths(self, ids: IntArray, output_tokens: IntArray, classes: IntArray) -> tuple[Depths, IntArray]:
        """Return ((planes, total) depths, (requests + 1,) offsets into them).

        A request of L output tokens has L + MAX_DRAFT_LENGTH entries; entry p is the number of drafts that a chain
        starting at output position p would have accepted, however long.
        """
        widths = output_tokens + MAX_DRAFT_LENGTH
        offsets = np.concatenate([[0], np.cumsum(widths)])
        if self.positions is None and self.auc is None:
            return runs(self.seed, "acceptance", ids, widths, self.request_rates(ids, classes))[None, :], offsets
        owner = np.repeat(np.arange(len(ids)), widths)
        positions = np.arange(offsets[-1]) - offsets[owner]
        score = coins(self.seed, "acceptance", ids[owner], positions)
        if self.auc is not None:
            score = special.logit(score) - TOKEN_SPREAD * self._latent(ids[owner], positions)
        if self.positions is None:
            won = score < self._thresholds(self.request_rates(ids, classes))[owner]
            return _runs(won)[None, :], offsets
        return np.stack([_chain(score, row) for row in self._thresholds(self.positions)]), offsets

    def _thresholds(self, rates: FloatArray) -> FloatArray:
        return rates if self.auc is None else _logit_mean(rates)

    def _latent(self, ids: IntArray, positions: IntArray) -> FloatArray:
        normal: FloatArray = special.ndtri(np.maximum(coins(self.seed, "token", ids, positions), 1e-16))
        return normal

    def confidence(self, ids: IntArray, classes: IntArray, generated: IntArray, length: int) -> FloatArray:
        """Return (rows, length) what the drafter believes of each draft of a chain from output position *generated*.

        Rows that have fewer drafts ignore the rest. Without `auc` the drafter knows nothing beyond the mean rate.
        """
        shape = (len(ids), length)
        if self.auc is None or not length:
            return np.full(shape, self.mean_rate)
        request = np.repeat(ids, length)
        position = (generated[:, None] + np.arange(length)).ravel()
        noise = special.ndtri(np.maximum(coins(self.seed, "confidence", request, position), 1e-16))
        drift = TOKEN_SPREAD * self._latent(request, position) + self.sigma * noise
        if self.positions is None:
            base = np.repeat(_logit_mean(self.request_rates(ids, classes)), length)
        else:
            plane = self.positions[min(length, self.planes) - 1]
            base = np.tile(_logit_mean(plane[:length]), len(ids))
        believed: FloatArray = special.expit(base + drift).reshape(shape)
        return believed

    def chances(self, rates: FloatArray, ids: IntArray, generated: IntArray) -> FloatArray:
        """Return (rows, length) the conditional acceptance of the very tokens drafted from *generated* on.

        *rates*, (rows, length), are the means of the answer over tokens. Without `auc` all tokens are alike.
        """
        if self.auc is None or not rates.size:
            return rates
        position = generated[:, None] + np.arange(rates.shape[1])
        latent = self._latent(np.repeat(ids, rates.shape[1]), position.ravel()).reshape(rates.shape)
        chances: FloatArray = special.expit(_logit_mean(rates) + TOKEN_SPREAD * latent)
        return chances

    def tokens_per_step(self, length: int) -> float:
        """Return the expected tokens that a verify step of *length* drafts emits, bonus included."""
        if self.positions is not None:
            plane = self.positions[min(max(length, 1), self.planes) - 1]
            return 1.0 + float(np.cumprod(plane[:length]).sum())
        weights = np.array([c.weight for c in self.components])
        return float(np.average([_tokens(c, length) for c in self.components], weights=weights))

    def tokens_by_class(self, lengths: Sequence[int]) -> FloatArray:
        """Return (classes, lengths) the same for the requests of each class: those of all, if classes are not told."""
        named = {c.name: c for c in self.components}
        if not self.every and self.class_names and set(self.class_names) <= set(named):
            return np.array([[_tokens(named[name], k) for k in lengths] for name in self.class_names])
        return np.array([[self.tokens_per_step(k) for k in lengths]] * max(len(self.class_names), 1))


def _tokens(component: Component, length: int) -> float:
    """Return the expected tokens that a verify step of *length* drafts emits for a component's requests."""
    return 1.0 + sum(_moment(component, j) for j in range(1, length + 1))


def _moment(component: Component, power: int) -> float:
    """Return E[rate^power] over the requests of a component."""
    if not component.spread:
        return component.rate**power
    a, b = _beta_parameters(component)
    return float(np.exp(special.betaln(a + power, b) - special.betaln(a, b)))


def _beta_parameters(component: Component) -> tuple[float, float]:
    total = component.rate * (1 - component.rate) / component.spread**2 - 1
    return component.rate * total, (1 - component.rate) * total


def _runs(won: np.ndarray[Any, np.dtype[np.bool_]]) -> Depths:
    """Return for each position the run of wins that starts there, at most 255."""
    n = len(won)
    index = np.arange(n, dtype=np.int32)
    next_loss = np.where(won, np.int32(n), index)[::-1]
    np.minimum.accumulate(next_loss, out=next_loss)
    return np.minimum(next_loss[::-1] - index, 255).astype(np.uint8)


def _chain(score: FloatArray, thresholds: FloatArray) -> Depths:
    """Return for each position how many drafts of a chain from there pass their own thresholds."""
    depth = np.zeros(len(score), dtype=np.uint8)
    alive = np.ones(len(score), dtype=bool)
    for j, threshold in enumerate(thresholds):
        alive[: len(score) - j] &= score[j:] < threshold
        alive[len(score) - j :] = False
        depth += alive
    return depth


@lru_cache
def _mean_grid() -> tuple[FloatArray, FloatArray]:
    """Return m on a grid and E[sigmoid(m + spread z)] there."""
    m = np.linspace(-40.0, 40.0, 8001)
    weights = _GRID_W / _GRID_W.sum()
    return m, special.expit(m[:, None] + TOKEN_SPREAD * _GRID_Z) @ weights


def _logit_mean(rates: FloatArray) -> FloatArray:
    """Return the m whose tokens have the mean acceptance *rates*."""
    m, mean = _mean_grid()
    return np.interp(rates, mean, m)


def _auc(sigma: float, rate: float) -> float:
    """Return the chance that a won draft's confidence exceeds a lost one's, tokens of mean acceptance *rate*."""
    m = float(_logit_mean(np.array([rate]))[0])
    z = np.linspace(-6, 6, 601)
    density = np.exp(-z * z / 2)
    q = special.expit(m + TOKEN_SPREAD * z)
    won, lost = density * q, density * (1 - q)
    gap = (z[:, None] - z[None, :]) * TOKEN_SPREAD
    above = special.ndtr(gap / (sigma * np.sqrt(2))) if sigma else (gap > 0) + 0.5 * (gap == 0)
    return float(won @ above @ lost / (won.sum() * lost.sum()))


@lru_cache
def _sigma_for(auc: float, rate: float) -> float:
    """Return the noise that lowers the confidence's AUC to *auc*."""
    if not 0 < rate < 1:
        return 0.0
    best = _auc(0.0, rate)
    if auc > best:
        raise ScenarioError(
            f"acceptance.auc: {auc} is out of reach: a drafter that knew every token's chance would have {best:.3f} "
            f"at mean acceptance {rate:.2f}; lower auc"
        )
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _auc(middle, rate) > auc else (low, middle)
    return high


def make_acceptance(spec: Any, seed: int, class_names: tuple[str, ...] = ()) -> Acceptance:
    """Return the law that a scenario's `acceptance` describes, for workload classes *class_names*."""
    if spec.kind == "iid":
        return Acceptance(seed, (Component("all", 1.0, spec.rate),), auc=spec.auc)
    if spec.kind == "positions":
        return Acceptance(seed, positions=conditional_rates(np.array(spec.rates, float))[None, :], auc=spec.auc)
    if spec.kind == "profile":
        if spec.name not in _profiles():
            raise ScenarioError(f"acceptance.name: {unknown('acceptance profile', spec.name, profile_names())}")
        return Acceptance(seed, positions=profile_rates(_profiles()[spec.name]), auc=spec.auc)
    if spec.kind == "drift":
        turns = tuple(Component(f"turn-{i}", 1.0, rate) for i, rate in enumerate(spec.rates, 1))
        return Acceptance(seed, turns, auc=spec.auc, every=spec.every)
    parts = tuple(Component(n, c.weight, c.rate, c.spread) for n, c in spec.classes.items())
    _check_components(parts, class_names)
    return Acceptance(seed, parts, auc=spec.auc, class_names=class_names)


def _check_components(parts: tuple[Component, ...], class_names: tuple[str, ...]) -> None:
    problems = [
        f"acceptance.classes.{p.name}.spread: {p.spread} is too wide for rate {p.rate}; "
        f"allowed: below {np.sqrt(p.rate * (1 - p.rate)):.3f}"
        for p in parts
        if p.spread and p.spread**2 >= p.rate * (1 - p.rate)
    ]
    names = {p.name for p in parts}
    if class_names and names & set(class_names) and not set(class_names) <= names:
        missing = sorted(set(class_names) - names)
        problems.append(f"acceptance.classes: no rate for workload class {', '.join(missing)}; add it")
    if problems:
        raise ScenarioError(*problems)
