"""Planning takes little of a step: CPU time, the best of several tries, at 256 rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sdsim.policies import get_policy
from sdsim.testing import plan_seconds
from tests.machine import assert_in_budget
from tests.test_policies import PARAMETERS, SIMPLE, Slope

LEARNING = (
    "cascade", "cascade_per_request", "echo", "exp3", "kv_priced", "model_predictive", "nightjar", "priority_split",
    "sglang_adaptive", "thompson", "throughput_aware", "ucb",
)  # fmt: skip
WRAPPERS = ("cooldown", "graph_snap", "hysteresis", "min_dwell", "safe", "staleness")
pytestmark = pytest.mark.speed


def seconds(name: str) -> Callable[[], float]:
    """Return what measures once how long the policy called *name* plans, s, on many observations."""
    policy = get_policy(name, PARAMETERS.get(name), Slope())
    return lambda: plan_seconds(policy, tuple(sorted({0, *policy.lengths})), enough=math.inf, kinds=40)


@pytest.mark.parametrize("name", SIMPLE)
def test_tables_and_goodput_plan_in_ten_microseconds(name):
    assert_in_budget(seconds(name), sums=0.6, idle_s=10e-6)


@pytest.mark.parametrize("name", [*LEARNING, *WRAPPERS])
def test_other_batch_policies_plan_in_fifty_microseconds(name):
    assert_in_budget(seconds(name))
