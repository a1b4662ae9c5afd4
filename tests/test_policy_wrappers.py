"""Wrappers: what they do to an inner policy that follows a script, and that a scenario can write them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsim.errors import PolicyError
from sdsim.policies import get_policy
from sdsim.policy import Plan
from sdsim.run import main
from sdsim.simulation import simulate
from sdsim.testing import check_policy
from tests.policy_drive import Linear, outcome, run, seen
from tests.scenario_texts import GOOD, load, mistakes

SCRIPT = "tests.test_policy_wrappers:Script"
WRAPPERS = ("cooldown", "graph_snap", "hysteresis", "min_dwell", "safe", "staleness")


class Script:
    """Plans as told: -1 drops the drafter, 0 keeps it warm, K drafts K. Begins again at the end."""

    lossless_at_temperature = True

    def __init__(self, plans, needs=()):
        self.lengths = tuple(range(max(*plans, 0) + 1))
        self.needs = frozenset(needs)
        self.plans, self.seen, self.learnt = plans, [], []

    def plan(self, observation):
        k = self.plans[len(self.seen) % len(self.plans)]
        self.seen.append((observation.step, len(observation.request_ids)))
        lengths = np.minimum(observation.pending, observation.request_ids)
        return Plan(max(k, 0), lengths, "on" if k > 0 else "warm" if k == 0 else "dropped", 512)

    def learn(self, outcome):
        self.learnt.append(outcome.step)


def scripted(kind, plans, cost=None, **parameters):
    return get_policy(kind, {"inner": {"kind": SCRIPT, "plans": plans}, **parameters}, cost or Linear())


def drafts(policy, steps):
    """Return what *policy* drafts in each step; -1 where it drops the drafter."""
    plans = [policy.plan(seen(8, step)) for step in range(steps)]
    return [-1 if plan.drafter == "dropped" else plan.draft_length for plan in plans]


def test_hysteresis_by_hand():
    # up after three above in a row; a plan for the held length starts the count anew; down after two below
    policy = scripted("hysteresis", [2, 3, 4, 3, 4, 3, 4, 4, 1, 4, 1, 0, -1, -1], up=3, down=2)
    assert drafts(policy, 14) == [2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 0, 0, -1]


def test_hysteresis_of_one_changes_nothing():
    plans = [2, 0, 4, -1, 3, 3, 0, 1]
    assert drafts(scripted("hysteresis", plans, up=1, down=1), 8) == plans


def test_min_dwell_by_hand():
    policy = scripted("min_dwell", [1, 2, 3, 4, 4, 0, 0, 0, 2], steps=3)
    assert drafts(policy, 9) == [1, 1, 1, 4, 4, 4, 0, 0, 0]


def test_cooldown_by_hand():
    policy = scripted("cooldown", [3, 0, 3, 3, 2, 2, -1, 0, 4, 4, 4], steps=4)
    assert drafts(policy, 11) == [3, 0, 0, 0, 0, 2, -1, 0, 0, 0, 4]


def test_cooldown_keeps_a_dropped_drafter_out():
    policy = scripted("cooldown", [3, -1, 3, 3, 3], steps=3)
    assert drafts(policy, 5) == [3, -1, -1, -1, 3]


@pytest.mark.parametrize(
    ("rows", "length", "snapped"),
    [
        (3, 1, 1),  # 6 tokens pad to 8: 3 x 3 = 9 do not fit
        (2, 2, 3),  # 6 pad to 8, which 2 x 4 fill
        (16, 2, 2),  # 48 are captured: 64 would need more
        (15, 2, 2),  # 45 pad to 48; 60 would need 64
        (1, 1, 1),
        (1, 2, 3),  # 3 pad to 4
        (200, 2, 1),  # 600 are above the largest, 512, which holds 400
        (300, 2, 0),
        (8, 0, 0),
    ],
)
def test_graph_snap(rows, length, snapped):
    policy = scripted("graph_snap", [length, 4])
    plan = policy.plan(seen(rows, pending=4))
    assert plan.draft_length == snapped
    assert plan.drafter == ("on" if snapped else "warm")
    assert plan.prefill_budget == 512


def test_graph_snap_to_sizes_of_ones_own():
    policy = scripted("graph_snap", [1, 6], sizes=[64, 20])
    assert policy.plan(seen(5)).draft_length == 3  # 10 pad to 20
    with pytest.raises(PolicyError, match="size"):
        scripted("graph_snap", [1], sizes=[0])


def test_staleness_shows_the_state_of_then_under_the_step_of_now():
    policy = scripted("staleness", [1, 2, 3], steps=2)
    for step, rows in enumerate([4, 5, 6, 7, 8]):
        policy.plan(seen(rows, step))
    assert policy.inner.seen == [(0, 4), (1, 4), (2, 4), (3, 5), (4, 6)]


def test_staleness_moves_verify_lengths_by_request():
    # the script verifies min(pending, id) of a row. Ids 7, 3, 9 become 9, 4, 7, 2, 3: 4 and 2 are new and verify all
    policy = scripted("staleness", [4], steps=1)
    then = seen(3, 0, pending=np.array([4, 4, 2]), request_ids=np.array([7, 3, 9]))
    now = seen(5, 1, pending=np.array([3, 3, 3, 3, 1]), request_ids=np.array([9, 4, 7, 2, 3]))
    policy.plan(then)
    assert policy.plan(now).verify_lengths.tolist() == [2, 3, 3, 3, 1]
    assert policy.plan(seen(0, 2)).verify_lengths.tolist() == []
    assert policy.plan(seen(2, 3, pending=2)).verify_lengths.tolist() == [2, 2]  # then there were no rows


def test_staleness_keeps_what_it_saw():
    policy = scripted("staleness", [4], steps=1)
    ids = np.array([5, 6])
    policy.plan(seen(2, 0, pending=4, request_ids=ids))
    ids[:] = 1  # the scheduler writes over its rows
    assert policy.plan(seen(2, 1, pending=9, request_ids=np.array([5, 6]))).verify_lengths.tolist() == [4, 4]


# Safe


def times_against_base(policy, accepted, steps=4000, lag=0, base=None):
    """Return the times of a run's steps, of decoding their tokens without drafts, by the same prices, 16 rows."""
    prices, pending, took, alone, waiting, plans = Linear(), 0, [], [], [], []
    base = base or prices.off_seconds
    for step in range(steps):
        plan = policy.plan(seen(16, step, now=sum(took[-1:]), pending=pending))
        k, won = plan.draft_length, min(accepted(step), pending)
        drafting = prices.step_seconds(16, k, 96) - prices.step_seconds(16, 0, 96) - 16e-4 * k
        seconds = prices.off_seconds(16, 96) + 16e-4 * pending
        seconds += (prices.step_seconds(16, 0, 96) - prices.off_seconds(16, 96)) * (plan.drafter != "dropped")
        seconds += drafting if k else 0.0
        took.append(seconds)
        alone.append((1 + won) * base(16, 96))
        plans.append(plan)
        waiting.append(outcome(step, np.full(16, won), pending, seconds))
        while len(waiting) > lag:
            policy.learn(waiting.pop(0))
        pending = k
    return took, alone, plans


