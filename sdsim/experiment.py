"""Many runs of one scenario: every engine, policy and seed, on an executor, the same however many workers."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

from sdsim.result import Result
from sdsim.scenario import PolicySpec, Scenario
from sdsim.simulation import simulate


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


@contextmanager
def local_executor(jobs: int) -> Iterator[Executor]:
    """Yield a pool of *jobs* processes, forked where the system can: they start with everything imported."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_cells(
    todo: Sequence[Cell],
    jobs: int | None = None,
    progress: Callable[[float], None] | None = None,
    finished: Callable[[int], None] | None = None,
) -> list[Result]:
    """Return the results of *todo*, in order, from at most *jobs* processes (default: one a core).

    *progress* follows the simulated time of a single run, *finished* the number of runs done.
    """
    jobs = min(jobs or os.cpu_count() or 1, len(todo))
    if jobs == 1:
        return _told_apart(_serially(todo, progress if len(todo) == 1 else None, finished))
    with local_executor(jobs) as pool:
        futures = {pool.submit(cell.run): i for i, cell in enumerate(todo)}
        results: dict[int, Result] = {}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            if finished:
                finished(len(results))
    return _told_apart([results[i] for i in range(len(todo))])


def _told_apart(results: list[Result]) -> list[Result]:
    """Number the labels of different policies that call themselves the same, such as two goodputs."""
    seen: dict[str, list[PolicySpec]] = {}
    for result in results:
        (spec,) = result.scenario.policies
        alike = seen.setdefault(result.policy, [])
        if spec not in alike:
            alike.append(spec)
        if alike.index(spec):
            result.summary["policy"] = f"{result.policy}-{alike.index(spec) + 1}"
    return results


def _serially(
    todo: Sequence[Cell], progress: Callable[[float], None] | None, finished: Callable[[int], None] | None
) -> list[Result]:
    results = []
    for cell in todo:
        results.append(cell.run(progress))
        if finished:
            finished(len(results))
    return results
