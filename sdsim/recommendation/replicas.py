"""The fewest replicas that hold an SLO attainment at the scenario's own traffic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdsim.recommendation.case import Case
from sdsim.recommendation.ranking import Contender
from sdsim.scenario import Scenario
from sdsim.workload import requests

WIDEST = 8
"""How many times the scenario's replicas are tried at most."""
HELPED = 1.1
"""Twice the replicas have helped if they raise the attainment by this factor: under overload they double it."""


def fewest(attained: Callable[[int], float], start: int, target: float) -> int | None:
    """Return the least count whose *attained* share reaches *target*, or None if none up to WIDEST x *start* does.

    Attainment is taken to rise with the count.
    """
    low, high, share = 0, start, attained(start)
    while share < target:
        low, high, before = high, 2 * high, share
        if high > WIDEST * start:
            return None
        share = attained(high)
        if share < target and 0 < share < HELPED * before:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if attained(middle) >= target else (middle, high)
    return high


def drained(scenario: Scenario, seed: int) -> Scenario:
    """Return *scenario* run until the last request that arrives before `until` is done.

    Requests that the clock cut short miss their SLOs on any number of replicas. Traces and closed loops keep the clock:
    to limit them would change their gaps, or let in fewer.
    """
    workload = scenario.workload
    if scenario.until is None or workload.kind in ("trace", "closed", "sessions"):
        return scenario
    count = sum(len(block) for block in requests(workload, seed, scenario.until))
    return scenario.model_copy(update={"until": None, "workload": workload.model_copy(update={"limit": max(count, 1)})})


def gpus(scenario: Scenario, replicas: int) -> int:
    """Return the GPUs of *replicas* of the scenario's own, and of its pools."""
    return replicas * scenario.gpus.count + sum(pool.replicas * pool.gpus.count for pool in scenario.pools)


def tied(scenario: Scenario) -> bool:
    """Return whether other keys of *scenario* rest on its number of replicas."""
    return bool(scenario.failures or scenario.autoscale)


def needed_replicas(case: Case, winner: Contender) -> int | None:
    """Return the fewest of the scenario's own replicas on which *winner* holds the attainment asked for.

    None without SLOs, if no number tried does, and where replicas fail or scale, which ties their number to more.
    """
    scenario = case.scenario
    if scenario.slo is None or tied(scenario):
        return None

    def attained(replicas: int) -> float:
        resized = scenario.model_copy(update={"replicas": replicas})
        jobs = [(drained(resized, seed), winner.spec, seed) for seed in case.few_seeds]
        shares = [trial.summary["slo_attainment"] for trial in case.bench.run_jobs(jobs)]
        return float(np.mean([1.0 if share is None else share for share in shares]))

    return fewest(attained, scenario.replicas, case.question.attainment)