def time_against_base(*given, **keys):
    """Return the same, summed."""
    took, alone, plans = times_against_base(*given, **keys)
    return sum(took), sum(alone), plans


@given(
    inner=st.one_of(
        st.lists(st.integers(-1, 6), min_size=1, max_size=12).map(lambda plans: {"kind": SCRIPT, "plans": plans}),
        st.sampled_from([{"kind": "ucb"}, {"kind": "exp3"}, {"kind": "thompson"}, {"kind": "nightjar"}]),
    ),
    accepted=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    epsilon=st.floats(0.005, 0.3),
    allowance=st.floats(0.05, 2.0),
    lag=st.integers(0, 5),
)
@settings(max_examples=40)
def test_safe_holds_its_bound_from_any_moment_on_whatever_is_tried_and_accepted(
    inner, accepted, epsilon, allowance, lag
):
    """Conservative exploration: the bound is of the account, and needs nothing of the policy or of the acceptances."""
    policy = get_policy("safe", {"inner": inner, "epsilon": epsilon, "allowance": allowance}, Linear())
    took, alone, _ = times_against_base(policy, lambda step: accepted[step % len(accepted)], 300, lag)
    behind = np.cumsum(np.array(took) - (1 + epsilon) * np.array(alone))
    lowest = np.minimum.accumulate(np.append(0.0, behind))[:-1]
    one_step = 6 * 16e-4  # the drafts of a step, verified in the next
    assert (behind - lowest).max() <= allowance + one_step


