"""Runs of policies on shared seeds, each kept as the few figures that a recommendation needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdsim.experiment import in_order
from sdsim.metrics import latencies
from sdsim.result import Result
from sdsim.scenario import PolicySpec, Scenario
from sdsim.simulation import System, make_system, simulate
from sdsim.workers import IN_PROCESS, Workers

Job = tuple[Scenario, PolicySpec, int]
SYSTEM_KEYS = (
    "model",
    "draft",
    "gpus",
    "engine",
    "calibration",
    "network",
    "collectives",
    "routing",
    "replica",
    "price_error",
)
KEPT_SYSTEMS = 4
_systems: dict[str, System] = {}


@dataclass(frozen=True, slots=True)
class Trial:
    """What is kept of one run."""

    summary: dict[str, Any]
    missed: dict[str, float]
    """Share of the offered requests that were seen to be over each SLO target that is set, by its name."""
    context: float
    """Mean KV length of a decode row, tokens."""
    usual_batches: tuple[int, int]
    """Least and most decode rows of the middle nine tenths of the steps."""


@dataclass(slots=True)
class Bench:
    """Runs trials on *workers*, and tells how many it has run."""

    workers: Workers = IN_PROCESS
    finished: Callable[[int], None] | None = None
    runs: int = 0

    def run(self, scenario: Scenario, policies: Sequence[PolicySpec], seeds: Sequence[int]) -> list[list[Trial]]:
        """Return for each of *policies* one trial a seed, under the first engine of *scenario*."""
        found = self.run_jobs([(scenario, policy, seed) for policy in policies for seed in seeds])
        return [found[start : start + len(seeds)] for start in range(0, len(found), max(len(seeds), 1))]

    def run_jobs(self, jobs: Sequence[Job]) -> list[Trial]:
        """Return the trials of *jobs*, in order."""
        before = self.runs

        def count(done: int) -> None:
            self.runs = before + done
            if self.finished is not None:
                self.finished(self.runs)

        return in_order(self.workers.map(run_job, jobs), count)


def run_job(job: Job) -> Trial:
    """Simulate one job on the system that its process keeps."""
    scenario, policy, seed = job
    return kept(simulate(scenario, policy, seed, system=system_of(scenario)))


def system_of(scenario: Scenario) -> System:
    """Return the system of *scenario* under its first engine: one a process, whatever the traffic and the policy."""
    resolved = scenario.resolved()
    key = json.dumps([str(scenario.folder), *(resolved[name] for name in SYSTEM_KEYS)], sort_keys=True)
    if key not in _systems:
        if len(_systems) >= KEPT_SYSTEMS:
            _systems.clear()
        _systems[key] = make_system(scenario)
    return _systems[key]


def kept(result: Result) -> Trial:
    """Return what is kept of *result*."""
    requests, slo = result.requests, result.scenario.slo
    generated = requests["generated_tokens"]
    stored = (requests["prompt_tokens"] + generated / 2) @ generated
    targets = slo.model_dump() if slo else {}
    over = zip(("ttft", "tpot", "e2e"), latencies(requests), strict=True)
    missed = {name: float((values > targets[name]).mean()) for name, values in over if targets.get(name) is not None}
    rows = result.steps["rows"]
    usual = np.quantile(rows, (0.05, 0.95), method="nearest") if len(rows) else (0, 0)
    return Trial(
        result.summary,
        missed,
        float(stored / generated.sum()) if generated.any() else 1.0,
        (int(usual[0]), int(usual[1])),
    )
