"""The engine and the naive simulator on one scenario, held against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sdsim.errors import SdsimError
from sdsim.latency.pipeline import Pipeline
from sdsim.policy import Observation, Outcome, Plan
from sdsim.scenario import Scenario
from sdsim.simulation import make_policy, make_system, simulate
from tests import naive

REQUEST_TIMES = ("arrival_s", "first_token_s", "finish_s")
REQUEST_COUNTS = ("replica", "generated_tokens", "preemptions", "verify_steps")
STEP_TIMES = ("start_s", "seconds", "distinct_experts")
STEP_COUNTS = (
    "rows",
    "verify_tokens",
    "prefill_tokens",
    "draft_length",
    "emitted_tokens",
    "first_tokens",
    "accepted_tokens",
)


class Spy:
    """A policy that notes what it is shown."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.counts: list[tuple[Any, ...]] = []
        self.floats: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def note(self, shown: Observation | Outcome) -> None:
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in shown._asdict().items()}
        self.floats += [plain.pop(k) or 0.0 for k in ("now", "seconds", "distinct_experts") if k in plain]
        for name in ("slo_slack", "confidence"):
            self.floats += np.ravel(plain.pop(name, None) or []).tolist()
        self.counts.append(tuple(plain.items()))

    def plan(self, observation: Observation, /) -> Plan:
        self.note(observation)
        return self.policy.plan(observation)

    def learn(self, outcome: Outcome, /) -> None:
        self.note(outcome)
        self.policy.learn(outcome)


class Spies:
    """Makes policies that note what they are shown, or *bare* ones, as a run makes them: calls may then be spared."""

    def __init__(self, bare: bool = False) -> None:
        self.made: list[Spy] = []
        self.bare = bare

    def __call__(self, *args: Any) -> Any:
        if self.bare:
            return make_policy(*args)
        self.made.append(Spy(make_policy(*args)))
        return self.made[-1]

    def asked(self) -> list[Spy]:
        return [spy for spy in self.made if spy.counts]


class Price:
    """What a replica's steps take, one after another: its engine's host may work ahead."""

    def __init__(self, latency: Any) -> None:
        self.works_ahead = latency.works_ahead
        self._pipeline = Pipeline(latency)
        self.rest = self._pipeline.rest
        self.seconds = self._pipeline.seconds if self.works_ahead else latency.seconds

    @property
    def launched_s(self) -> float:
        return self._pipeline.launched_s


def run_engine(scenario: Scenario, pools: naive.Pools, bare: bool = False) -> tuple[Any, Spies]:
    spies = Spies(bare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdsim.pools.kv_blocks", lambda target, draft, *_: pools[draft is None])
        patch.setattr("sdsim.simulation.make_policy", spies)
        return simulate(scenario), spies


def run_naive(scenario: Scenario, pools: naive.Pools) -> tuple[naive.Record, Spies]:
    spies, system = Spies(), make_system(scenario)

    def policy() -> Spy:
        return spies(scenario.policies[0], system)

    loads = getattr(policy(), "loads_drafter", True)
    longest = max(0, *spies.made[0].lengths) if loads else 0
    return naive.run(scenario, system, policy, pools, lambda: Price(system.latency(longest, loads))), spies


def same_requests(result: Any, record: naive.Record) -> None:
    table = result.requests
    order = np.argsort(table["request_id"])
    mine = sorted(record.requests, key=lambda r: r.id)
    assert table["request_id"][order].tolist() == [r.id for r in mine]
    for name in REQUEST_TIMES:
        ours = np.array([getattr(r, name) for r in mine])
        np.testing.assert_allclose(table[name][order], ours, rtol=1e-9, atol=0, err_msg=name)
    for name in REQUEST_COUNTS:
        ours = np.array([len(r.emitted) if name == "generated_tokens" else getattr(r, name) for r in mine])
        known = np.array([name != "verify_steps" or not np.isnan(r.finish_s) for r in mine], dtype=bool)
        np.testing.assert_array_equal(table[name][order][known], ours[known], err_msg=name)


def same_steps(result: Any, record: naive.Record) -> None:
    table = result.steps
    order = np.lexsort((table["step"], table["replica"]))
    mine = sorted(record.steps, key=lambda s: (s["replica"], s["step"]))
    for name in ("replica", "step"):
        assert table[name][order].tolist() == [s[name] for s in mine]
    for name in STEP_COUNTS:
        np.testing.assert_array_equal(table[name][order], [s[name] for s in mine], err_msg=name)
    for name in STEP_TIMES:
        np.testing.assert_allclose(table[name][order], [s[name] for s in mine], rtol=1e-9, err_msg=name)


def agree(scenario: Scenario, pools: naive.Pools, ties: bool = True, bare: bool = False) -> naive.Record | None:
    """Compare both simulators on *scenario*; return the naive one's record, or None if both refuse to run.

    Without *ties*, a scenario in which events are as near as rounding errors is not compared. With *bare* policies it
    is not compared what these are shown.
    """
    try:
        record, shown = run_naive(scenario, pools)
    except naive.Refused:
        with pytest.raises(SdsimError, match="can never fit"):
            run_engine(scenario, pools)
        return None
    if record.tied and not ties:
        return record
    result, seen = run_engine(scenario, pools, bare)
    same_steps(result, record)
    same_requests(result, record)
    if bare:
        return record
    for one, other in zip(seen.asked(), shown.asked(), strict=True):
        assert one.counts == other.counts
        np.testing.assert_allclose(one.floats, other.floats, rtol=1e-9)
    return record
