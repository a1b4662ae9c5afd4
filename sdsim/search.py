"""Search over load: the highest rate that meets an SLO, and the front of throughput against speed for each user.

Capacity is found by bisection, for each seed by itself: one seed's requests and coins are the same at all rates, so
that attainment falls smoothly with the rate. Seeds then give an interval, and policies are compared seed by seed.
Attainment is taken to fall as the rate rises; where it does not, the rate found is one at which it crosses the target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdsim.experiment import Cell, cells, in_order, told_apart
from sdsim.load import at_rate, mean_rate
from sdsim.scenario import Scenario
from sdsim.statistics import interval, mean_summary
from sdsim.workers import IN_PROCESS, Workers

WIDEST = 1024.0
"""How many times above and below the first rate is searched."""


@dataclass(slots=True)
class Bracket:
    """A rate, 1/s, between the highest that met its target and the lowest that did not; narrowed step by step."""

    start: float
    tolerance: float
    """Relative width at which it is narrow enough."""
    low: float = 0.0
    high: float = math.inf

    @property
    def next_rate(self) -> float | None:
        """The rate to try next, or None when the bracket is narrow enough, or nothing was found within WIDEST."""
        if not self.low and math.isinf(self.high):
            return self.start
        if not self.low:
            return self.high / 2 if self.high * WIDEST > self.start else None
        if math.isinf(self.high):
            return self.low * 2 if self.low < self.start * WIDEST else None
        return math.sqrt(self.low * self.high) if self.high > self.low * (1 + self.tolerance) else None

    def tell(self, rate: float, met: bool) -> None:
        """Learn whether *rate* met the target."""
        if met:
            self.low = max(self.low, rate)
        else:
            self.high = min(self.high, rate)

    @property
    def rate(self) -> float:
        """The middle of the bracket: 0 where no rate met the target, infinite where all did."""
        return math.sqrt(self.low * self.high) if self.low else 0.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest rate at which one policy attains the target: a bracket a seed, and what was run to find them."""

    policy: str
    engine: str
    seeds: tuple[int, ...]
    brackets: tuple[Bracket, ...]
    runs: int

    @property
    def rates(self) -> list[float]:
        """One capacity a seed, requests/s."""
        return [bracket.rate for bracket in self.brackets]

    @property
    def rate(self) -> float:
        """The mean over seeds, requests/s; 0 or infinite where some seed has no crossing within reach."""
        return float(np.mean(self.rates))

    @property
    def ci95(self) -> tuple[float, float] | None:
        """95% interval of the rate over seeds and brackets; None for one seed, or without a crossing."""
        if not 0 < min(self.rates) <= max(self.rates) < math.inf:
            return None
        low, high = (interval([getattr(b, end) for b in self.brackets]) for end in ("low", "high"))
        return None if low is None or high is None else (max(low[0], 0.0), high[1])


@dataclass(slots=True)
class _Search:
    cell: Cell
    bracket: Bracket
    label: str = ""
    runs: int = 0


def capacity(
    scenario: Scenario, attainment: float, tolerance: float = 0.02, workers: Workers = IN_PROCESS
) -> list[Capacity]:
    """Return the capacity of *scenario* under each engine and policy: the mean arrival rate that still attains.

    A rate attains where at least the share *attainment* of the offered requests meets all of the SLOs. The seeds of all
    policies step together, one rate each, on *workers*.
    """
    start = mean_rate(scenario)
    searches = [_Search(cell, Bracket(start, tolerance)) for cell in cells(scenario)]
    while todo := [(s, rate) for s in searches if (rate := s.bracket.next_rate) is not None]:
        found = in_order(workers.map(_attained, [_moved(s.cell, rate) for s, rate in todo]))
        for (search, rate), (label, share) in zip(todo, found, strict=True):
            search.bracket.tell(rate, share >= attainment)
            search.label, search.runs = label, search.runs + 1
    names = told_apart((s.label, s.cell.policy) for s in searches)
    starts = range(0, len(searches), scenario.seeds)
    return [_capacity(names[start], searches[start : start + scenario.seeds]) for start in starts]


def _capacity(name: str, searches: Sequence[_Search]) -> Capacity:
    seeds, brackets = tuple(s.cell.seed for s in searches), tuple(s.bracket for s in searches)
    return Capacity(name, searches[0].cell.engine, seeds, brackets, sum(s.runs for s in searches))


def _moved(cell: Cell, rate: float) -> Cell:
    return Cell(at_rate(cell.scenario, rate), cell.policy, cell.seed, cell.engine)


def _attained(cell: Cell) -> tuple[str, float]:
    """Return the policy's label and the share of offered requests that met the SLOs; all of none."""
    summary = cell.run().summary
    share = summary["slo_attainment"]
    return str(summary["policy"]), 1.0 if share is None else float(share)


def operating_points(scenario: Scenario, rates: Sequence[float], workers: Workers = IN_PROCESS) -> list[dict[str, Any]]:
    """Return one row for each engine, policy and mean arrival rate: seeds' means, and whether it is on the front.

    The front is that of tokens/s per GPU against tokens/s per user, 1 / (median TPOT); no TPOT, not on it.
    """
    moved = [(rate, _moved(cell, rate)) for rate in rates for cell in cells(scenario)]
    summaries = in_order(workers.map(_summary, [cell for _, cell in moved]))
    names = told_apart((summary["policy"], cell.policy) for summary, (_, cell) in zip(summaries, moved, strict=True))
    points = []
    for start in range(0, len(moved), scenario.seeds):
        mean = mean_summary(summaries[start : start + scenario.seeds])
        speed = mean["tpot_s"]["p50"]
        row = {"policy": names[start], "engine": mean["engine"], "rate_rps": moved[start][0]}
        row |= {key: mean[key] for key in ("output_tokens_per_gpu_s", "goodput_rps", "slo_attainment")}
        points.append(row | {"output_tokens_per_user_s": 1 / speed if speed else None})
    best = front([(p["output_tokens_per_gpu_s"], p["output_tokens_per_user_s"]) for p in points])
    return [point | {"on_front": i in best} for i, point in enumerate(points)]


def _summary(cell: Cell) -> dict[str, Any]:
    return cell.run().summary


def front(points: Sequence[tuple[float | None, float | None]]) -> frozenset[int]:
    """Return the places of the points that no other beats: more is better in both, and None in neither."""
    known = {i: (x, y) for i, (x, y) in enumerate(points) if x is not None and y is not None}
    others = set(known.values())
    return frozenset(
        i for i, (x, y) in known.items() if not any(a >= x and b >= y for a, b in others if (a, b) != (x, y))
    )
