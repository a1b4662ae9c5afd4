"""Every registered policy keeps the contract, and each follows its own law."""

from __future__ import annotations

import math
import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from sdsim.errors import PolicyError
from sdsim.policies import BUILT_IN, FlatCosts, check_parameters, get_policy, policy_class, policy_names
from sdsim.policy import Observation, Outcome
from sdsim.testing import check_policy, observations, plan_seconds
from tests.machine import assert_in_budget

PARAMETERS = {
    "fixed": {"length": 3},
    "batch_table": {"table": [[1, 16, 4], [33, 64, 2], [65, 128, 0]]},
    "disable_by_batch": {"length": 3, "threshold": 32},
    "batch_context_table": {"table": [[1, 16, 0, 999, 3], [1, 16, 1000, 9999, 4], [17, 64, 2], [65, 256, 0]]},
    "disable_by_queue": {"length": 3, "threshold": 4},
    "cooldown": {"inner": "goodput"},
    "graph_snap": {"inner": "goodput"},
    "hysteresis": {"inner": "goodput"},
    "min_dwell": {"inner": "goodput"},
    "safe": {"inner": "goodput"},
    "staleness": {"inner": {"kind": "cascade_per_request"}, "steps": 2},
}
SIMPLE = (
    "off", "fixed", "batch_table", "batch_context_table", "disable_by_batch", "disable_by_queue", "goodput",
    "position_goodput", "moesd", "magicdec",
)  # fmt: skip


class Slope:
    """Prices that rise with tokens, so that long drafts stop paying at large batch."""

    def step_seconds(self, rows, draft_length, context, prefill_tokens=0):
        return 0.01 + 1e-4 * rows * (draft_length + 1) + 5e-4 * draft_length

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        return 0.01 + 1e-4 * verify_tokens + 5e-4 * draft_length

    def off_seconds(self, rows, context, prefill_tokens=0):
        return 0.01 + 1e-4 * rows


def seen(rows: int, prefills: int = 0, context: int = 100, step: int = 0) -> Observation:
    ones = np.ones(rows, dtype=np.int64)
    return Observation(step, 0.0, np.arange(rows), context * ones, ones, None, 0, 0, 100, (0, 1, 2, 3, 4), 0 * ones,
                       prefill_requests=prefills)  # fmt: skip


class Halves:
    """The truth of requests of which every draft is accepted with a chance of a half, and every second one is."""

    def rates(self, request_ids, length):
        return np.full((len(request_ids), length), 0.5)

    def chances(self, request_ids, generated, length):
        return self.rates(request_ids, length)

    def depths(self, request_ids, generated, pending):
        return np.where(request_ids % 2, pending, 0)


ORACLES = sorted(name for name in BUILT_IN if "truth" in getattr(policy_class(name), "needs", ()))


@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() - ORACLES))
def test_contract(name):
    check_policy(lambda: get_policy(name, PARAMETERS.get(name), Slope()), budget_s=None)


@pytest.mark.speed
@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() - ORACLES))
def test_a_plan_takes_fifty_microseconds_at_most(name):
    policy = get_policy(name, PARAMETERS.get(name), Slope())
    lengths = tuple(sorted({0, *policy.lengths}))
    assert_in_budget(lambda: plan_seconds(policy, lengths, enough=math.inf))


@pytest.mark.parametrize("name", ORACLES)
def test_oracles_keep_the_contract_but_for_their_time(name):
    def informed():
        policy = get_policy(name, PARAMETERS.get(name), Slope())
        policy.truth = Halves()
        return policy

    check_policy(informed, budget_s=None)


@pytest.mark.parametrize("name", ORACLES)
def test_oracles_refuse_to_plan_without_the_truth(name):
    with pytest.raises(PolicyError, match="which only a simulation knows; use another"):
        get_policy(name, PARAMETERS.get(name), Slope()).plan(seen(2))


def test_policies_import_no_heavy_package():
    heavy = ("numba", "scipy", "pydantic", "yaml")
    code = f"import sys, sdsim.policies.goodput; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_batch_table_is_vllms():
    # ranges inclusive; the gap 17..32 carries 4, the tail carries 0; requests that prefill count one each
    table = get_policy("batch_table", PARAMETERS["batch_table"])
    assert [table.plan(seen(n)).draft_length for n in (1, 16, 17, 32, 33, 64, 65, 128, 129, 5000)] == [
        4, 4, 4, 4, 2, 2, 0, 0, 0, 0]  # fmt: skip
    assert table.plan(seen(30, prefills=3)).draft_length == 2
    assert table.plan(seen(200)).drafter == "warm"
    clamped = get_policy("batch_table", {"table": [[1, 8, 9]], "longest": 5})
    assert clamped.plan(seen(3)).draft_length == 5


