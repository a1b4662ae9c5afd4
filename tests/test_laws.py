"""What must hold between runs: more load is no better, names do not matter, stopping early changes nothing before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sdsim.load import at_rate
from sdsim.policy import Observation, Outcome, Plan
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import make_policy, simulate
from tests.random_scenarios import POLICIES, random_case

BASE = {
    "model": "qwen3-30b-a3b",
    "draft": "eagle3",
    "gpus": "1 x h200",
    "replica": {"max_num_seqs": 16, "max_num_batched_tokens": 512},
    "workload": {"kind": "poisson", "rate": 20, "limit": 250, "lengths": {"prompt": 200, "output": 60}},
    "acceptance": {"kind": "iid", "rate": 0.7, "auc": 0.75},
    "slo": {"ttft": "1s", "tpot": "20ms"},
    "seed": 3,
}


@pytest.mark.parametrize("policy", ["off", {"kind": "fixed", "length": 3}, "goodput"])
@pytest.mark.parametrize("router", ["least_loaded", "round_robin", "shortest_queue"])
def test_more_load_never_improves_mean_latency(policy, router):
    """The same requests and coins, closer together."""
    base = scenario_from_mapping(BASE | {"policy": policy, "router": router, "replicas": 2})
    means = [simulate(at_rate(base, rate)).summary["e2e_s"]["mean"] for rate in (10, 20, 40, 80, 160)]
    assert (np.diff(means) > 0).all(), means


class Renaming:
    """A policy that is shown other names of the same requests."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def plan(self, observation: Observation, /) -> Plan:
        return self.policy.plan(observation._replace(request_ids=1_000_003 - 7 * observation.request_ids))

    def learn(self, outcome: Outcome, /) -> None:
        self.policy.learn(outcome._replace(request_ids=1_000_003 - 7 * outcome.request_ids))


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_names_of_requests_do_not_matter(policy, monkeypatch):
    small = {"workload": BASE["workload"] | {"limit": 40, "rate": 100}, "policy": policy}
    scenario = scenario_from_mapping(BASE | small)
    before = simulate(scenario)
    monkeypatch.setattr("sdsim.simulation.make_policy", lambda *args: Renaming(make_policy(*args)))
    after = simulate(scenario)
    for name, column in before.steps.items():
        assert column.tobytes() == after.steps[name].tobytes(), name


def test_names_of_classes_do_not_matter():
    def run(first: str, second: str) -> Any:
        lengths = {"prompt": 50, "output": 20}
        classes = {first: {"share": 1}, second: {"share": 2, "lengths": lengths}}
        rates = {first: {"rate": 0.9, "spread": 0.05}, second: {"rate": 0.4}}
        workload = BASE["workload"] | {"classes": classes, "limit": 60}
        return simulate(
            scenario_from_mapping(
                BASE | {"workload": workload, "acceptance": {"kind": "mixture", "classes": rates}, "policy": "goodput"}
            )
        )

    one, other = run("chat", "code"), run("zebra", "ape")
    for ours, theirs in ((one.requests, other.requests), (one.steps, other.steps)):
        assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}


@pytest.mark.parametrize("number", range(12))
def test_a_run_that_is_stopped_is_the_beginning_of_the_whole(number):
    """What happened before `until` did not know of it: resuming there would be running on."""
    mapping = random_case(number)[0] | {"until": None}
    whole = simulate(scenario_from_mapping(mapping))
    ends = whole.steps["start_s"] + whole.steps["seconds"]
    until = float(np.quantile(ends, 0.6)) + 1e-9
    part = simulate(scenario_from_mapping(mapping | {"until": until}))
    early = ends < until
    for name, column in whole.steps.items():
        assert np.array_equal(np.sort(column[early]), np.sort(part.steps[name])), name
    finished = whole.requests["finish_s"] < until
    known = ~np.isnan(part.requests["finish_s"])
    for name, column in whole.requests.items():
        assert np.array_equal(np.sort(column[finished]), np.sort(part.requests[name][known])), name
