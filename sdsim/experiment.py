"""Many runs of one scenario: every engine, policy and seed, the same however many workers share them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sdsim.result import Result
from sdsim.scenario import PolicySpec, Scenario
from sdsim.simulation import simulate
from sdsim.workers import local_workers

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of an experiment."""

    scenario: Scenario
    policy: PolicySpec
    seed: int
    engine: str

    def run(self, progress: Callable[[float], None] | None = None) -> Result:
        """Simulate it."""
        return simulate(self.scenario, self.policy, self.seed, self.engine, progress)


def cells(scenario: Scenario) -> list[Cell]:
    """Return the scenario's runs: engines, then policies, then seeds from `seed` up."""
    seeds = range(scenario.seed, scenario.seed + scenario.seeds)
    return [Cell(scenario, p, s, e) for e in scenario.engines for p in scenario.policies for s in seeds]


def run_cells(
    todo: Sequence[Cell],
    jobs: int | None = None,
    progress: Callable[[float], None] | None = None,
    finished: Callable[[int], None] | None = None,
) -> list[Result]:
    """Return the results of *todo*, in order, from at most *jobs* processes (default: one a core).

    *progress* follows the simulated time of a single run, *finished* the number of runs done.
    """
    if len(todo) == 1:
        return [todo[0].run(progress)]
    with local_workers(min(jobs or os.cpu_count() or 1, len(todo))) as workers:
        return _told_apart(in_order(workers.map(Cell.run, todo), finished))


def in_order(found: Iterable[tuple[int, Found]], finished: Callable[[int], None] | None = None) -> list[Found]:
    """Return what `Workers.map` yields in the order of its items; *finished* follows their number."""
    results: dict[int, Found] = {}
    for place, result in found:
        results[place] = result
        if finished:
            finished(len(results))
    return [results[place] for place in sorted(results)]


def _told_apart(results: list[Result]) -> list[Result]:
    names = told_apart([(result.policy, result.scenario.policies[0]) for result in results])
    for result, name in zip(results, names, strict=True):
        result.summary["policy"] = name
    return results


def told_apart(policies: Iterable[tuple[str, PolicySpec]]) -> list[str]:
    """Return the labels, numbered where different policies call themselves the same, such as two goodputs."""
    seen: dict[str, list[PolicySpec]] = {}
    names = []
    for name, spec in policies:
        alike = seen.setdefault(name, [])
        if spec not in alike:
            alike.append(spec)
        number = alike.index(spec) + 1
        names.append(f"{name}-{number}" if number > 1 else name)
    return names
