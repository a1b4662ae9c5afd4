"""What the record says of a step, and that a replay agrees with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdsim.errors import ScenarioError
from sdsim.metrics import Columns
from sdsim.replay import Step
from sdsim.result import Result

Facts = dict[str, Any]


def step_row(result: Result, replica: int, step: int) -> int:
    """Return the row of *step* of *replica* in the step records, or raise ScenarioError."""
    steps, replicas = result.steps, result.scenario.replicas
    if not 0 <= replica < replicas:
        allowed = f"0 to {replicas - 1}, the scenario's own, not those of pools"
        raise ScenarioError(f"--replica: found {replica}; allowed: {allowed}")
    mine = steps["replica"] == replica
    rows = np.flatnonzero(mine & (steps["step"] == step))
    if not len(rows):
        count = int(mine.sum())
        allowed = f"0 to {count - 1}, the steps of replica {replica}" if count else "none, for the replica took no step"
        raise ScenarioError(f"--step: found {step}; allowed: {allowed} in this run; steps count from 0 on each replica")
    return int(rows[0])


def request_row(result: Result, request: int) -> int:
    """Return the row of *request* in the request records, or raise ScenarioError."""
    ids = result.requests["request_id"]
    rows = np.flatnonzero(ids == request)
    if not len(rows):
        allowed = f"{ids.min():.0f} to {ids.max():.0f}, those that arrived" if len(ids) else "none, for none arrived"
        raise ScenarioError(f"--request: found {request}; allowed: {allowed} in this run; requests count from 0")
    return int(rows[0])


def recorded(steps: Columns, row: int, seen: Step) -> bool:
    """Return whether *row* records the step *seen* again, by its start: one that a failure ended left no record."""
    return bool(steps["start_s"][row] == seen.observation.now)


def check_same(steps: Columns, row: int, seen: Step) -> None:
    """Raise ScenarioError unless the step *seen* again is the one recorded in *row*."""
    recorded = steps["start_s"][row], steps["seconds"][row], steps["draft_length"][row]
    if recorded != (seen.observation.now, seen.seconds, seen.plan.draft_length):
        raise differs(f"step {seen.observation.step} of replica {seen.replica}")


def differs(what: str) -> ScenarioError:
    """Return the error for a replay that is not the recorded run."""
    return ScenarioError(
        f"{what}: running the scenario again does not give what was recorded; allowed: a run of this version, with "
        "calibration, trace and policy as they were; run the scenario again"
    )