@pytest.mark.parametrize(("epsilon", "allowance", "lag"), [(0.05, 1.0, 0), (0.02, 0.1, 0), (0.1, 0.3, 4)])
def test_safe_holds_its_bound_when_nothing_is_accepted(epsilon, allowance, lag):
    policy = scripted("safe", [4], epsilon=epsilon, allowance=allowance)
    took, alone, plans = time_against_base(policy, lambda step: 0, lag=lag)
    one_step = 4 * 16e-4  # the drafts of a step, verified in the next
    assert took <= (1 + epsilon) * alone + allowance + one_step
    assert took > alone  # it did try
    assert {plan.draft_length for plan in plans} == {0, 4}


def test_without_safe_the_same_policy_is_far_slower():
    took, alone, _ = time_against_base(get_policy("fixed", {"length": 4}), lambda step: 0)
    assert took > 1.5 * alone


def test_safe_does_not_disturb_what_pays():
    policy = scripted("safe", [4, 3, 4, 2])
    took, alone, plans = time_against_base(policy, lambda step: 4)
    assert [plan.draft_length for plan in plans[:4]] == [4, 3, 4, 2]
    assert {plan.draft_length for plan in plans} == {2, 3, 4}
    assert took < 0.6 * alone


def test_safe_stops_soon_after_acceptance_collapses():
    # the account holds no more than its allowance, however long speculation paid
    policy = scripted("safe", [4], allowance=0.2)
    _, _, plans = time_against_base(policy, lambda step: 4 if step < 3000 else 0)
    after = [plan.draft_length for plan in plans[3000:]]
    worst = Linear().step_seconds(16, 4, 96) - 1.05 * Linear().off_seconds(16, 96)
    assert after[: int(0.2 / worst)].count(4) >= 0.2 / worst - 3
    assert after.count(4) < 0.2 / worst + 1000 * 0.05 * Linear().off_seconds(16, 96) / worst


def test_safe_to_warm_never_drops_and_bounds_against_warm():
    policy = scripted("safe", [4], fallback="warm", epsilon=0.03, allowance=0.2)
    prices = Linear()

    def warm(rows, context):
        return prices.step_seconds(rows, 0, context)

    took, alone, plans = time_against_base(policy, lambda step: 0, base=warm)
    assert {plan.drafter for plan in plans} == {"on", "warm"}
    assert took <= 1.03 * alone + 0.2 + 4 * 16e-4


def test_safe_drops_the_drafter_where_keeping_it_warm_is_not_covered():
    class DearWarm(Linear):
        def step_seconds(self, rows, draft_length, context, prefill_tokens=0):
            return super().step_seconds(rows, draft_length, context, prefill_tokens) + 0.004

    policy = scripted("safe", [4], cost=DearWarm(), allowance=0.01)
    plans = []
    for step in range(60):
        plans.append(policy.plan(seen(16, step)))
        dropped = plans[-1].drafter == "dropped"
        seconds = Linear().off_seconds(16, 96) if dropped else DearWarm().step_seconds(16, plans[-1].draft_length, 96)
        policy.learn(outcome(step, np.zeros(16), 0, seconds))
    assert plans[-1].drafter == "dropped"
    assert [plan.drafter for plan in plans].count("dropped") > 40


def test_safe_settles_lost_outcomes_at_their_worst():
    policy = scripted("safe", [4], allowance=0.05)
    plans = [policy.plan(seen(16, step)) for step in range(1000)]
    worst = Linear().step_seconds(16, 4, 96) - 1.05 * Linear().off_seconds(16, 96)
    assert sum(plan.draft_length == 4 for plan in plans) == int(0.05 / worst)
    assert len(policy._open) <= 256


