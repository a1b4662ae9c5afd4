"""Policies that break the contract are caught, each for what it does."""

from __future__ import annotations

import datetime
import random
import secrets
import time
from time import monotonic_ns

import numpy as np
import pytest

from sdsim.policy import Plan, learn_nothing
from sdsim.testing import check_policy, plan_seconds

OWN = np.random.default_rng(7)


class Fickle:
    """Plans by a number from *source*."""

    lengths = (0, 3)
    label = "fickle"
    learn = learn_nothing

    def __init__(self, source):
        self.source = source

    def plan(self, observation):
        return Plan(3 if self.source() % 2 else 0)


def rare(source):
    """Read *source*, and make nothing of it that shows."""
    return lambda: 0 * int(source())


@pytest.mark.parametrize(
    "source",
    [
        time.time, time.perf_counter, time.monotonic_ns, monotonic_ns, datetime.date.today,
        lambda: datetime.datetime.now().microsecond,
    ],
)  # fmt: skip
def test_a_clock_is_caught_even_if_nothing_comes_of_it(source):
    with pytest.raises(AssertionError, match="reads the clock"):
        check_policy(lambda: Fickle(lambda: 0 * len(str(source()))), budget_s=None)


@pytest.mark.parametrize(
    "source",
    [
        random.random, lambda: random.randint(0, 9), lambda: random.gauss(0, 1), np.random.rand,
        lambda: np.random.randint(9), lambda: np.random.default_rng().random(), lambda: secrets.randbelow(9),
    ],
)  # fmt: skip
def test_global_randomness_is_caught_even_if_nothing_comes_of_it(source):
    with pytest.raises(AssertionError, match="draws from global randomness"):
        check_policy(lambda: Fickle(rare(source)), budget_s=None)


def test_an_unseeded_generator_is_caught_at_construction():
    def make():
        own = np.random.default_rng()
        return Fickle(rare(own.random))

    with pytest.raises(AssertionError, match="global randomness"):
        check_policy(make, budget_s=None)


def test_state_shared_between_policies_is_caught():
    with pytest.raises(AssertionError, match="planned differently"):
        check_policy(lambda: Fickle(lambda: int(OWN.integers(9))), budget_s=None)


def test_a_seeded_generator_of_its_own_is_fine():
    def make():
        own = np.random.default_rng(3)
        return Fickle(lambda: int(own.integers(9)))

    check_policy(make, budget_s=None)


def test_a_policy_that_keeps_time_in_learn_is_caught():
    class Timed(Fickle):
        def learn(self, outcome):
            self.last = time.process_time()

    with pytest.raises(AssertionError, match=r"reads the clock \(time.process_time\) at .*test_check_policy.py:\d+"):
        check_policy(lambda: Timed(lambda: 1), budget_s=None)


@pytest.mark.speed
def test_a_slow_plan_is_caught():
    """However idle the machine: a plan of 80 us is too long."""

    def slow():
        until = time.thread_time() + 80e-6
        while time.thread_time() < until:
            pass
        return 0

    policy = Fickle(slow)
    assert plan_seconds(policy, (0, 3), 50e-6) > 80e-6


@pytest.mark.speed
def test_a_policy_over_its_budget_fails():
    with pytest.raises(AssertionError, match=r"plan takes \d+ us at 256 rows; allowed: 0 us"):
        check_policy(lambda: Fickle(lambda: 0), budget_s=1e-9)
