"""The published batch-level policies follow their own laws: traces worked out by hand or by independent sums."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsim.errors import PolicyError
from sdsim.policies import get_policy
from sdsim.policies.arms import Arms
from sdsim.policies.binned_arms import BinnedArms
from sdsim.policies.exp3 import WeightedArms
from sdsim.policies.ledger import KEPT, Ledger
from sdsim.policies.position_acceptance import PositionAcceptance
from sdsim.policies.position_windows import PositionWindows
from sdsim.policies.priced import catch_up_seconds
from sdsim.policies.request_rates import RequestRates
from tests.policy_drive import Linear, outcome, run, seen

LENGTHS = (0, 1, 2, 3, 4)
BANDITS = ("ucb", "exp3", "thompson", "nightjar")


def changes(lengths):
    """Return the runs of *lengths*: (length, steps)."""
    return [(length, len(list(run))) for length, run in itertools.groupby(lengths)]


# Tables and thresholds


def test_batch_context_table_is_the_rfcs_example():
    table = [[1, 64, 0, 32768, 3], [65, 256, 0, 768, 0], [65, 256, 769, 32768, 2], [257, 512, 0, 32768, 1]]
    policy = get_policy("batch_context_table", {"table": table})
    wanted = {(1, 50): 3, (64, 9000): 3, (65, 768): 0, (256, 769): 2, (256, 99_999): 2, (257, 1): 1, (600, 1): 1}
    for (rows, context), length in wanted.items():
        assert policy.plan(seen(rows, context=context)).draft_length == length
    assert policy.plan(seen(64, context=768, prefill_requests=1)).draft_length == 0
    assert policy.plan(seen(64, context=768, prefill_requests=1)).drafter == "warm"
    assert policy.lengths == (0, 1, 2, 3)


def test_batch_context_table_without_contexts_is_vllms_table():
    rng = np.random.default_rng(3)
    for _ in range(20):
        edges = np.unique(rng.integers(2, 300, 6)).tolist()
        first, table = 1, []
        for edge in edges:
            table.append([first, max(first, edge - int(rng.integers(0, 3))), int(rng.integers(0, 6))])
            first = edge + 1
        dense = [table[0][2]] * 320  # vLLM's lookup: filled range by range, gaps with the value before
        for n in range(320):
            dense[n] = next((k for a, _, k in reversed(table) if a <= n), table[0][2])
        for kind in ("batch_table", "batch_context_table"):
            policy = get_policy(kind, {"table": table})
            assert [policy.plan(seen(n)).draft_length for n in range(1, 320)] == dense[1:]


@pytest.mark.parametrize(
    "table",
    [
        [[1, 4, 2, 3]], [[1, 4, 5, 9, 2]], [[1, 4, 0, 9, 2], [1, 4, 9, 20, 1]], [[1, 4, 0, 9, 2], [3, 8, 0, 9, 1]],
        [[2, 4, 0, 9, 2]], [[1, 4, 0, 9, 2], [5, 8, 0, 9, 1], [1, 4, 10, 20, 1]], [[1, 4, 9, 0, 2]], [[1, 4, 0, 9, 17]],
    ],
)  # fmt: skip
def test_batch_context_table_refuses(table):
    with pytest.raises(PolicyError, match="allowed"):
        get_policy("batch_context_table", {"table": table})


def test_disable_by_queue():
    policy = get_policy("disable_by_queue", {"length": 3, "threshold": 2})
    plans = [policy.plan(seen(500, waiting=waiting)) for waiting in (0, 2, 3)]
    assert [(p.draft_length, p.drafter) for p in plans] == [(3, "on"), (3, "on"), (0, "warm")]


# SGLang


def sglang_trace(policy, rows, accepted, batches, start=0):
    """Feed *batches* batches whose rows accept all they verify up to *accepted*; return the length after each."""
    lengths = []
    for batch in range(start, start + batches):
        length = policy.plan(seen(rows, batch)).draft_length
        policy.learn(outcome(batch, np.full(rows, min(accepted, length)), length))
        lengths.append(policy.plan(seen(rows, batch)).draft_length)
    return lengths


def test_sglang_adaptive_by_hand():
    # slot 1 holds 1, 3, 5, 7 and starts at 5 with the average at 4. Fed with 5, the average is 5 - 0.8^n: above 4.5 at
    # batch 15, the first update after 10 of warm-up and an interval of 5: up to 7. Then fed with 0: 4.965 x 0.8^n is
    # 1.63 at batch 20 (<= 5 - .75 and <= 3 - .75: down to 3), 0.53 at 25 (> 1 - .75: stays), 0.17 at 30 (down to 1).
    policy = get_policy("sglang_adaptive")
    assert sglang_trace(policy, 4, 5, 15) == [5] * 14 + [7]
    assert sglang_trace(policy, 4, 0, 20, start=15) == [7] * 4 + [3] * 5 + [3] * 5 + [1] * 6


def test_sglang_adaptive_stops_and_probes():
    # slot 8 holds 0, 1, 3 and starts at 1 with the average at 0: at batch 15 it is <= 0.5, so off. At 20 it probes 1;
    # fed with 1 from then on, the average is 1 - 0.8^5 = 0.67 > 0.5 at 25: up to 3, whose drafts then count
    policy = get_policy("sglang_adaptive")
    assert sglang_trace(policy, 9, 0, 19) == [1] * 14 + [0] * 5
    assert sglang_trace(policy, 9, 1, 6, start=19) == [1] * 5 + [3]
    assert sglang_trace(policy, 9, 3, 5, start=25) == [3] * 5
    assert policy._slots.of(9).average == pytest.approx(3 - (3 - (1 - 0.8**5)) * 0.8**5)


def test_sglang_adaptive_probes_from_a_neutral_average():
    config = {"1": {"candidate_steps": [0, 2], "warmup_batches": 0, "update_interval": 1}}
    policy = get_policy("sglang_adaptive", {"config": config, "initial_steps": 0})
    assert policy.plan(seen(1)).draft_length == 0
    policy.learn(outcome(0, [0], 0))
    assert policy.plan(seen(1)).draft_length == 2
    assert policy._slots.of(1).average == 1.0


def test_sglang_adaptive_slots_pad_to_captured_batches():
    # 31 rows are padded to 32, 61 to 64; 30 and 60 are captured themselves
    config = {"1": {"candidate_steps": [5]}, "32": {"candidate_steps": [2]}, "64": {"candidate_steps": [0]}}
    policy = get_policy("sglang_adaptive", {"config": config})
    rows = (1, 30, 31, 32, 60, 61, 64, 600)
    assert [policy.plan(seen(n)).draft_length for n in rows] == [5, 5, 2, 2, 2, 0, 0, 0]


def test_sglang_adaptive_ceiling_only_cuts_downwards():
    config = {
        "ema_alpha": 1.0, "warmup_batches": 0, "update_interval": 1, "ceiling_coeff": 1.0,
        "1": {"candidate_steps": [1, 3, 7]},
    }  # fmt: skip
    policy = get_policy("sglang_adaptive", {"config": config, "initial_steps": 7})
    policy.learn(outcome(0, [4], 7))  # 4 > 3 - .75, so no step down by the average; ceil(4) = 4 < 7 cuts to 3
    assert policy.plan(seen(1)).draft_length == 3
    policy.learn(outcome(1, [3], 3))  # 3 > 2.5: up to 7, above the ceiling of 3
    assert policy.plan(seen(1)).draft_length == 7


def test_sglang_adaptive_counts_at_most_its_own_length_and_nothing_unverified():
    config = {"ema_alpha": 0.5, "1": {"candidate_steps": [2]}, "8": {"candidate_steps": [4]}}
    policy = get_policy("sglang_adaptive", {"config": config})
    slot = policy._slots.of(1)
    policy.learn(outcome(0, [4, 4, 1], 4))  # drafted by the other slot: counts as 2, 2, 1
    assert slot.average == pytest.approx(0.5 * 1 + 0.5 * 5 / 3)
    before = slot.average
    policy.learn(outcome(1, [0, 0], 0))
    assert slot.average == before
    assert slot._batches == 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (3, "a mapping"), ({}, "no batch size"), ({"1": [1, 3]}, "a mapping"), ({"1": {}}, "a list of draft lengths"),
        ({"1": {"candidate_steps": [-1]}}, "0 to 16"), ({"1": {"candidate_step": [1]}}, "did you mean candidate_steps"),
        ({"1": {"candidate_steps": [1], "ema_alpha": "x"}}, "a number"),
        ({"1": {"candidate_steps": [1]}, "update_interval": 0}, "from 1"),
    ],
)  # fmt: skip
def test_sglang_adaptive_refuses(config, said):
    with pytest.raises(PolicyError, match=said):
        get_policy("sglang_adaptive", {"config": config})


def test_position_windows_extrapolate_geometrically():
    windows = PositionWindows(4, window=2)
    assert windows.tokens(1) is None
    windows.update(np.array([0, 1, 1, 1]), 1)
    assert windows.tokens(1) == 1.75
    assert windows.tokens(2) == 2.5  # one rate known: repeated
    windows.update(np.array([2, 2, 1, 0]), 2)
    assert windows.tokens(2) == 1 + 0.75 + 0.5
    assert windows.tokens(4) == pytest.approx(1 + 0.75 + 0.5 + 0.5 * (2 / 3) + 0.5 * (2 / 3) ** 2)
    windows.update(np.array([0, 0, 0, 0]), 2)  # the first batch falls out of position 1's window
    assert windows.tokens(1) == 1 + (0.75 + 0) / 2
    assert windows.full(2)
    windows.forget_beyond(1)
    assert not windows.full(2)


def throughput_aware(prices, candidates, lead):
    config = {"1": {"candidate_steps": candidates}}
    return get_policy("throughput_aware", {"config": config, "switch_hysteresis": lead}, prices)


def accepted_at(rate, rows=64):
    rng = np.random.default_rng(0)
    return lambda verified, step: np.minimum(rng.geometric(1 - rate, rows) - 1, verified)


@pytest.mark.parametrize("rate", [0.4, 0.7, 0.9])
def test_throughput_aware_is_the_argmax_after_full_windows(rate):
    prices = Linear()
    policy = throughput_aware(prices, [2, 3, 6], lead=0.0)
    lengths, _ = run(policy, 400, lambda k: 0.02, accepted_at(rate), rows=64)
    assert lengths[:21] == [3] * 21  # the middle candidate, until windows of 20 are full and an interval of 5 is over
    scores = {k: sum(rate**j for j in range(k + 1)) / prices.step_seconds(64, k, 128) for k in (2, 3, 6)}
    assert max(set(lengths[200:]), key=lengths[200:].count) == max(scores, key=scores.get)


def test_throughput_aware_swings_at_length_one():
    # one position known at .6: four drafts seem worth 1 + 4 x .6 tokens, until they are tried
    lengths, _ = run(throughput_aware(Linear(), [1, 4], lead=0.1), 600, lambda k: 0.02, accepted_at(0.6), rows=64)
    assert [length for length, _ in changes(lengths[100:])].count(4) > 5


def test_throughput_aware_needs_a_lead_to_switch():
    # all accepted: the score of 4 over that of 2 is 5/3 x T(2) / T(4) = 1.39
    lengths = {}
    for lead in (0.3, 0.5):
        policy = throughput_aware(Linear(), [1, 2, 4], lead)
        lengths[lead] = run(policy, 40, lambda k: 0.02, lambda k, step: k, rows=16)[0][-1]
    assert lengths == {0.3: 4, 0.5: 2}


def test_throughput_aware_obeys_its_slots():
    config = {"1": {"candidate_steps": [1, 3, 5]}, "32": {"candidate_steps": [1, 2]}}
    policy = get_policy("throughput_aware", {"config": config}, Linear())
    assert policy.plan(seen(4)).draft_length == 3
    assert policy.plan(seen(40)).draft_length == 2  # 3 is no candidate there; nothing known, so the middle
    with pytest.raises(PolicyError, match="positive"):
        get_policy("throughput_aware", {"config": {"1": {"candidate_steps": [0, 1]}}})


# Acceptance by position, and goodput with it


def test_position_acceptance_is_unbiased_under_censoring():
    conditional, rng = np.array([0.9, 0.6, 0.3, 0.8]), np.random.default_rng(1)
    estimate = PositionAcceptance(4, prior=0.5, alpha=0.001)
    for step in range(3000):
        won = np.cumprod(rng.random((32, 4)) < conditional, axis=1).sum(axis=1)
        verified = rng.integers(0, 5, 32)  # rows verify different numbers of drafts
        estimate.update(outcome(step, np.minimum(won, verified), verified))
    assert estimate.rates() == pytest.approx(conditional.tolist(), abs=0.05)
    assert estimate.tokens([0, 2, 4]) == pytest.approx([1, 1 + 0.9 + 0.54, 1 + 0.9 + 0.54 + 0.162 + 0.1296], abs=0.1)


def test_position_acceptance_by_hand():
    estimate = PositionAcceptance(3, prior=0.5, alpha=0.5)
    assert estimate.rates() == [0.5, 0.5, 0.5]
    estimate.update(outcome(0, [2, 0], 2))  # position 1: 1 of 2 trials; position 2: 1 of 1; position 3 never tried
    assert estimate.rates() == pytest.approx([0.5, 0.75, 0.75])
    estimate.update(outcome(0, [0, 0], 3))  # seen before
    estimate.update(outcome(1, [0], 0))  # nothing tried
    assert estimate.rates() == pytest.approx([0.5, 0.75, 0.75])


def test_position_goodput_is_the_argmax_along_the_draft():
    rng, prices, rates = np.random.default_rng(0), Linear(), (0.9, 0.8, 0.1, 0.9)
    policy = get_policy("position_goodput", {"lengths": list(LENGTHS), "alpha": 0.001}, prices)
    for step in range(600):
        won = np.cumprod(rng.random((32, 4)) < rates, axis=1).sum(axis=1)
        policy.learn(outcome(step, won, 4))
    tokens = np.concatenate([[1], 1 + np.cumprod(rates).cumsum()])
    for rows in (1, 8, 32, 64, 256):
        goodput = [tokens[k] / prices.step_seconds(rows, k, 96) for k in LENGTHS]
        assert policy.plan(seen(rows)).draft_length == int(np.argmax(goodput))


# Cascade


def test_cascade_by_hand():
    # U = tokens / slow-down, with 1.0, 1.2, 1.5, 1.3 and 1.0 for 0 to 4 drafts. Four steps of K = 0, then a test from 4
    # down: 3 is better by .3, 2 by .2, 1 is worse than 2, and 3 is known: 2 is kept for 16 steps. The next test starts
    # at 2: up to 3, worse; down to 1, worse. A trial also runs a step that verifies the drafts of the one before.
    utility = {0: 1.0, 1: 1.2, 2: 1.5, 3: 1.3, 4: 1.0}
    policy = get_policy("cascade")
    lengths, _ = run(policy, 90, lambda k: 0.01 * (1 + k) / utility[k], lambda k, step: k)
    tested = [(2, 16 + 4), (3, 5), (1, 5)]
    assert changes(lengths) == [(0, 4), (4, 5), (3, 5), (2, 5), (1, 5), *tested, *tested, (2, 6)]


def test_cascade_backs_off_where_nothing_pays():
    # U(K) falls and is below 1: the test goes 4, 3, 2, 1 up to its four trials; then 0 for 16, 32, 64, ... steps
    policy = get_policy("cascade", {"refresh": 10_000})
    lengths, _ = run(policy, 700, lambda k: 0.01 * (1 + k) * (1 + 0.2 * k), lambda k, step: k)
    off = [steps for length, steps in changes(lengths) if length == 0]
    assert off[0] == 4 + 0
    assert off[1:5] == [16, 32, 64, 128]


def test_cascade_leaves_prompts_out_and_ends_trials_without_clean_steps():
    policy = get_policy("cascade")
    lengths, _ = run(policy, 400, lambda k: 0.01, lambda k, step: k, prompts=lambda step: 512)
    assert changes(lengths)[:3] == [(0, 16), (4, 112), (0, 16)]  # never a base to compare with: the first length
    policy = get_policy("cascade", {"refresh": 10_000})
    lengths, _ = run(policy, 400, lambda k: 0.01, lambda k, step: k, prompts=lambda step: 512 * (step > 100))
    assert set(lengths[130:]) == {4}  # nothing to compare any more: the last best


def test_cascade_survives_lag():
    utility = {0: 1.0, 1: 1.2, 2: 1.5, 3: 1.3, 4: 1.0}
    policy = get_policy("cascade")
    lengths, _ = run(policy, 400, lambda k: 0.01 * (1 + k) / utility[k], lambda k, step: k, lag=3)
    assert lengths.count(2) > 200


def test_request_rates_shrink_towards_all_and_forget():
    rates = RequestRates(prior=0.5)
    for step in range(200):
        rates.update(outcome(step, [4, 0], 4))
    high, low, unknown = rates.of(np.array([0, 1, 7]))
    assert high > 0.9
    assert low < 0.1
    assert unknown == pytest.approx(rates.overall.rate)
    many = np.arange(10, 3000)
    assert len(rates.of(many)) == len(many)
    assert rates.of(np.array([0]))[0] == pytest.approx(rates.overall.rate)  # forgotten


def test_cascade_per_request_gives_each_row_its_own_argmax():
    prices, rng = Linear(token=4e-4), np.random.default_rng(0)
    policy = get_policy("cascade_per_request", {}, prices)
    own = np.repeat([0.05, 0.5, 0.95], 8)
    for step in range(400):
        won = np.array([min(rng.geometric(1 - a) - 1, 4) for a in own])
        policy.learn(outcome(step, won, 4))
    plan = policy.plan(seen(24, step=5, pending=4))
    wanted = []
    for a in own:
        utility = [(1 - a ** (k + 1)) / (1 - a) / prices.step_seconds(24, k, 96) for k in LENGTHS]
        wanted.append(int(np.argmax(utility)))
    assert np.abs(plan.verify_lengths - wanted).max() <= 1  # learnt rates, near the edges of the argmax
    assert plan.verify_lengths[:8].max() == 0
    assert plan.verify_lengths[16:].min() == 4
    assert plan.draft_length == plan.verify_lengths.max()
    probe = policy.plan(seen(24, step=16, pending=4))
    assert probe.verify_lengths.min() == 1


# Bandits


def test_ucb_is_its_formula():
    policy = get_policy("ucb", {"confidence": 0.5})
    arms = Arms(3)
    assert policy.choose(arms)[0] == 2
    arms.plays = [0, 0, 1]
    assert policy.choose(arms)[0] == 1
    arms.plays, arms.pulls, arms.means = [2, 2, 2], [400, 400, 4000], [80.0, 90.0, 100.0]
    bounds = [m / 100 + 0.5 * math.sqrt(math.log(4800) / n) for m, n in zip(arms.means, arms.pulls, strict=True)]
    assert policy.choose(arms)[0] == int(np.argmax(bounds)) == 2
    arms.pulls = [4, 400, 4000]
    assert policy.choose(arms)[0] == 0


def test_ucb_gives_an_arm_up_that_never_pays():
    # length 4 is never verified as such (the engine caps it at 3), so no step credits it
    policy = get_policy("ucb")
    lengths, pending = [], 0
    for step in range(2000):
        lengths.append(policy.plan(seen(16, step, pending=pending)).draft_length)
        policy.learn(outcome(step, np.full(16, pending), pending, 0.01 + 0.001 * pending))
        pending = min(lengths[-1], 3)
    assert lengths[1000:].count(4) < 50


def test_exp3_is_its_formula():
    arms = WeightedArms(3)
    assert arms.chances() == pytest.approx([1 / 3] * 3)
    arms.losses, arms.credited = [2.0, 5.0, 3.0], 24
    eta = math.sqrt(math.log(3) / (3 * 25))
    weights = np.exp(-eta * np.array(arms.losses))
    assert arms.chances() == pytest.approx((weights / weights.sum()).tolist())


def test_exp3_draws_by_its_chances_and_weighs_by_them():
    policy = get_policy("exp3", {"lengths": [0, 1, 2]})
    arms = WeightedArms(3)
    arms.losses, arms.credited = [0.0, 40.0, 80.0], 100
    chances = arms.chances()
    drawn = np.bincount([policy.choose(arms)[0] for _ in range(20_000)], minlength=3) / 20_000
    assert drawn.tolist() == pytest.approx(chances, abs=0.015)
    policy = get_policy("exp3", {"lengths": [0, 1]})
    run(policy, 4, lambda k: 0.01, lambda k, step: k, rows=4)  # one trial: the first step verifies nothing drafted
    arms = policy._contexts[3]
    assert sum(arms.losses) == 0.0  # each credited reward was the highest so far
    arms.highest *= 2
    arm = policy._arm
    policy._left = 1
    policy.plan(seen(4, step=4))
    policy.learn(outcome(4, np.full(4, policy.lengths[arm]), policy.lengths[arm], 0.01))
    assert arms.losses[arm] == pytest.approx(0.5 / 0.5)


def test_thompson_draws_from_its_posteriors():
    policy = get_policy("thompson", {"lengths": [0, 1]})
    arms = Arms(2)
    arms.pulls, arms.means = [99, 24], [100.0, 90.0]
    first = sum(policy.choose(arms)[0] == 0 for _ in range(20_000)) / 20_000
    gap, spread = 0.99 - 0.9 * 24 / 25, math.sqrt(1 / 100 + 1 / 25)
    assert first == pytest.approx(0.5 * (1 + math.erf(gap / spread / math.sqrt(2))), abs=0.015)


@pytest.mark.parametrize(("name", "least"), [("ucb", 0.8), ("thompson", 0.8), ("exp3", 0.5), ("nightjar", 0.75)])
def test_bandits_find_the_best_length(name, least):
    # two drafts emit 2.2 tokens in 12 ms, the others at most 1.6 tokens in as long
    tokens = {0: 1.0, 1: 1.3, 2: 2.2, 3: 1.6, 4: 1.4}
    rng = np.random.default_rng(5)

    def accepted(k, step):
        return rng.binomial(k, (tokens[k] - 1) / k, 32) if k else 0

    lengths, _ = run(get_policy(name), 6000, lambda k: 0.012, accepted, rows=32, lag=1)
    assert lengths[4000:].count(2) >= least * 2000


@pytest.mark.parametrize("name", BANDITS)
def test_bandits_follow_the_batch(name):
    # small batches pay with four drafts, large ones with none
    policy, rng, pending, chosen = get_policy(name), np.random.default_rng(2), 0, {4: [], 100: []}
    for step in range(8000):
        rows = 4 if step % 400 < 200 else 100
        plan = policy.plan(seen(rows, step, pending=pending))
        won = rng.binomial(pending, 0.8, rows)
        policy.learn(outcome(step, won, pending, 0.01 + (0.0001 if rows == 4 else 0.012) * pending))
        chosen[rows].append(plan.draft_length)
        pending = plan.draft_length
    assert np.mean(chosen[4][2000:]) > 2.5
    assert np.mean(chosen[100][2000:]) < 1.0


@pytest.mark.parametrize("name", ["exp3", "thompson", "nightjar"])
def test_draws_come_from_the_seed(name):
    def lengths(seed):
        return run(get_policy(name, {"seed": seed}), 300, lambda k: 0.01 + 0.001 * k, lambda k, step: k // 2)[0]

    assert lengths(1) == lengths(1)
    assert lengths(1) != lengths(2)


# Nightjar


def test_bingreedys_clock_by_hand():
    # blocks of 1, 2, 4, 8, 16, 32 steps in bins of 1, 1, 2, 2, 4, 5: the last block has seven bins
    arms, bins = BinnedArms(2), []
    for _ in range(1 + 2 + 2 + 4 + 4 + 7 + 1):
        chance = arms.next_bin()
        bins.append((arms.left, round(1 / chance)))
    assert bins == [
        (1, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 1), (2, 2), (2, 3), (2, 4), (4, 1), (4, 2), (4, 3), (4, 4),
        *((5, b) for b in range(1, 8)), (8, 1)]  # fmt: skip


def idle_nightjar(switch_tokens=1e-6):
    """Return a Nightjar for which K = 0 is best at 8 rows: all arms tried, the clock far on."""
    prices = Linear()
    policy = get_policy("nightjar", {"persist": 0.5, "low": 0.2}, prices)
    policy.plan(seen(8, kv_free=1000))
    arms = policy._by_batch[3]
    arms.pulls, arms.means = [100] * 5, [50.0, 40.0, 30.0, 20.0, 10.0]
    arms._block, arms._bin, arms.left, arms.arm = 21, 400, 1000, 0
    return policy, arms


def test_nightjar_drops_an_idle_drafter_when_memory_stays_short():
    policy, _ = idle_nightjar()

    def drafter(now, free):
        return policy.plan(seen(8, step=int(100 * now), now=now, kv_free=free)).drafter

    assert drafter(1.0, 300) == "warm"
    assert drafter(2.0, 199) == "warm"
    assert drafter(2.4, 150) == "warm"
    assert drafter(2.45, 250) == "warm"  # no longer short: the wait starts again
    assert drafter(2.5, 100) == "warm"
    assert drafter(2.99, 100) == "warm"
    assert drafter(3.0, 100) == "dropped"
    assert drafter(3.1, 900) == "dropped"  # idle still, as no length is better than 0


def test_nightjar_pays_for_switching_back():
    policy, arms = idle_nightjar()
    policy._dropped = True
    switch = catch_up_seconds(Linear(), 8, 96)
    arms.means[:] = [50.0, 40.0, 30.0, 20.0, 1 / (1 / 50.0 - 0.9 * switch / 4)]  # better, not by C / K
    assert policy.plan(seen(8, step=1, kv_free=900)).drafter == "dropped"
    arms.means[4] = 1 / (1 / 50.0 - 1.1 * switch / 4)
    assert policy.plan(seen(8, step=2, kv_free=100)).drafter == "dropped"  # memory is short
    assert policy.plan(seen(8, step=3, kv_free=900)).draft_length == 4
    assert policy.plan(seen(8, step=4, kv_free=900)).draft_length == 0  # loaded: the bin's locked arm again


# Context, priority, confidence


def test_magicdec_is_the_papers_ratio():
    prices = Linear(stored=2e-7)
    policy = get_policy("magicdec", {"rate": 0.8}, prices)
    for rows, context in itertools.product((1, 16, 64, 256), (128, 4096, 65536)):
        context = context // 64 * 64 + 32  # the middle of a bucket, where prices are taken
        ratio = {0: 1.0}
        for k in LENGTHS[1:]:
            omega = (1 - 0.8 ** (k + 1)) / 0.2
            ratio[k] = prices.step_seconds(rows, k, context) / (omega * prices.off_seconds(rows, context))
        assert policy.plan(seen(rows, context=context)).draft_length == min(ratio, key=ratio.get)


def test_magicdec_has_a_critical_context():
    # 256 rows of short contexts are bound by compute: no drafts; long ones by the KV cache: drafts
    policy = get_policy("magicdec", {"rate": 0.5}, Linear(stored=2e-7))
    lengths = [policy.plan(seen(256, context=c)).draft_length for c in (128, 512, 2048, 8192, 32768, 131072)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 0
    assert lengths[-1] == 4
    assert get_policy("moesd", {"rate": 0.5}, Linear(stored=2e-7)).plan(seen(256, context=131072)).draft_length == 0


def split(policy, urgent, rows, each, survival):
    """Algorithm 1 of Seer on draft tokens, one class of one more draft at a time."""
    high, low, left = 1, 1, each * rows - rows
    while True:
        worth_high, worth_low = policy._weight * survival[high], survival[low]
        if worth_high > worth_low and high < len(survival) - 1 and left - urgent >= 0:
            high, left = high + 1, left - urgent
        elif low < len(survival) - 1 and left - (rows - urgent) >= 0:
            low, left = low + 1, left - (rows - urgent)
        else:
            return high, low


def test_priority_split_by_hand():
    # ten rows, two urgent, two drafts each to share: ten left after the first round. 2 x .49 > .49, 2 x .343 > .49:
    # three for the urgent, not four (2 x .24 < .49); another for the eight others does not fit into the six left
    policy = get_policy("priority_split", {"longest": 8, "prior": 0.7}, Linear())
    tokens = policy._acceptance.tokens(policy.lengths)
    assert policy._split(2, 2, 10, tokens) == (3, 1)
    assert policy._split(0, 2, 10, tokens) == (0, 0)
    assert policy._split(3, 0, 10, tokens) == (3, 3)
    survival = [0.7**j for j in range(1, 9)] + [0.0]
    for urgent, each in itertools.product(range(1, 10), range(1, 9)):
        high, low = policy._split(each, urgent, 10, tokens)
        assert (high, low) == split(policy, urgent, 10, each, survival)
        assert urgent * high + (10 - urgent) * low <= 10 * each
        assert high >= low


def test_priority_split_verifies_by_slack():
    policy = get_policy("priority_split", {"longest": 4}, Linear())
    slack = np.array([-0.1, 0.1, 0.2, 0.3, -0.2, 0.0, 0.1, 0.1])
    plan = policy.plan(seen(8, pending=4, slo_slack=slack))
    assert set(plan.verify_lengths[slack < 0]) == {plan.draft_length}
    assert plan.verify_lengths[slack >= 0].max() <= plan.draft_length
    without = policy.plan(seen(8, pending=2))
    assert (without.verify_lengths == np.minimum(without.draft_length, 2)).all()


def test_echo_by_hand():
    # Budget 8 for four rows: two each. Row 0 passes both gates, row 1 stops at the first (0.4 <= 0.5), row 2 at the
    # second (0.24 <= 0.3), row 3 passes. Row 1 leaves one draft, which goes to the likeliest third draft: row 0's.
    believed = np.array([[0.9, 0.9, 0.9, 0.9], [0.4, 0.9, 0.9, 0.9], [0.6, 0.4, 0.9, 0.9], [0.8, 0.8, 0.8, 0.8]])
    policy = get_policy("echo", {"length": 4, "budget": 8, "gates": [[1, 0.5], [2, 0.3]]})
    plan = policy.plan(seen(4, pending=4, confidence=believed))
    assert plan.verify_lengths.tolist() == [3, 1, 2, 2]
    assert plan.draft_length == 4
    assert policy.plan(seen(9, pending=0)).draft_length == 0  # below one draft a row
    assert not policy.lossless_at_temperature


@pytest.mark.parametrize("gates", [3, [[1]], [[0, 0.5]], [[1, 1.5]]])
def test_echo_refuses(gates):
    with pytest.raises(PolicyError, match="allowed"):
        get_policy("echo", {"gates": gates})


# Outcomes that are late, repeated or lost


@pytest.mark.parametrize("name", [*BANDITS, "cascade", "sglang_adaptive", "throughput_aware", "position_goodput"])
def test_a_repeated_outcome_changes_nothing(name):
    def lengths(times):
        policy, planned, pending = get_policy(name, {}, Linear()), [], 0
        for step in range(600):
            planned.append(policy.plan(seen(12, step, pending=pending)).draft_length)
            for _ in range(times):
                policy.learn(outcome(step, np.full(12, (step + pending) % (pending + 1)), pending, 0.01))
            pending = planned[-1]
        return planned

    assert lengths(1) == lengths(2)


def test_ledger_credits_once_and_forgets_the_lost():
    ledger = Ledger()
    for step in range(2 * KEPT):
        ledger.note(step, step)
    assert ledger.take(KEPT - 1) is None
    assert ledger.take(2 * KEPT - 1) == 2 * KEPT - 1
    assert ledger.take(2 * KEPT - 1) is None


# kv_priced


class Roomy(Linear):
    """A step without a drafter takes as long for any number of rows: more of them are all gain."""

    def off_seconds(self, rows, context, prefill_tokens=0):
        return self.fixed


@given(
    rows=st.integers(1, 200), waiting=st.integers(0, 50), free=st.integers(0, 2000), room=st.sampled_from([1.0, 1.15])
)
@settings(deadline=None)
def test_kv_priced_is_goodput_while_memory_is_not_short(rows, waiting, free, room):
    policy, goodput = (
        get_policy("kv_priced", {"room": room}, Linear()),
        get_policy("goodput", {"margin": 1.0}, Linear()),
    )
    observation = seen(rows, waiting=waiting, kv_free=free, context=500)
    short = waiting and free * 16 < 500 and room > 1
    if not short:
        assert policy.plan(observation) == goodput.plan(observation)


def test_kv_priced_drops_a_drafter_whose_memory_serves_more_and_loads_it_again():
    policy = get_policy("kv_priced", {"prior": 0.05, "room": 1.5}, Roomy(token=1e-3))
    short, plenty = seen(64, waiting=32, kv_free=0), seen(64, waiting=32, kv_free=9000)
    assert policy.plan(plenty).drafter != "dropped"
    assert policy.plan(short).drafter == "dropped"
    again = get_policy("kv_priced", {"prior": 0.9, "room": 1.5}, Linear(token=1e-5))
    assert again.plan(seen(64, waiting=1, kv_free=0)).draft_length > 0
    dropping = get_policy("kv_priced", {"prior": 0.9, "room": 1.5}, Linear(fixed=1e-3, token=1e-3))
    assert dropping.plan(seen(200, waiting=100, kv_free=0)).drafter == "dropped"
    later = [dropping.plan(seen(1, step, kv_free=500)).drafter for step in range(1, 40)]
    assert "on" in later
