"""The offered load of a scenario: its mean arrival rate, and the same traffic at another.

Shapes are kept: a burst stays as many times the calm. Seeds draw the arrivals of a process of rate 1, so that a seed's
requests at two rates are the same requests, closer or further apart (common random numbers).
"""

from __future__ import annotations

from sdsim.errors import ScenarioError
from sdsim.scenario import Scenario
from sdsim.workload import requests


def mean_rate(scenario: Scenario) -> float:
    """Return the mean arrival rate of *scenario*, 1/s. Raises ScenarioError for a closed loop, which has none."""
    workload = scenario.workload
    if workload.kind == "poisson":
        return workload.rate
    if workload.kind == "bursty":
        return workload.rate * (1 - workload.duty) + workload.peak * workload.duty
    if workload.kind == "mmpp":
        low, high = workload.mean_low, workload.mean_high
        return (workload.rate * low + workload.peak * high) / (low + high)
    if workload.kind == "diurnal":
        return (workload.rate + workload.peak) / 2
    if workload.kind == "trace":
        return workload.rate or _traced_rate(scenario)
    found = f"workload.kind: found {workload.kind}, whose clients wait for answers, so it has no arrival rate"
    raise ScenarioError(f"{found}; allowed: poisson, bursty, mmpp, diurnal or trace; choose one")


def _traced_rate(scenario: Scenario) -> float:
    count, last = 0, 0.0
    for block in requests(scenario.workload, scenario.seed):
        count, last = count + len(block), float(block.arrival_s[-1])
    if not last:
        raise ScenarioError(f"workload.path: {count} requests at once; a rate needs gaps between them; give more")
    return count / last


def at_rate(scenario: Scenario, rate: float) -> Scenario:
    """Return *scenario* with its traffic at a mean of *rate* requests/s."""
    workload = scenario.workload
    if workload.kind == "trace":
        changed = {"rate": rate}
    else:
        factor = rate / mean_rate(scenario)
        changed = {key: getattr(workload, key) * factor for key in ("rate", "peak") if hasattr(workload, key)}
    return scenario.model_copy(update={"workload": workload.model_copy(update=changed)})