@pytest.mark.parametrize(
    "table", [[], "x", [[2, 3, 1]], [[1, 4, 2], [4, 8, 1]], [[1, 4]], [[1, 4, 99]], [[1, 0, 2]], [[1, 2, 1.5]]]
)
def test_batch_table_refuses(table):
    with pytest.raises(PolicyError):
        get_policy("batch_table", {"table": table})


def test_disable_by_batch():
    policy = get_policy("disable_by_batch", {"length": 3, "threshold": 8})
    assert [policy.plan(seen(n)).draft_length for n in (1, 8, 9)] == [3, 3, 0]


def test_goodput_is_the_argmax():
    lengths = [0, 1, 2, 3, 4]
    policy = get_policy("goodput", {"lengths": lengths, "prior": 0.8}, Slope())
    for rows in (1, 4, 16, 64, 200):

        def goodput(k, rows=rows):
            tokens = (1 - 0.8 ** (k + 1)) / 0.2
            return tokens / Slope().step_seconds(rows, k, 0) * (1.1 if k == 0 else 1.0)

        assert policy.plan(seen(rows)).draft_length == max(lengths, key=goodput)


def test_goodput_learns_what_is_accepted():
    policy = get_policy("goodput", {"prior": 0.9}, Slope())
    assert policy.plan(seen(16)).draft_length > 0
    for step in range(200):
        verified = np.full(16, 4)
        policy.learn(Outcome(step, 0.02, np.arange(16), verified, np.zeros(16, dtype=np.int64), None))
    assert policy.plan(seen(16)).draft_length == 0


def test_acceptance_estimate_is_unbiased():
    rng = np.random.default_rng(0)
    policy = get_policy("goodput", {"prior": 0.1}, Slope())
    for step in range(400):
        runs = np.minimum(rng.geometric(1 - 0.7, 64) - 1, 4)
        policy.learn(Outcome(step, 0.02, np.arange(64), np.full(64, 4), runs, None))
    assert policy._acceptance.rate == pytest.approx(0.7, abs=0.01)


def test_moesd_speculates_only_where_the_speedup_exceeds_one():
    policy = get_policy("moesd", {"rate": 0.3}, Slope())
    small, large = policy.plan(seen(2)), policy.plan(seen(250))
    assert small.draft_length > 0
    assert large.draft_length == 0
    assert large.drafter == "warm"


@pytest.mark.parametrize(
    ("kind", "parameters", "said"),
    [
        ("godput", {}, "did you mean goodput"),
        ("fixed", {}, "'length' is missing"),
        ("fixed", {"lenght": 3}, "did you mean length"),
        ("fixed", {"length": -1}, "0 to 16"),
        ("fixed", {"length": True}, "0 to 16"),
        ("fixed", {"length": 2.5}, "0 to 16"),
        ("goodput", {"lengths": 3}, "a list"),
        ("goodput", {"prior": float("nan")}, "number from 0 to 1"),
        ("goodput", {"cost": 1}, "unknown parameter 'cost'"),
        ("nowhere:Nothing", {}, "cannot be loaded"),
        ("sdsim.errors:SdsimError", {}, "no plan and learn"),
    ],
)
def test_bad_policies_are_refused(kind, parameters, said):
    with pytest.raises(PolicyError, match=said):
        check_parameters(kind, parameters)


def test_third_party_class_by_path():
    policy = get_policy("sdsim.policies.fixed:Fixed", {"length": 2})
    assert policy.plan(next(observations((0, 2)))).draft_length == 2


def test_an_installed_package_adds_policies_by_name(monkeypatch):
    point = EntryPoint("theirs", "sdsim.policies.fixed:Fixed", "sdsim.policies")
    monkeypatch.setattr("sdsim.policies.entry_points", lambda group: [point] if group == point.group else [])
    assert "theirs" in policy_names()
    assert get_policy("theirs", {"length": 2}).plan(next(observations((0, 2)))).draft_length == 2


def test_names():
    assert set(BUILT_IN) <= set(policy_names())
    assert FlatCosts().step_seconds(1, 1, 1) == 1.0
