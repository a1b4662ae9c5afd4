"""The dynamic optimum of the small replica model: against every policy there is, and where it is the myopic one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsim.semi_markov import DROP, Phase, Replica, average_cost, moves, myopic, optimum


def replica(rng, most=2, reload=0.1, rate=20.0, phases=1):
    off = 0.01 + np.cumsum(rng.uniform(0, 0.01, most))
    seconds = off[:, None] + np.cumsum(rng.uniform(0, 0.01, (most, 2)), axis=1)
    tokens = np.array([1.0, 1.0 + rng.uniform(0, 2)])
    traffic = tuple(Phase(rng.uniform(1, rate), rng.uniform(0.5, 5) if phases > 1 else 0.0) for _ in range(phases))
    return Replica(seconds, off, rng.uniform(0, reload, most), tokens, traffic, rng.uniform(2, 6))


def long_run_cost(problem, policy):
    """Return the requests held on average, from the share of steps that begin in each state."""
    at = np.arange(len(policy)), policy
    lazy = 0.5 * problem.chance[at] + 0.5 * np.eye(len(policy))
    share = np.full(len(policy), 1.0 / len(policy)) @ np.linalg.matrix_power(lazy, 2**14)
    return (share @ problem.cost[at]) / (share @ problem.seconds[at])


@given(seed=st.integers(0, 10_000), size=st.sampled_from([(2, 1), (1, 2)]))
@settings(max_examples=8)
def test_no_policy_is_better_and_one_is_as_good(seed, size):
    most, phases = size
    problem = moves(replica(np.random.default_rng(seed), most, phases=phases))
    states, actions = problem.seconds.shape
    busy = [state for state in range(states) if state % (most + 1)]
    least = np.inf
    for chosen in itertools.product(range(actions), repeat=len(busy)):
        policy = np.ones(states, dtype=np.int64)
        policy[busy] = chosen
        least = min(least, long_run_cost(problem, policy))
    found, _ = optimum(problem, np.ones(states, dtype=np.int64))
    assert found == pytest.approx(least, rel=1e-8)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_its_cost_is_that_of_its_policy_and_no_more_than_the_myopic_ones(seed):
    one = replica(np.random.default_rng(seed), most=12, phases=1 + seed % 2)
    problem = moves(one)
    assert problem.chance.sum(axis=-1) == pytest.approx(1.0)
    greedy = myopic(one)
    least, policy = optimum(problem, greedy)
    assert least == pytest.approx(average_cost(problem, policy)[0])
    assert least <= average_cost(problem, greedy)[0] * (1 + 1e-9)


def test_where_loading_costs_nothing_the_myopic_rule_is_within_a_hair_of_the_optimum():
    """In each state the highest rate of departures empties the replica soonest (up to what a step's end rounds)."""
    for seed in range(10):
        one = replica(np.random.default_rng(seed), most=10, reload=1e-12)
        problem = moves(one)
        greedy = myopic(one)
        assert average_cost(problem, greedy)[0] == pytest.approx(optimum(problem, greedy)[0], rel=0.02)


@pytest.mark.parametrize(("reload", "loads"), [(1e-3, True), (60.0, False)])
def test_a_drafter_is_loaded_again_only_where_the_reload_is_repaid(reload, loads):
    """Three requests at most: with none left the drafter comes back for nothing, so the stay without it is short."""
    off = np.array([0.010, 0.011, 0.012])
    seconds = np.stack([off + 0.001, off + 0.002], axis=1)
    one = Replica(seconds, off, np.full(3, reload), np.array([1.0, 1.8]), (Phase(1.0),), 20.0)
    _, policy = optimum(moves(one), myopic(one))
    assert (policy[1:4] != DROP).tolist() == [loads] * 3
    assert (policy[5:] != DROP).all(), "loaded, it pays and stays"
    cheap = one._replace(tokens=np.array([1.0, 1.02]))
    _, policy = optimum(moves(cheap), myopic(cheap))
    assert (policy[5:] == DROP).all(), "one that brings 2% and costs 10% is dropped"


def test_two_phases_alike_are_one():
    one = replica(np.random.default_rng(5), most=8)
    two = one._replace(phases=(one.phases[0]._replace(ends=2.0), one.phases[0]._replace(ends=0.5)))
    costs = [optimum(moves(each), myopic(each))[0] for each in (one, two)]
    assert costs[0] == pytest.approx(costs[1])


def test_the_mean_time_held_is_that_of_the_markov_queue():
    """In steps much shorter than a request, n decode side by side at one pace: M/M/infinity, rate x L T on average."""
    seconds = np.full((40, 1), 0.01)
    one = Replica(seconds, seconds[:, 0], np.full(40, 1.0), np.ones(1), (Phase(2.0),), 200.0)
    assert average_cost(moves(one), myopic(one))[0] == pytest.approx(2.0 * 200.0 * 0.01, rel=0.01)
