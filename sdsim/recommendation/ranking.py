"""Which of several policies is best, from runs that share their seeds.

The objective decides: requests/s within the SLOs, or tokens/s without any. Policies count as equal where they differ
by less than SAME and the 95% interval of the paired difference holds zero, or by less than NOTHING. Equals, such as all
policies under a light load, are told apart by speed, 1 / mean E2E latency; and if they are equal in that too, by
simplicity: the first is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdsim.recommendation.trials import Trial
from sdsim.scenario import PolicySpec, Scenario
from sdsim.statistics import interval, relative_gain

SAME, NOTHING = 0.02, 0.001
SPEED = "speed"


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy and its trials, one a seed, seeds in one order."""

    label: str
    spec: PolicySpec
    trials: tuple[Trial, ...] = ()
    tuned: bool = False
    """Whether it is the table found by prices."""

    def values(self, figure: str) -> list[float]:
        """Return one summary figure, or SPEED, a seed; what is undefined counts 0."""
        if figure == SPEED:
            latencies = (trial.summary["e2e_s"]["mean"] for trial in self.trials)
            return [1 / latency if latency else 0.0 for latency in latencies]
        return [float(trial.summary[figure] or 0.0) for trial in self.trials]


@dataclass(frozen=True, slots=True)
class Gain:
    """A mean relative difference over seeds, infinite over nothing, and its 95% interval where it has one."""

    mean: float
    ci95: tuple[float, float] | None

    @property
    def proven(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]

    @property
    def equal(self) -> bool:
        """Whether it is too small to matter, or small and not sure either."""
        return abs(self.mean) < (NOTHING if self.proven else SAME)


def objective(scenario: Scenario) -> str:
    """Return the figure that is maximised."""
    return "goodput_rps" if scenario.slo else "output_tokens_per_s"


def gain(ours: Contender, theirs: Contender, figure: str) -> Gain:
    """Return by how much *ours* exceeds *theirs* in *figure*, seed by seed."""
    mine, base = ours.values(figure), theirs.values(figure)
    if min(base) > 0:
        return Gain(*relative_gain(mine, base))
    if not any(base):
        return Gain(math.inf if any(mine) else 0.0, None)
    # some seeds have nothing to divide by: differences stand against the mean
    ratios = (np.array(mine) - np.array(base)) / np.mean(base)
    return Gain(float(ratios.mean()), interval(ratios))


def best(contenders: Sequence[Contender], figure: str) -> Contender:
    """Return the best of *contenders*, which stand in order of simplicity."""
    return _leaders(_leaders(contenders, figure), SPEED)[0]


def ranked(contenders: Sequence[Contender], figure: str) -> list[Contender]:
    """Return *contenders*, the best first."""
    rest, order = list(contenders), []
    while rest:
        order.append(best(rest, figure))
        rest = [one for one in rest if one is not order[-1]]
    return order


def _leaders(contenders: Sequence[Contender], figure: str) -> list[Contender]:
    """Return the first in *figure* and those that equal it."""
    first = max(contenders, key=lambda one: float(np.mean(one.values(figure))))
    return [one for one in contenders if one is first or gain(one, first, figure).equal]