# All wrappers


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize(
    "inner",
    [
        "goodput", "off", False, "cascade_per_request", {"kind": "ucb", "hold": 3}, {"kind": "echo", "budget": 300},
        {"kind": "staleness", "inner": "nightjar", "steps": 3},
    ],
)  # fmt: skip
def test_wrappers_keep_the_contract(kind, inner):
    # nested copies and sorts of rows take longer than one law may; their speed is tested on its own
    check_policy(lambda: get_policy(kind, {"inner": inner}, Linear()), budget_s=None)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_show_the_inner_policy(kind):
    policy = get_policy(kind, {"inner": {"kind": "echo", "length": 3}})
    assert policy.lengths == (0, 3)
    assert policy.needs == {"confidence"}
    assert policy.lossless_at_temperature is False
    assert policy.loads_drafter is True
    assert policy.label.startswith("echo+")
    assert get_policy(kind, {"inner": "off"}).loads_drafter is False
    inner = scripted(kind, [2])
    inner.learn(outcome(5, [1], 2))
    assert inner.inner.learnt == [5]


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ("godput", "did you mean goodput"), (3, "a policy's name"), (True, "a policy's name"), ([], "a policy's name"),
        ({"length": 3}, "a policy's name"), ({"kind": "fixed"}, "'length' is missing"),
        ({"kind": "fixed", "length": 99}, "0 to 16"), ("", "unknown policy"),
    ],
)  # fmt: skip
def test_bad_inner_policies_are_refused(kind, inner, said):
    with pytest.raises(PolicyError, match=said):
        get_policy(kind, {"inner": inner})


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("hysteresis", {"up": 0}), ("hysteresis", {"down": 1.5}), ("min_dwell", {"steps": 0}),
        ("cooldown", {"steps": 0}),
        ("graph_snap", {"sizes": []}), ("graph_snap", {"sizes": 8}), ("staleness", {"steps": -1}),
        ("safe", {"epsilon": 0}), ("safe", {"allowance": float("inf")}), ("safe", {"fallback": "on"}),
        ("min_dwell", {"step": 3}),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(kind, parameters):
    with pytest.raises(PolicyError, match=r"allowed|did you mean"):
        get_policy(kind, {"inner": "goodput", **parameters})


@pytest.mark.parametrize("kind", ["cascade", "ucb", "nightjar", "thompson"])
def test_a_wrapped_learner_still_finds_the_best(kind):
    # what really ran is credited, so that a wrapper that holds lengths back does not mislead the learner
    tokens = {0: 1.0, 1: 1.3, 2: 2.2, 3: 1.6, 4: 1.4}
    rng = np.random.default_rng(5)

    def accepted(k, step):
        return rng.binomial(k, (tokens[k] - 1) / k, 32) if k else 0

    policy = get_policy("min_dwell", {"inner": kind, "steps": 3})
    lengths, _ = run(policy, 4000, lambda k: 0.012, accepted, rows=32, lag=1)
    assert lengths[2000:].count(2) > 0.5 * 2000


# Scenarios


def test_a_scenario_writes_wrappers(tmp_path):
    policy = "policy: [{kind: hysteresis, inner: goodput, up: 4}, {kind: safe, inner: {kind: ucb, lengths: [0, 2]}}]\n"
    scenario = load(tmp_path, GOOD.replace("policy: {kind: fixed, length: 3}\n", policy))
    first, second = scenario.policies
    assert (first.kind, first.parameters) == ("hysteresis", {"inner": "goodput", "up": 4})
    assert second.parameters["inner"] == {"kind": "ucb", "lengths": [0, 2]}
    again = load(tmp_path, json.dumps(scenario.resolved()))
    assert again == scenario
    off = load(tmp_path, GOOD.replace("{kind: fixed, length: 3}", "{kind: min_dwell, inner: off}"))
    result = simulate(off.model_copy(update={"until": 2.0}))
    assert result.summary["policy"] == "off+min-dwell"
    assert result.summary["speculation"]["off_fraction"] == 1.0


def test_a_scenarios_mistakes_in_an_inner_policy_are_told(tmp_path):
    def told(policy):
        return mistakes(tmp_path, GOOD.replace("{kind: fixed, length: 3}", policy))

    for inner in ("godput", "{kind: godput}"):
        (line,) = told(f"{{kind: safe, inner: {inner}}}")
        assert line.startswith("x.yaml:6: policy: unknown policy 'godput'")
        assert "did you mean goodput" in line
    assert "x.yaml:6: policy: policy fixed: parameter 'length' is missing" in told("{kind: safe, inner: fixed}")[0]
    assert "'inner' is missing" in told("{kind: safe}")[0]


def test_the_command_runs_a_wrapper(tmp_path, capsys):
    file = tmp_path / "x.yaml"
    file.write_text(GOOD.replace("until: 60s", "until: 3s"))
    assert main([str(file), "--policy", "{kind: staleness, inner: {kind: fixed, length: 2}}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == "fixed-2+stale-1"
