"""Drafts of the naive simulator: which there are, and which are accepted (SEMANTICS.md, section 6), one by one."""

from __future__ import annotations

import math
from importlib import resources
from typing import Any

import numpy as np
import yaml
from scipy import special

from sdsim.acceptance import _logit_mean, make_acceptance, profile_rates
from sdsim.streams import coins
from sdsim.workload import class_names

LONGEST = 16


def logit(chance: float) -> float:
    """Return the log odds of *chance*."""
    return math.log(chance / (1 - chance)) if chance > 0 else -math.inf


def middle(rate: float) -> float:
    """Return the m at which the mean of sigmoid(m + 2 z) is *rate*."""
    return float(_logit_mean(np.array([rate]))[0])


class Drafts:
    """Which drafts there are, which the target accepts, and what the drafter believes of them."""

    def __init__(self, scenario: Any, available: float) -> None:
        self.seed = scenario.seed
        self.spec = scenario.acceptance
        self.available = available
        self.classes = class_names(scenario.workload)
        self.coins: dict[tuple[str, int], list[float]] = {}
        self.own_rates: dict[int, float] = {}
        if self.spec is not None and self.spec.kind == "profile":
            lengths = yaml.safe_load(resources.files("sdsim").joinpath("data/acceptance.yaml").read_text())
            self.profile = profile_rates(lengths[self.spec.name]).tolist()
        self.law = None if self.spec is None else make_acceptance(self.spec, scenario.seed, self.classes)

    def coin(self, name: str, request: Any, position: int) -> float:
        """Return one coin; those of a request are tossed together and remembered."""
        key = name, request.id
        if key not in self.coins:
            places = np.arange(request.output + LONGEST + 1)
            self.coins[key] = coins(self.seed, name, request.id, places).tolist()
        return self.coins[key][position]

    def rate(self, request: Any, draft: int, pending: int) -> float:
        """Return q of the *draft*-th draft (from 1) of a chain of *pending*."""
        if self.spec.kind == "iid":
            return self.spec.rate
        if self.spec.kind == "positions":
            before = 1.0 if draft == 1 else self.spec.rates[draft - 2]
            return self.spec.rates[draft - 1] / before if before > 0 else 0.0
        if self.spec.kind == "profile":
            return self.profile[pending - 1][draft - 1]
        if self.spec.kind == "drift":
            return self.spec.rates[request.id // self.spec.every % len(self.spec.rates)]
        assert self.spec.kind == "mixture"
        if request.id not in self.own_rates:
            found = self.law.request_rates(np.array([request.id]), np.array([request.request_class]))
            self.own_rates[request.id] = float(found[0])
        return self.own_rates[request.id]

    def accepted(self, request: Any, verify: int) -> int:
        """Return how many of the first *verify* pending drafts are accepted."""
        for j in range(1, verify + 1):
            if not self.wins(request, request.pending[j - 1], self.rate(request, j, len(request.pending))):
                return j - 1
        return verify

    def wins(self, request: Any, position: int, rate: float) -> bool:
        """Return whether a draft for *position* of a mean acceptance of *rate* is accepted, all before it being so."""
        coin = self.coin("acceptance", request, position)
        if self.spec.auc is None:
            return coin < rate
        return logit(coin) < middle(rate) + 2 * self.normal("token", request, position)

    def normal(self, name: str, request: Any, position: int) -> float:
        """Return the normal quantile of a coin."""
        return float(special.ndtri(max(self.coin(name, request, position), 1e-16)))

    def confidences(self, rows: list[Any]) -> list[list[float]]:
        """Return what the drafter believes of each pending draft, as far as the longest chain goes."""
        longest = max((len(row.pending) for row in rows), default=0)
        return [[self.confidence(row, j, longest) for j in range(1, longest + 1)] for row in rows]

    def confidence(self, row: Any, j: int, longest: int) -> float:
        """Return what the drafter believes of the *j*-th draft of a row."""
        if self.spec.auc is None:
            return self.law.mean_rate
        position = len(row.emitted) + j - 1
        drift = 2 * self.normal("token", row, position) + self.law.sigma * self.normal("confidence", row, position)
        return float(special.expit(middle(self.rate(row, j, longest)) + drift))

    def drafted(self, request: Any, length: int) -> list[int]:
        """Return the positions that *request* has drafts for after a step that drafted *length*."""
        generated = len(request.emitted)
        if self.available < 1 and not self.coin("draft-available", request, generated) < self.available:
            return []
        return [generated + j for j in range(length)]
