"""Model-predictive control: the fluid paths against what they must hold, and what it is without a horizon."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsim.errors import PolicyError
from sdsim.policies import get_policy
from sdsim.policies.model_predictive import SLOT, Arrivals, Fluid, Mode, held_on_paths
from sdsim.policy import Outcome
from tests.policy_drive import Linear, seen

ROOMY = 1e9


def mode(tokens, seconds, room=ROOMY):
    return Mode(tokens, (seconds, seconds), room)


def constant(*states, slots=20):
    return np.repeat(np.array(states, dtype=float)[:, None], slots, axis=1)


def test_a_path_without_arrivals_empties_at_the_pace_of_its_mode():
    """dn/dt = -n tokens / (T L), in slots: each keeps the share 1 - SLOT tokens / (T L)."""
    start = Fluid(held=64.0, rows=64.0, rate=0.0, output=100.0, reload_s=0.0)
    found = held_on_paths(start, mode(1.0, 0.02), mode(3.0, 0.03), True, constant(0, 1))
    for held, kept in zip(found, (1 - SLOT / (0.02 * 100), 1 - SLOT * 3 / (0.03 * 100)), strict=True):
        assert held == pytest.approx(np.mean(64 * kept ** np.arange(1, 21)))


def test_rows_beyond_the_room_wait():
    start = Fluid(held=100.0, rows=50.0, rate=0.0, output=1000.0, reload_s=0.0)
    found = held_on_paths(start, mode(1.0, 0.02, 100.0), mode(1.0, 0.02, 50.0), True, constant(0, 1, slots=1))
    assert 100 - found == pytest.approx([100 * SLOT / 20, 50 * SLOT / 20])


def test_loading_emits_nothing_until_it_is_done():
    start = Fluid(held=10.0, rows=10.0, rate=0.0, output=100.0, reload_s=1.5 * SLOT)
    path = np.array([[1.0, 1.0, 1.0]])
    cold, warm = (held_on_paths(start, mode(1.0, 0.02), mode(1.0, 0.02), on, path)[0] for on in (False, True))
    lost = 1 - SLOT / 2
    assert cold == pytest.approx(np.mean([10, 10 * (1 + lost) / 2, 10 * (1 + lost) / 2 * lost]))
    assert warm == pytest.approx(np.mean([10 * lost, 10 * lost**2, 10 * lost**3]))


def test_arrivals_are_counted_in_rows_and_queue():
    arrivals = Arrivals()
    for look in range(200):
        rows = np.arange(5 * look, 5 * look + 20)
        arrivals.see(seen(20, look, now=0.5 * look, request_ids=rows, waiting=2 * look))
    assert arrivals.rate == pytest.approx((5 + 2) / 0.5, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 40), st.integers(0, 300)), min_size=1, max_size=60))
@settings(max_examples=20)
def test_without_a_horizon_it_is_kv_priced_and_without_room_goodput(steps):
    settings_of = {"kv_priced": {}, "model_predictive": {"horizon": 0}}
    pair = [get_policy(name, parameters, Linear()) for name, parameters in settings_of.items()]
    last = [
        get_policy("goodput", {"margin": 1.0}, Linear()),
        get_policy("model_predictive", {"horizon": 0, "room": 1.0}, Linear()),
    ]
    for number, (rows, waiting, free) in enumerate(steps):
        observation = seen(rows, number, context=900, pending=2, waiting=waiting, kv_free=free)
        told = Outcome(number, 0.02, np.arange(rows), np.full(rows, 2), np.full(rows, number % 2), None)
        for one, other in (pair, last):
            assert one.plan(observation) == other.plan(observation)
            one.learn(told)
            other.learn(told)


def test_a_useless_drafter_goes_where_its_memory_keeps_requests_waiting_and_a_good_one_stays():
    for accepted, wanted in ((0, "dropped"), (4, "on")):
        policy = get_policy("model_predictive", {}, Linear())
        for step in range(200):
            observation = seen(32, step, now=0.05 * step, context=900, pending=4, waiting=50, kv_free=0)
            plan = policy.plan(observation._replace(generated=np.full(32, 200)))
            policy.learn(Outcome(step, 0.05, np.arange(32), np.full(32, 4), np.full(32, accepted), None))
        assert plan.drafter == wanted


@pytest.mark.parametrize("horizon", [-1, float("nan"), "soon", True])
def test_a_bad_horizon_is_refused(horizon):
    with pytest.raises(PolicyError, match="horizon"):
        get_policy("model_predictive", {"horizon": horizon}, Linear())
