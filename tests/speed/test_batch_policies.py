"""Planning takes little of a step: CPU time, the best of many, at 256 rows."""

from __future__ import annotations

import time

import pytest

from sdsim.policies import get_policy
from sdsim.policy import Policy
from sdsim.testing import observations
from tests.test_policies import PARAMETERS, SIMPLE, Slope

LEARNING = (
    "cascade", "cascade_per_request", "echo", "exp3", "nightjar", "priority_split", "sglang_adaptive", "thompson",
    "throughput_aware", "ucb",
)  # fmt: skip
WRAPPERS = ("cooldown", "graph_snap", "hysteresis", "min_dwell", "safe", "staleness")
CALLS, ROUNDS = 200, 15


def plan_seconds(policy: Policy) -> float:
    """Return the CPU time of a plan at 256 rows: the best round, so that other work on the machine does not count."""
    lengths = tuple(sorted({0, *policy.lengths}))
    seen = [o for o in observations(lengths, steps=240) if o.batch == 256]
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for call in range(CALLS):
            policy.plan(seen[call % len(seen)])
        best = min(best, (time.process_time() - started) / CALLS)
    return best


@pytest.mark.parametrize("name", SIMPLE)
def test_tables_and_goodput_plan_in_ten_microseconds(name):
    assert plan_seconds(get_policy(name, PARAMETERS.get(name), Slope())) < 10e-6


@pytest.mark.parametrize("name", [*LEARNING, *WRAPPERS])
def test_other_batch_policies_plan_in_fifty_microseconds(name):
    assert plan_seconds(get_policy(name, PARAMETERS.get(name), Slope())) < 50e-6
