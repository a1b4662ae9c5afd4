"""The default policy, part by part: the step that it chooses, what it believes of drafts, and when its drafter goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsim.errors import PolicyError
from sdsim.policies import get_policy
from sdsim.policies.belief import Belief
from sdsim.policies.forecast import Forecast
from sdsim.policies.residency import Residency
from sdsim.policies.step_rule import Choice, StepRule
from sdsim.policy import Outcome
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate
from tests.policy_drive import Linear, outcome, run, seen

LENGTHS = (0, 1, 2, 3, 4)
CLOSED = {
    "model": "qwen3-30b-a3b", "draft": {"kind": "model", "model": "qwen2-0.5b"}, "gpus": "1 x h200", "seed": 3,
    "workload": {"kind": "closed", "concurrency": 32, "limit": 120, "lengths": {"prompt": 200, "output": 300}},
}  # fmt: skip


def expected(rate):
    """Return the tokens of a row that verifies 0, 1, ... drafts accepted at *rate*."""
    return np.cumsum(np.float64(rate) ** np.arange(17))


class Drafting(Linear):
    """The drafting is priced too."""

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        tokens = verify_tokens + prefill_tokens
        return self.fixed + self.token * tokens + self.draft * draft_length + self.stored * rows * context

    def step_seconds(self, rows, draft_length, context, prefill_tokens=0):
        return self.verify_seconds(rows, rows * (1 + draft_length), context, prefill_tokens, draft_length)


class Knee(Drafting):
    """Prompt tokens beyond the thousandth cost ten times as much."""

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        flat = super().verify_seconds(rows, verify_tokens, context, prefill_tokens, draft_length)
        return flat + 9 * self.token * max(verify_tokens + prefill_tokens - 1024, 0)


class Captured(Drafting):
    """A step of more than 512 tokens is launched kernel by kernel."""

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        flat = super().verify_seconds(rows, verify_tokens, context, prefill_tokens, draft_length)
        return flat + (0.04 if verify_tokens + prefill_tokens > 512 else 0.0)


@given(
    rows=st.sampled_from([1, 7, 31, 127]), rate=st.floats(0.05, 0.95), token=st.floats(1e-6, 2e-3),
    draft=st.floats(0, 5e-3),
)  # fmt: skip
@settings(max_examples=60)
def test_without_prompts_the_draft_length_is_that_of_the_highest_goodput(rows, rate, token, draft):
    """SmartSpec's law, and DSpark's for the drafts to come."""
    cost, tokens = Drafting(token=token, draft=draft), expected(rate)
    choice = StepRule(cost, LENGTHS).choose(seen(rows), tokens, None)
    goodput = [tokens[k] / cost.step_seconds(rows, k, 100) for k in LENGTHS]
    assert goodput[LENGTHS.index(choice.length)] == pytest.approx(max(goodput), rel=1e-6)
    assert choice.chunk is None


@given(rate=st.floats(0.1, 0.95), token=st.floats(1e-6, 2e-3), prompts=st.integers(1, 4000))
@settings(max_examples=40)
def test_a_prompt_that_ends_with_the_step_does_not_change_what_is_drafted_for_the_next(rate, token, prompts):
    cost, tokens = Drafting(token=token), expected(rate)
    rule = StepRule(cost, LENGTHS, rides=False)
    alone, beside = (rule.choose(seen(31, prefill_tokens=p), tokens, None) for p in (0, prompts))
    assert beside.length == alone.length


@given(rate=st.floats(0.1, 0.95), token=st.floats(1e-5, 3e-3))
@settings(max_examples=60)
def test_the_number_of_alike_drafts_verified_has_the_highest_worth(rate, token):
    rows, cost, tokens = 31, Drafting(token=token), expected(rate)
    alive = np.repeat((rate ** np.arange(1.0, 5.0))[:, None], rows, axis=1)
    choice = StepRule(cost, LENGTHS).choose(seen(rows, pending=4), tokens, alive)
    theta = max(rows * tokens[k] / cost.step_seconds(rows, k, 100) for k in LENGTHS)

    def worth(depth):
        return rows * tokens[depth] - theta * cost.verify_seconds(rows, rows * (1 + depth), 100)

    depths = set(np.broadcast_to(4 if choice.verify is None else choice.verify, rows).tolist())
    assert len(depths) == 1
    assert worth(depths.pop()) == pytest.approx(max(map(worth, range(5))), rel=1e-6, abs=1e-6 * rows)


def test_likelier_rows_have_more_drafts_verified():
    rows = 31
    alive = np.where(np.arange(rows) < 10, 0.95, 0.2) ** np.arange(1.0, 5.0)[:, None]
    choice = StepRule(Drafting(token=4e-3), LENGTHS).choose(seen(rows, pending=4), expected(0.6), alive)
    assert choice.verify[:10].min() > choice.verify[10:].max()


def test_no_more_is_verified_than_the_captured_size_holds():
    rows, alive = 127, np.repeat((0.9 ** np.arange(1.0, 5.0))[:, None], 127, axis=1)
    choose = StepRule(Captured(token=1e-6), LENGTHS, captured=(512,)).choose
    choice = choose(seen(rows, pending=4), expected(0.9), alive)
    assert choice.length == 3
    assert rows + choice.verify.sum() <= 512
    assert choice.verify.sum() > 300


@pytest.mark.parametrize("sizes", [(1, 2), (2, 3, 4)])
def test_neighbouring_captured_sizes_leave_no_slope_to_go_by(sizes):
    """One row, and graphs of one token more: every draft up to the size is free, or none is taken."""
    alive = 0.9 ** np.arange(1.0, 5.0)[:, None]
    choice = StepRule(Drafting(token=1e-6), LENGTHS, captured=sizes).choose(seen(1, pending=4), expected(0.9), alive)
    verified = 4 if choice.verify is None else int(choice.verify[0])
    assert 1 + verified in (*sizes, 5)


def test_where_requests_wait_for_memory_the_drafter_goes_sooner():
    """Its room would hold more rows, which decode alone the faster."""

    def steps_kept(kv_free):
        residency, seconds = Residency(Linear(), 1), 0.02
        choice = Choice(1, None, None, 33.0, seconds, 1.02, seconds, seconds - 0.001, seconds - 0.002)
        observation = seen(32, waiting=1)._replace(kv_free=kv_free)
        for step in range(10_000):
            residency.see(observation, choice)
            if not residency.loaded:
                return step
        return 10_000

    assert steps_kept(0) < steps_kept(10**6)


def test_chunks_are_cut_where_prompt_tokens_grow_dear_and_nowhere_else():
    step = seen(31, prefill_tokens=3000, prefill_requests=3)
    assert StepRule(Drafting(), LENGTHS).choose(step, expected(0.7), None).chunk is None
    cut = StepRule(Knee(), LENGTHS).choose(step, expected(0.7), None).chunk
    assert 1000 <= cut <= 1024
    assert StepRule(Knee(), LENGTHS, rides=False).choose(step, expected(0.7), None).chunk is None
    assert StepRule(Knee(), LENGTHS).choose(step._replace(waiting=1), expected(0.7), None).chunk is None


# What it believes


def taught(belief, rates, steps, rng, start=0, positions=4):
    """Let *belief* see rows whose drafts are accepted at *rates*; return the survivals that it ends with."""
    rows = len(rates)
    for step in range(start, start + steps):
        alive = belief.of(seen(rows, step, pending=positions), rows * positions)
        won = rng.random((rows, positions)) < np.asarray(rates)[:, None]
        accepted = np.logical_and.accumulate(won, axis=1).sum(axis=1)
        belief.learn(outcome(step, accepted, positions))
    return alive


def test_belief_tells_requests_apart():
    alive = taught(Belief(), [0.9] * 8 + [0.3] * 8, 200, np.random.default_rng(0))
    assert alive[0, :8].min() > 0.75
    assert alive[0, 8:].max() < 0.45


def test_belief_does_not_tell_apart_what_is_alike():
    alive = taught(Belief(), [0.7] * 32, 150, np.random.default_rng(1))
    assert alive[0].std() < 0.03
    assert alive[0].mean() == pytest.approx(0.7, abs=0.03)


def test_belief_forgets_when_the_traffic_changes():
    belief, rng = Belief(), np.random.default_rng(2)
    taught(belief, [0.9] * 16, 300, rng)
    alive = taught(belief, [0.2] * 16, 40, rng, start=300)
    assert alive[0].mean() == pytest.approx(0.2, abs=0.1)


def test_forecast_is_the_mean_of_what_rows_reached():
    forecast = Forecast()
    for _ in range(60):
        forecast.see(np.repeat([[0.8], [0.4]], 64, axis=1), np.full(64, 2))
    assert forecast.tokens[:4] == pytest.approx([1.0, 1.8, 2.2, 2.4], abs=0.04)


# The drafter's place


def test_a_drafter_that_is_never_right_is_dropped_and_one_that_is_stays():
    cost = Drafting(token=1e-5)
    useless = get_policy("auto", {"lengths": list(LENGTHS)}, cost)
    lengths, _ = run(useless, 3000, lambda k: cost.step_seconds(16, k, 100), lambda k, step: 0)
    assert np.mean(np.array(lengths[-1000:]) > 0) < 0.1
    useful = get_policy("auto", {"lengths": list(LENGTHS)}, cost)
    lengths, _ = run(useful, 600, lambda k: cost.step_seconds(16, k, 100), lambda k, step: k)
    assert set(lengths[-200:]) == {4}


def throughput(policy, **acceptance):
    scenario = scenario_from_mapping(CLOSED | {"policy": policy, "acceptance": {"kind": "iid"} | acceptance})
    return simulate(scenario).summary["output_tokens_per_s"]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3])
def test_auto_is_no_slower_than_no_speculation(rate):
    """All but the first seconds, in which it finds out: a run of 120 requests shows what that costs."""
    assert throughput({"kind": "auto"}, rate=rate) > 0.99 * throughput({"kind": "off"}, rate=rate)


def test_where_requests_wait_for_blocks_a_drafter_that_does_not_pay_goes_sooner():
    """Its memory keeps them waiting; with room to spare, more is lost before it counts as shown."""
    cost, kept = Linear(), {}
    for waiting, free in ((30, 0), (0, 10**6)):
        policy = get_policy("auto", {"lengths": list(LENGTHS)}, cost)
        for step in range(4000):
            plan = policy.plan(seen(32, step, context=4000, pending=1, waiting=waiting, kv_free=free))
            if plan.drafter == "dropped":
                break
            policy.learn(outcome(step, np.zeros(32), 1))
        kept[waiting] = step
    assert kept[30] < kept[0] / 2


def test_auto_is_as_good_as_the_best_constant_length():
    best = max(throughput({"kind": "fixed", "length": k}, rate=0.75) for k in (2, 3, 4))
    assert throughput({"kind": "auto"}, rate=0.75) > 0.99 * best


def test_auto_without_prompts_and_drops_is_prefill_riding():
    cost, rng = Linear(), np.random.default_rng(0)
    auto, riding = (get_policy(name, {}, cost) for name in ("auto", "prefill_riding"))
    for step in range(100):
        observation = seen(16, step, pending=3)
        a, b = auto.plan(observation), riding.plan(observation)
        assert (a.draft_length, a.drafter) == (b.draft_length, b.drafter)
        told = Outcome(step, 0.02, np.arange(16), np.full(16, 3), rng.integers(2, 4, 16), None)
        auto.learn(told)
        riding.learn(told)


@pytest.mark.parametrize("parameters", [{"lengths": 3}, {"captured": 8}, {"captured": [0]}, {"captured": [1.5]}])
def test_bad_parameters(parameters):
    with pytest.raises(PolicyError):
        get_policy("auto", parameters, Linear())
