"""Run a recorded run again and look inside: a run follows from its scenario and seed, so nothing need be recorded.

The run is watched where a scheduler meets its policy and its executor. The policy is wrapped in one that passes every
question and answer on, the latency model in one that tells of every shape it prices; so both see what they saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdsim.latency.composition import ComposedLatency
from sdsim.latency.pipeline import Pipeline
from sdsim.policies import get_policy, label
from sdsim.policies.acceptance_estimate import AcceptanceEstimate
from sdsim.policy import Observation, Outcome, Plan, Policy, StepCosts
from sdsim.result import Result
from sdsim.scenario import PolicySpec
from sdsim.simulation import System, make_system, simulate
from sdsim.step import StepShape


class WatchedPolicy:
    """A policy that plans and learns as another does, and shows what it sees."""

    def __init__(self, cost: StepCosts, kind: str, parameters: Mapping[str, object], watch: Watch) -> None:
        self.policy = get_policy(kind, parameters, cost)
        self.label = label(self.policy, kind)
        for name in ("lengths", "needs", "loads_drafter"):
            if hasattr(self.policy, name):
                setattr(self, name, getattr(self.policy, name))
        self.told = AcceptanceEstimate()
        """What the outcomes told so far say of the acceptance."""
        self._watch = watch
        self.watched_replica = 0
        """Whose steps it plans: the simulation says."""

    def plan(self, observation: Observation, /) -> Plan:
        """Return the policy's plan."""
        plan = self.policy.plan(observation)
        self._watch.planned = (self, observation, plan)
        return plan

    def learn(self, outcome: Outcome, /) -> None:
        """Pass an outcome on."""
        self.told.update(outcome)
        self.policy.learn(outcome)


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is about to run. The observation's arrays hold until the visitor returns."""

    replica: int
    policy: Policy
    told: AcceptanceEstimate
    observation: Observation
    plan: Plan
    shape: StepShape
    seconds: float


Visitor = Callable[[Step], bool]
"""Looks at a step; returns whether it has seen enough."""


class Enough(Exception):  # noqa: N818
    """Raised to end a replay whose visitor has seen enough."""


class Watch:
    """Brings together the plan and the shape of each step."""

    def __init__(self, visit: Visitor) -> None:
        self.planned: tuple[WatchedPolicy, Observation, Plan] | None = None
        self._visit = visit

    def priced(self, shape: StepShape, seconds: float) -> None:
        """Take in the price of the step that was planned last."""
        assert self.planned is not None
        policy, observation, plan = self.planned
        if self._visit(Step(policy.watched_replica, policy.policy, policy.told, observation, plan, shape, seconds)):
            raise Enough


def watched(latency: ComposedLatency, watch: Watch) -> ComposedLatency:
    """Return *latency*, from now on showing each step that it prices."""
    make = latency.pipeline

    def pipeline() -> Pipeline:
        made = make()
        made.seconds = _shown(made.seconds, watch)  # type: ignore[method-assign]
        return made

    latency.seconds = _shown(latency.seconds, watch)  # type: ignore[method-assign]
    latency.pipeline = pipeline  # type: ignore[method-assign]
    return latency


def _shown(price: Callable[[StepShape], float], watch: Watch) -> Callable[[StepShape], float]:
    def seconds(shape: StepShape, /) -> float:
        found = price(shape)
        watch.priced(shape, found)
        return found

    return seconds


def replay(result: Result, visit: Visitor, system: System | None = None) -> None:
    """Run *result*'s scenario again, and show *visit* every step until it returns True or the run ends."""
    system = system or make_system(result.scenario)
    (spec,) = result.scenario.policies
    watch, make = Watch(visit), system.latency
    parameters: dict[str, Any] = {"kind": spec.kind, "parameters": spec.parameters, "watch": watch}
    # Not checked as a scenario's policy is: its parameters hold an object.
    shown = PolicySpec.model_construct(kind=f"{__name__}:{WatchedPolicy.__name__}", parameters=parameters)
    try:
        simulate(result.scenario, shown, system=replace(system, latency=lambda *given: watched(make(*given), watch)))
    except Enough:
        return
