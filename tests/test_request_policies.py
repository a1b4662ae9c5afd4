"""The published per-request policies: each against its law written out again; what they share against brute force."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsim.errors import PolicyError
from sdsim.policies import FlatCosts, check_parameters, get_policy, policy_class
from sdsim.policies.calibration import Calibration
from sdsim.policies.confidence import PRIOR, confidences, survival, tokens_of
from sdsim.policies.confidence_stop import least_entropy
from sdsim.policies.draft_forecast import DraftForecast
from sdsim.policies.pace import Pace
from sdsim.policies.row_history import RowHistory
from sdsim.policies.selection import first_fall, ranked_prefixes, top_prefixes
from sdsim.policies.verify_prices import VerifyPrices, positions_priced
from sdsim.policy import Outcome
from sdsim.scenario import load_scenario, scenario_from_mapping
from sdsim.simulation import make_system, simulate
from sdsim.testing import check_policy, observations, outcome_of, plan_seconds
from tests.machine import assert_in_budget, best_seconds
from tests.policy_drive import seen

VARIANTS = [
    ("adaserve", {}), ("adaserve", {"budget": 40, "most": 2}), ("adaspec", {}), ("adaspec", {"slo": False}),
    ("confidence_stop", {}), ("confidence_stop", {"statistic": "last"}), ("confidence_stop", {"statistic": "entropy"}),
    ("dsde", {}), ("dspark", {}), ("dspark", {"draft": "chosen"}), ("dspark", {"staleness": 0}), ("evict", {}),
    ("auto", {}), ("marginal_experts", {}), ("prefill_riding", {}), ("slos_serve", {}), ("tetris", {}),
    ("tetris", {"capacity": 9, "from_batch": 3}),
]  # fmt: skip
SCENARIOS = Path(__file__).parents[1] / "scenarios"
NAMES = sorted({name for name, _ in VARIANTS})
OURS = ("auto", "prefill_riding")
ONE_LENGTH = ("confidence_stop", "evict", "marginal_experts", "tetris")


class Slope:
    """Prices linear in tokens, which the policies' interpolation hits exactly."""

    def __init__(self, token=1e-3, draft=5e-4, fixed=0.01):
        self.token, self.draft, self.fixed = token, draft, fixed

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        return self.fixed + self.token * (verify_tokens + prefill_tokens) + self.draft * draft_length

    def step_seconds(self, rows, draft_length, context, prefill_tokens=0):
        return self.verify_seconds(rows, rows * (1 + draft_length), context, prefill_tokens, draft_length)

    def off_seconds(self, rows, context, prefill_tokens=0):
        return self.fixed + self.token * (rows + prefill_tokens)


class Step(Slope):
    """Prices that jump with the first draft and stay: one draft may not pay where several do."""

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        return self.fixed * (1.6 if verify_tokens > rows else 1.0)


class Experts(Slope):
    """Prices that charge for the distinct experts of a step: steep at first, nearly flat once all are loaded."""

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        tokens = verify_tokens + prefill_tokens
        return 0.005 + 3e-4 * 64 * (1 - (1 - 8 / 64) ** tokens) + 2e-5 * tokens + self.draft * draft_length


def believing(confidence, step=0, pending=None, **more):
    """Return an observation of rows with these (rows, positions) confidences, all pending unless said."""
    confidence = np.asarray(confidence, dtype=float)
    rows, positions = confidence.shape
    pending = np.full(rows, positions) if pending is None else np.asarray(pending)
    return seen(rows, step, confidence=confidence, **more)._replace(pending=pending)


def verified(policy, observation):
    """Return the verify lengths that *policy* plans, as a list."""
    plan = policy.plan(observation)
    return (observation.pending if plan.verify_lengths is None else plan.verify_lengths).tolist()


def chains(rng, rows, positions, step=0, ragged=True, **more):
    """Return an observation of random confidences."""
    pending = rng.integers(0, positions + 1, rows) if ragged else None
    return believing(rng.uniform(0.05, 0.99, (rows, positions)), step, pending, **more)


def chances(observation, row):
    """Return the survivals of one row's pending drafts, as an uncalibrated reader works them out."""
    alive, survivals = 1.0, []
    for believed in observation.confidence[row, : observation.pending[row]]:
        alive *= believed
        survivals.append(alive)
    return survivals


# The contract


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_contract(name, parameters):
    check_policy(lambda: get_policy(name, parameters, Slope()), budget_s=None)


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_contract_with_eight_drafts(name, parameters):
    longer = {"length": 8} if name in ONE_LENGTH else {"lengths": list(range(9))}
    check_policy(lambda: get_policy(name, parameters | longer, Slope()), budget_s=None)


@pytest.mark.speed
@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_plan_takes_less_than_fifty_microseconds(name, parameters):
    """256 rows, 8 positions. A slower machine is granted what it takes longer for the sums that any such rule needs."""
    longer = {"length": 8} if name in ONE_LENGTH else {"lengths": list(range(9))}
    roomy = {"budget": 1300, "most": 8} if name == "adaserve" else {}
    policy = get_policy(name, parameters | longer | roomy, Slope())
    rng = np.random.default_rng(0)
    for step in range(8):
        slack = rng.normal(0, 0.1, 256)
        slack[0] = 0.02 * step  # the oldest row emits two tokens in 0.02 s, and its slack grows by as much
        observation = chains(rng, 256, 8, step, ragged=False, slo_slack=slack, now=0.02 * step, waiting=1)
        observation = observation._replace(generated=observation.generated + 2 * step)
        policy.learn(outcome_of(observation, policy.plan(observation)))
    assert_in_budget(lambda: best_seconds(lambda: policy.plan(observation)), sums=4)


@pytest.mark.parametrize("name", NAMES)
def test_without_confidence_and_slack_it_goes_on(name):
    policy = get_policy(name, {}, Slope())
    for step in range(5):
        observation = seen(6, step, pending=4)
        plan = policy.plan(observation)
        assert plan.draft_length in policy.lengths
        policy.learn(outcome_of(observation, plan))


def lossless(name, parameters):
    return get_policy(name, parameters, Slope()).lossless_at_temperature


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_lossless_rules_do_not_look_ahead(name, parameters):
    """Whether draft j is verified must not change with the confidences behind it; the others do look ahead."""
    rng = np.random.default_rng(5)
    looked = False
    for _ in range(150):
        rows, positions = int(rng.integers(1, 6)), 4
        cost = (Step(), Experts(), Slope(token=float(rng.uniform(1e-4, 4e-3))))[int(rng.integers(3))]
        history = [
            chains(rng, rows, positions, step, ragged=False, slo_slack=rng.normal(0, 0.05, rows)) for step in range(4)
        ]
        last, row, depth = history[-1], int(rng.integers(rows)), int(rng.integers(positions - 1))
        changed = last.confidence.copy()
        changed[row, depth + 1 :] = rng.uniform(0.05, 0.99, positions - depth - 1)
        reaches = []
        for final in (last, last._replace(confidence=changed)):
            policy = get_policy(name, parameters | ({"budget": 8} if name == "adaserve" else {}), cost)
            for observation in history[:-1]:
                policy.plan(observation)
            reaches.append(verified(policy, final)[row] > depth)
        looked |= reaches[0] != reaches[1]
    looks_ahead = name in ("evict", "adaspec") or parameters.get("staleness") == 0
    assert looked == looks_ahead
    assert lossless(name, parameters) == (not looks_ahead and name != "tetris")  # which ranks by the drawn token's own


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("dspark", {"draft": "sank"}, "sunk, chosen"),
        ("dspark", {"staleness": -1}, "from 0"),
        ("tetris", {"length": 2, "extra": 3}, "at most the length"),
        ("tetris", {"capacity": 1.5}, "from 0"),
        ("adaserve", {"budget": 0}, "from 1"),
        ("adaspec", {"captured": 8}, "a list"),
        ("adaspec", {"captured": [0]}, "from 1"),
        ("adaspec", {"slo": 1}, "true or false"),
        ("confidence_stop", {"statistic": "mean"}, "product, last, entropy"),
        ("confidence_stop", {"threshold": 1.2}, "from 0 to 1"),
        ("dsde", {"lengths": [1], "least": 2}, "at most the longest"),
        ("slos_serve", {"horizon": 0}, "from 1"),
        ("evict", {"length": 99}, "0 to 16"),
    ],
)
def test_bad_parameters_are_refused(name, parameters, said):
    with pytest.raises(PolicyError, match=said):
        check_parameters(name, parameters)


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_reads(name):
    kind = policy_class(name)
    assert kind.needs <= {"confidence", "slo_slack"}
    assert name in OURS or "arXiv" in __import__(kind.__module__, fromlist=["x"]).__doc__


# Survival and selection


def test_survival_is_the_product_of_the_chain():
    observation = believing([[0.5, 0.5, 0.5], [1.0, 0.2, 0.9]], pending=[3, 2])
    alive = survival(confidences(observation), observation.pending, 5)
    assert alive[:, 0] == pytest.approx([0.5, 0.25, 0.125])
    assert alive[:, 1] == pytest.approx([1.0, 0.2, 0.0], abs=2e-6)
    assert tokens_of(alive).T[0] == pytest.approx([1, 1.5, 1.75, 1.875])
    assert confidences(seen(2, pending=3)) == pytest.approx(np.full((3, 2), 0.7))


survivals = st.lists(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=3, max_size=3), min_size=1, max_size=4
).map(lambda rows: np.cumprod(np.array(rows), axis=1).T.copy())


@given(alive=survivals, budget=st.integers(0, 14))
def test_top_prefixes_is_the_best_of_all_prefix_closed_sets(alive, budget):
    """Ties are common here: the survivals are products of quarters."""
    reaches = (alive > 0).sum(axis=0)
    lengths = top_prefixes(alive, budget)
    spent = min(budget, int(reaches.sum()))
    assert int(lengths.sum()) == spent
    assert (lengths <= reaches).all()
    sets = [s for s in itertools.product(*(range(r + 1) for r in reaches)) if sum(s) == spent]

    def worth(chosen):
        return sum(alive[:length, row].sum() for row, length in enumerate(chosen))

    assert worth(lengths) == pytest.approx(max(map(worth, sets)))
    ranked = np.sort(alive, axis=None)[::-1]
    assert ranked_prefixes(alive, ranked, spent).tolist() == lengths.tolist()


def test_equals_go_to_earlier_positions_then_older_rows():
    assert top_prefixes(np.full((1, 4), 0.5), 2).tolist() == [1, 1, 0, 0]
    assert top_prefixes(np.array([[1.0, 0.5], [1.0, 0.5]]), 1).tolist() == [1, 0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_first_fall(values):
    index = 0
    while index + 1 < len(values) and values[index + 1] >= values[index]:
        index += 1
    assert first_fall(np.array(values, dtype=float)) == index


# Calibration


def taught(steps=400, slope=0.6, shift=(-0.5, 0.3, 0.0), late=lambda outcomes: outcomes, seed=0):
    """Return a calibration that saw chains whose acceptance is sigmoid(slope logit(confidence) + shift)."""
    rng, calibration, outcomes = np.random.default_rng(seed), Calibration(), []
    for step in range(steps):
        observation = believing(rng.uniform(0.02, 0.98, (40, 3)), step)
        odds = np.log(observation.confidence / (1 - observation.confidence))
        won = rng.random((40, 3)) < 1 / (1 + np.exp(-(slope * odds + np.array(shift))))
        accepted = np.logical_and.accumulate(won, axis=1).sum(axis=1)
        lengths = rng.integers(0, 4, 40)
        calibration.survival(observation, 120)
        outcomes.append(Outcome(step, 0.02, np.arange(40), lengths, np.minimum(accepted, lengths), None))
        for outcome in late(outcomes):
            calibration.learn(outcome)
    return calibration


def test_calibration_recovers_the_law():
    calibration = taught()
    assert calibration.slope == pytest.approx(0.6, abs=0.04)
    assert calibration.shift[:3, 0] == pytest.approx([-0.5, 0.3, 0.0], abs=0.1)
    alive = calibration.survival(believing([[0.5, 0.5, 0.5]]), 3)[:, 0]
    rates = [1 / (1 + math.exp(-b)) for b in (-0.5, 0.3, 0.0)]
    assert alive == pytest.approx(np.cumprod(rates), abs=0.03)


def test_calibration_survives_late_repeated_and_lost_outcomes():
    once = taught(100)
    twice = taught(100, late=lambda outcomes: [outcomes[-1], outcomes[-1], outcomes[0]])
    late = taught(100, late=lambda outcomes: outcomes[-6:-5])
    lost = taught(100, late=lambda outcomes: outcomes[-1:] if len(outcomes) % 3 else [])
    assert twice.slope == once.slope
    assert (twice.shift == once.shift).all()
    for other in (late, lost):
        assert other.slope == pytest.approx(once.slope, abs=0.1)


def test_calibration_of_constant_confidence_learns_the_mean():
    calibration, rng = Calibration(), np.random.default_rng(1)
    for step in range(300):
        calibration.survival(seen(50, step, pending=2), 100)
        accepted = np.minimum(rng.geometric(0.6, 50) - 1, 2)
        calibration.learn(Outcome(step, 0.02, np.arange(50), np.full(50, 2), accepted, None))
    assert calibration.survival(seen(1, 999, pending=2), 2)[:, 0] == pytest.approx([0.4, 0.16], abs=0.02)


def test_untaught_calibration_believes_the_drafter():
    assert Calibration().survival(believing([[0.9, 0.3]]), 2)[:, 0] == pytest.approx([0.9, 0.27])


# Prices, forecasts, pace, history


@pytest.fixture(scope="module")
def prices():
    return make_system(load_scenario(SCENARIOS / "steady.yaml")).prices


@given(rows=st.integers(1, 256), length=st.integers(0, 8), context=st.floats(1, 9000), prompts=st.integers(0, 4096))
@settings(max_examples=60)
def test_verify_seconds_is_step_seconds_where_every_row_verifies_alike(prices, rows, length, context, prompts):
    even = prices.verify_seconds(rows, rows * (1 + length), context, prompts, length)
    assert even == prices.step_seconds(rows, length, context, prompts)
    assert FlatCosts().verify_seconds(rows, rows, context) == FlatCosts().step_seconds(rows, 0, context) == 1.0


def test_verify_seconds_rises_with_every_position(prices):
    for rows in (1, 5, 40):
        seconds = [prices.verify_seconds(rows, t, 700, draft_length=4) for t in range(rows, 5 * rows + 1)]
        assert all(later >= earlier for earlier, later in itertools.pairwise(seconds))
        assert seconds[-1] > seconds[0]


@given(
    rows=st.integers(1, 300), longest=st.integers(0, 8), prompts=st.integers(0, 9000), context=st.integers(1, 20_000)
)
@settings(max_examples=40)
def test_linear_prices_are_interpolated_exactly(rows, longest, prompts, context):
    lengths = sorted({0, 1 if longest else 0, longest})
    cost = Slope()
    prices = VerifyPrices(cost, lengths).at(seen(rows, context=context, prefill_tokens=prompts))
    wanted = [cost.verify_seconds(rows, p, context, prompts, longest) for p in range(rows, rows * (1 + longest) + 1)]
    assert prices.verify[rows : rows * (1 + longest) + 1] == pytest.approx(wanted)
    assert prices.drafting == pytest.approx([cost.draft * (k - longest) for k in lengths])
    assert prices.even(rows) == pytest.approx([cost.step_seconds(rows, k, context, prompts) for k in lengths])


def test_expert_prices_are_near_the_exact_ones():
    cost = Experts()
    for rows, prompts in itertools.product((1, 3, 17, 60, 256), (0, 5, 300, 3000)):
        curve = VerifyPrices(cost, (0, 8)).at(seen(rows, prefill_tokens=prompts)).verify
        exact = [cost.verify_seconds(rows, p, 100, prompts, 8) for p in range(rows, 9 * rows + 1)]
        assert curve[rows : 9 * rows + 1] == pytest.approx(exact, rel=0.05)


def test_captured_sizes_are_priced_exactly_and_just_above():
    class Padded(Slope):
        def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
            return 0.01 * math.ceil(verify_tokens / 8)

    prices = VerifyPrices(Padded(), (0, 4), captured=(8, 16, 24, 32, 40)).at(seen(8)).verify
    assert prices[8:41] == pytest.approx([0.01 * math.ceil(p / 8) for p in range(8, 41)])
    assert {8, 9, 16, 17} <= set(positions_priced(8, 40, 4, (8, 16)))


def test_few_prices_are_asked_for_and_only_once():
    asked = []

    class Counting(Slope):
        def verify_seconds(self, *shape):
            asked.append(shape)
            return super().verify_seconds(*shape)

    prices = VerifyPrices(Counting(), (0, 8))
    prices.at(seen(256))
    assert len(asked) < 60
    before = len(asked)
    prices.at(seen(256, step=1, context=101))
    assert len(asked) == before


def test_forecast_is_the_mean_survival():
    forecast = DraftForecast()
    assert forecast.tokens[:3] == pytest.approx([1, 1 + PRIOR, 1 + PRIOR + PRIOR**2])
    for _ in range(60):
        forecast.see(np.array([[0.6, 0.2] * 20, [0.3, 0.1] * 20]))
    assert forecast.tokens[:3] == pytest.approx([1, 1.4, 1.6], abs=1e-3)
    assert forecast.tokens[3] == pytest.approx(1.6 + 0.2 * PRIOR, abs=1e-3)


def test_pace_reads_the_target_off_the_slack():
    pace, target, first = Pace(), 0.04, 1.5
    for step, (now, generated) in enumerate([(2.0, 5), (2.07, 8), (2.1, 9), (2.2, 9)]):
        slack = np.array([first + target * generated - now, 9.9])
        pace.see(seen(2, step, now, slo_slack=slack)._replace(generated=np.array([generated, 3])))
        assert pace.tpot_s == (None if step == 0 else pytest.approx(target))
    pace.see(seen(2, 9, 2.3))
    pace.see(seen(1, 10, 2.4, slo_slack=np.array([5.0])))
    assert pace.tpot_s == pytest.approx(target)


def test_row_history_follows_the_requests():
    history = RowHistory(3)
    assert (history.of(np.array([7, 2])) == 0).all()
    history.push(np.array([1.0, 2.0]))
    history.of(np.array([7, 2]))
    history.push(np.array([3.0, 4.0]))
    kept = history.of(np.array([5, 2]))
    assert kept.tolist() == [[0, 0, 0], [4, 2, 2]]
    history.push(np.array([8.0, 6.0]))
    assert history.of(np.array([2, 5])).tolist() == [[6, 4, 2], [8, 8, 8]]


# Each law, written again


def budget_by_enumeration(observation, curve, ranked=None):
    """Return the budget of the most tokens a second, by trying every one."""
    rows = observation.batch
    if ranked is None:
        ranked = sorted(itertools.chain.from_iterable(chances(observation, r) for r in range(rows)), reverse=True)
    return max(range(len(ranked) + 1), key=lambda b: (rows + sum(ranked[:b])) / curve[rows + b])


def worth(observation, lengths):
    return sum(sum(chances(observation, row)[:length]) for row, length in enumerate(lengths))


@pytest.mark.parametrize("cost", [Slope(), Slope(token=4e-3), Experts()])
def test_dspark_takes_the_best_of_all_sets(cost):
    """Against every prefix-closed set of the batch, at the policy's own prices."""
    rng = np.random.default_rng(2)
    for step in range(40):
        observation = chains(rng, int(rng.integers(1, 5)), 3, prefill_tokens=int(rng.integers(0, 2) * 300))
        policy = get_policy("dspark", {"lengths": [3], "staleness": 0}, cost)
        lengths, rows = verified(policy, observation), observation.batch
        curve = VerifyPrices(cost, (0, 3)).at(observation).verify

        def rate(chosen, observation=observation, curve=curve, rows=rows):
            return (rows + worth(observation, chosen)) / curve[rows + sum(chosen)]

        best = max(itertools.product(*(range(p + 1) for p in observation.pending)), key=rate)
        assert rate(lengths) == pytest.approx(rate(best)), step


def test_dspark_takes_its_budget_from_steps_ago_and_its_ranking_from_now():
    rng, cost = np.random.default_rng(3), Slope(token=3e-3)
    policy = get_policy("dspark", {"lengths": [4], "staleness": 2}, cost)
    steps = [chains(rng, 6, 4, step, ragged=False) for step in range(12)]
    curve = VerifyPrices(cost, (0, 4)).at(steps[0]).verify
    for step, observation in enumerate(steps):
        lengths = verified(policy, observation)
        if step < 2:
            assert lengths == [4] * 6
            continue
        budget = budget_by_enumeration(steps[step - 2], curve)
        alive = survival(confidences(observation), observation.pending, 24)
        assert lengths == top_prefixes(alive, budget).tolist()
    assert len({budget_by_enumeration(o, curve) for o in steps}) > 3


def test_dspark_counts_the_prompts_beside_the_rows():
    """Experts that a prompt has loaded are free: the same drafts, refused alone, are verified beside one."""
    policy = get_policy("dspark", {"lengths": [4], "staleness": 0}, Experts())
    doubtful = np.full((2, 4), 0.3)
    alone = verified(policy, believing(doubtful))
    beside = verified(policy, believing(doubtful, prefill_tokens=512))
    assert sum(alone) < sum(beside)


def test_dspark_chosen_drafts_what_pays():
    dear, cheap = Slope(token=1e-3, draft=0.05), Slope(token=1e-5, draft=1e-5)
    observation = chains(np.random.default_rng(4), 4, 4, ragged=False)
    for draft, cost, length in (("sunk", dear, 4), ("chosen", dear, 0), ("chosen", cheap, 4)):
        plan = get_policy("dspark", {"draft": draft}, cost).plan(observation)
        assert (plan.draft_length, plan.drafter) == (length, "on" if length else "warm")
    forecast = DraftForecast()
    cost = Slope(token=2e-3, draft=2e-3)
    forecast.see(Calibration().survival(observation, 16))
    wanted = max(range(5), key=lambda k: forecast.tokens[k] / cost.step_seconds(4, k, 100))
    assert get_policy("dspark", {"draft": "chosen"}, cost).plan(observation).draft_length == wanted


def test_tetris_by_hand():
    observation = believing([[0.9, 0.9, 0.1], [0.5, 0.9, 0.9], [0.2, 0.9, 0.9]])
    # survivals .9 .81 .081 | .5 .45 .405 | .2 .18 .162
    assert verified(get_policy("tetris", {"length": 3, "capacity": 4}), observation) == [2, 2, 0]
    assert verified(get_policy("tetris", {"length": 3, "capacity": 6}), observation) == [2, 3, 1]
    assert verified(get_policy("tetris", {"length": 3, "extra": 1}), observation) == [2, 3, 1]
    assert verified(get_policy("tetris", {"length": 3, "capacity": 99}), observation) == [3, 3, 3]
    assert verified(get_policy("tetris", {"length": 3, "capacity": 4, "from_batch": 4}), observation) == [3, 3, 3]
    assert verified(get_policy("tetris", {"length": 3, "capacity": 0}), observation) == [0, 0, 0]


@pytest.mark.parametrize("cost", [Slope(token=2e-3), Experts()])
def test_evict_is_each_rows_own_argmax(cost):
    rng = np.random.default_rng(6)
    for _ in range(40):
        observation = chains(rng, int(rng.integers(1, 8)), 4, prefill_tokens=700)
        rows = observation.batch
        curve = VerifyPrices(cost, (0, 4)).at(observation._replace(prefill_tokens=0)).verify
        wanted = []
        for row in range(rows):
            alive = chances(observation, row)
            rate = [(1 + sum(alive[:k])) / curve[rows * (1 + k)] for k in range(len(alive) + 1)]
            wanted.append(rate.index(max(rate)))
        assert verified(get_policy("evict", {}, cost), observation) == wanted


def test_marginal_experts_takes_drafts_until_one_does_not_pay():
    rng = np.random.default_rng(7)
    for cost in (Slope(token=2e-3), Experts()):
        for _ in range(40):
            observation = chains(rng, int(rng.integers(1, 6)), 4, prefill_tokens=int(rng.integers(0, 2) * 40))
            rows = observation.batch
            curve = VerifyPrices(cost, (0, 4)).at(observation).verify
            left = sorted(((a, r) for r in range(rows) for a in chances(observation, r)), reverse=True)
            tokens, wanted = float(rows), [0] * rows
            for taken, (alive, row) in enumerate(left):
                price = curve[rows + taken + 1] - curve[rows + taken]
                if alive < price * tokens / curve[rows + taken] - 1e-12:
                    break
                tokens, wanted[row] = tokens + alive, wanted[row] + 1
            assert verified(get_policy("marginal_experts", {}, cost), observation) == wanted


def test_marginal_experts_stops_before_the_flat_part_that_enumeration_finds():
    observation = believing(np.full((1, 8), 0.55))  # 1 + 0.55 tokens in 1.6 times the time, or 1 + 1.21
    assert verified(get_policy("marginal_experts", {"length": 8}, Step()), observation) == [0]
    assert verified(get_policy("dspark", {"lengths": [8], "staleness": 0}, Step()), observation) == [8]


def owed_then_likeliest(observation, budget, most, tpot, cost):
    """AdaServe's two phases, draft by draft."""
    rows = observation.batch
    alive = [chances(observation, r) for r in range(rows)]
    left = max(0, min(budget - rows, sum(map(len, alive))))
    seconds = cost.verify_seconds(rows, rows + left, 0, 0, 4)
    owed = [(seconds - s) / tpot for s in observation.slo_slack]
    lengths = [0] * rows
    for row in sorted(range(rows), key=lambda r: -owed[r]):
        while left and lengths[row] < min(most, len(alive[row])) and 1 + sum(alive[row][: lengths[row]]) < owed[row]:
            lengths[row], left = lengths[row] + 1, left - 1
    while left:
        row = max((r for r in range(rows) if lengths[r] < len(alive[r])), key=lambda r: alive[r][lengths[r]])
        lengths[row], left = lengths[row] + 1, left - 1
    return lengths


def test_adaserve_is_the_two_phases():
    rng, cost, differs = np.random.default_rng(8), Slope(), 0
    for _ in range(60):
        rows, tpot = int(rng.integers(2, 9)), 0.02
        budget, most = int(rng.integers(1, 30)), int(rng.integers(0, 5))
        policy = get_policy("adaserve", {"budget": budget, "most": most}, cost)
        before = chains(rng, rows, 4, 0, slo_slack=np.zeros(rows))
        slack = rng.normal(0, 0.03, rows)
        slack[0] = tpot * 2 - 0.05  # the oldest row emits two tokens in 0.05 s, which tells the target
        observation = chains(rng, rows, 4, 1, now=0.05, slo_slack=slack)
        observation = observation._replace(generated=before.generated + 2)
        policy.plan(before)
        assert verified(policy, observation) == owed_then_likeliest(observation, budget, most, tpot, cost)
        indifferent = get_policy("adaserve", {"budget": budget, "most": most}, cost)
        differs += verified(indifferent, observation) != verified(policy, observation)
    assert differs > 5  # the SLO matters


def test_adaserve_drafts_what_the_budget_has_room_for():
    policy = get_policy("adaserve", {"budget": 64}, Slope())
    assert [policy.plan(seen(n)).draft_length for n in (1, 12, 13, 16, 21, 32, 33, 64, 200)] == [
        4, 4, 3, 3, 2, 1, 1, 1, 1]  # fmt: skip


def test_adaspec_steps_up_while_the_rate_rises():
    for token in (1e-5, 3e-4, 1e-3, 2e-3, 5e-3):
        cost, rows = Slope(token=token, draft=1e-3), 10
        observation = believing(np.full((rows, 4), 0.6))

        def rate(k, cost=cost, rows=rows):
            return rows * sum(0.6**j for j in range(k + 1)) / cost.step_seconds(rows, k, 100)

        wanted = 0
        while wanted < 4 and rate(wanted + 1) >= rate(wanted):
            wanted += 1
        assert get_policy("adaspec", {}, cost).plan(observation).draft_length == wanted


def test_adaspec_prunes_to_captured_sizes():
    rng, sizes, cut = np.random.default_rng(9), [1, 2, 4, 8, 12, 16, 20, 24], 0
    for _ in range(60):
        cost = Slope(token=float(rng.uniform(1e-4, 3e-3)))
        observation = chains(rng, int(rng.integers(1, 7)), 4)
        rows, drafts = observation.batch, int(observation.pending.sum())
        ranked = sorted(itertools.chain.from_iterable(chances(observation, r) for r in range(rows)), reverse=True)

        def rate(budget, rows=rows, ranked=ranked, cost=cost):
            return (rows + sum(ranked[:budget])) / cost.verify_seconds(rows, rows + budget, 0, 0, 4)

        budget = drafts
        for size in sorted((s for s in sizes if rows <= s < rows + drafts), reverse=True):
            if rate(size - rows) < rate(budget) * (1 - 1e-12):
                break
            budget = size - rows
        lengths = verified(get_policy("adaspec", {"captured": sizes}, cost), observation)
        assert sum(lengths) == budget
        assert worth(observation, lengths) == pytest.approx(sum(ranked[:budget]))
        cut += budget < drafts
    assert 10 < cut < 55


def test_adaspec_stops_where_a_step_outlasts_the_target():
    cost = Slope(token=1e-5, draft=0.0, fixed=0.03)
    for slo, length in ((True, 0), (False, 4)):
        policy = get_policy("adaspec", {"slo": slo}, cost)
        for step in range(2):  # one token in 0.02 s keeps the slack of the oldest row: the target is 0.02 s
            observation = believing(np.full((4, 4), 0.9), step, now=0.02 * step, slo_slack=np.zeros(4))
            plan = policy.plan(observation._replace(generated=np.full(4, 3 + step)))
        assert plan.draft_length == length


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({"statistic": "product", "threshold": 0.3}, [3, 1, 4]),  # .72 .288 | .2 | .855 .77 .69 .62
        ({"statistic": "last", "threshold": 0.5}, [2, 1, 4]),
        ({"statistic": "last", "threshold": 0.0}, [4, 4, 4]),
        ({"statistic": "entropy", "threshold": 0.65}, [1, 0, 4]),
    ],
)
def test_confidence_stop_by_hand(parameters, wanted):
    told = [[0.9, 0.4, 0.8, 0.9], [0.2, 0.9, 0.9, 0.9], [0.95, 0.9, 0.9, 0.9]]
    if parameters["statistic"] == "product":
        told[0] = [0.9, 0.8, 0.4, 0.9]
    assert verified(get_policy("confidence_stop", parameters), believing(told)) == wanted


def test_least_entropy_is_a_lower_bound():
    rng = np.random.default_rng(10)
    for _ in range(200):
        p = rng.dirichlet(np.full(int(rng.integers(2, 9)), float(rng.uniform(0.1, 3))))
        p = np.clip(p, 1e-9, None) / np.clip(p, 1e-9, None).sum()
        assert least_entropy(np.array([p.max()]))[0] <= -(p * np.log(p)).sum() + 1e-9
    two = np.array([0.8])
    assert least_entropy(two)[0] == pytest.approx(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    grid = least_entropy(np.linspace(0.01, 0.99, 99))
    assert (np.diff(grid) < 0).all()


class PlainDsde:
    """DSDE one sequence at a time."""

    def __init__(self, longest, least):
        self.longest, self.least, self.history = longest, least, {}

    def wanted(self, request):
        past = self.history.get(request)
        if not past:
            return float(self.longest)
        past = (past + [past[-1]] * 30)[:30]

        def variance(window):
            weights = [0.85**i for i in range(window)]
            mean = sum(w * x for w, x in zip(weights, past, strict=False)) / sum(weights)
            return sum(w * (x - mean) ** 2 for w, x in zip(weights, past, strict=False)) / sum(weights)

        ratio = variance(10) / variance(30) if variance(30) > 1e-12 else 1.0
        product = (math.exp(2 * past[0]) - 1) * ratio
        return self.least if product > 1 else (1 - product) * (self.longest - self.least) + self.least

    def step(self, observation):
        wanted = [self.wanted(r) for r in observation.request_ids.tolist()]
        cap = sum(wanted) / len(wanted)
        wanted = [round(min(w, cap)) for w in wanted]
        lengths = [min(w, p) for w, p in zip(wanted, observation.pending.tolist(), strict=True)]
        kept = {}
        for row, request in enumerate(observation.request_ids.tolist()):
            told = [2 * (1 - c) ** 2 for c in observation.confidence[row, : lengths[row]]]
            past = self.history.get(request, [])
            newest = sum(told) / len(told) if told else (past[0] if past else 0.0)
            kept[request] = [newest, *past][:31]
        self.history = kept
        return lengths, max(wanted)


def test_dsde_is_its_law_sequence_by_sequence():
    rng, policy, plain = np.random.default_rng(11), get_policy("dsde", {"lengths": [2, 4, 8]}), PlainDsde(8, 2)
    ids, drafted, cuts = np.arange(5), 8, 0
    for step in range(120):
        if step % 7 == 6:  # the second leaves, two join
            ids = np.append(np.delete(ids, 1), [100 + step, 200 + step])[-6:]
        believed = rng.uniform(*((0.5, 0.9) if step // 20 % 2 else (0.8, 1.0)), (len(ids), drafted))
        observation = believing(believed, step)._replace(request_ids=ids)
        lengths, longest = plain.step(observation)
        plan = policy.plan(observation)
        assert plan.verify_lengths.tolist() == lengths, step
        drafted = plan.draft_length
        assert drafted == min(k for k in (2, 4, 8) if k >= longest)
        cuts += sum(lengths) < drafted * len(lengths)
    assert cuts > 20


def rooms(observation, tpot, cost, horizon, rate, longest=4):
    """Return {(late, ahead): prompt tokens a second} of the feasible pairs of lengths, by trying prompt sizes."""
    slack, pairs = observation.slo_slack, {}
    late = slack < 0
    tiers = (slack[late & (slack >= -0.5 * horizon * tpot)], slack[~late])
    for pair in itertools.product(range(longest + 1), repeat=2):
        emitted = [sum(rate**j for j in range(k + 1)) for k in pair]
        limits = [tpot * e + t.min() / horizon for e, t in zip(emitted, tiers, strict=True) if len(t)]
        drafts = int(late.sum()) * pair[0] + int((~late).sum()) * pair[1]
        rows = observation.batch
        if cost.verify_seconds(rows, rows, 0, drafts, max(pair)) <= min(limits):
            low, high = 0.0, 8192.0
            for _ in range(60):
                middle = (low + high) / 2
                fits = cost.verify_seconds(rows, rows, 0, drafts + middle, max(pair)) <= min(limits)
                low, high = (middle, high) if fits else (low, middle)
            pairs[pair] = (low / min(limits), low)
    return pairs


def test_slos_serve_is_the_best_feasible_pair():
    rng, tpot, planned = np.random.default_rng(12), 0.03, set()
    for _ in range(80):
        rows = int(rng.integers(1, 9))
        cost = Slope(token=float(rng.uniform(1e-4, 2e-3)), draft=float(rng.uniform(1e-4, 4e-3)))
        policy = get_policy("slos_serve", {"horizon": 8}, cost)
        slack = rng.normal(0, 0.05, rows)
        slack[0] = tpot - 0.05
        policy.plan(seen(rows, 0, slo_slack=np.zeros(rows)))
        observation = chains(rng, rows, 4, 1, ragged=False, now=0.05, slo_slack=slack, waiting=1)
        observation = observation._replace(generated=np.full(rows, 2))
        plan, pairs = policy.plan(observation), rooms(observation, tpot, cost, 8, 0.7)
        assert (plan.prefill_budget is None) == (not pairs)
        if pairs:
            late = slack < 0
            best = max(value for value, _ in pairs.values())
            chosen = [int(plan.verify_lengths[side].max()) if side.any() else 0 for side in (late, ~late)]
            value, room = pairs[tuple(chosen)]
            assert value == pytest.approx(best, rel=1e-6)
            assert plan.prefill_budget == pytest.approx(room, abs=1.01)
            assert plan.draft_length == max(chosen)
            planned.add(plan.draft_length)
        else:
            planned.add("fastest")
        alone = policy.plan(observation._replace(waiting=0))
        assert alone.prefill_budget is None
    assert len(planned) > 3


def test_slos_serve_without_a_target_is_the_fastest():
    for token in (1e-5, 5e-4, 4e-3):
        cost = Slope(token=token, draft=1e-3)
        plan = get_policy("slos_serve", {}, cost).plan(seen(8, pending=4))
        wanted = max(range(5), key=lambda k: sum(0.7**j for j in range(k + 1)) / cost.step_seconds(8, k, 0))
        assert (plan.draft_length, plan.prefill_budget) == (wanted, None)


def test_slos_serve_with_nobody_left_to_serve_in_time_is_the_fastest():
    """Rows beyond help bound no step: it goes as without a target."""
    policy = get_policy("slos_serve", {"horizon": 8}, Slope())
    policy.plan(seen(4, 0, slo_slack=np.full(4, -100.0)))
    lost = seen(4, 1, pending=4, slo_slack=np.full(4, -100.02), now=0.05, waiting=3)
    lost = lost._replace(generated=lost.generated + 1)
    plan, fastest = policy.plan(lost), policy.plan(lost._replace(waiting=0))
    assert (plan.draft_length, plan.prefill_budget) == (fastest.draft_length, None)
    np.testing.assert_array_equal(plan.verify_lengths, fastest.verify_lengths)
    in_time = lost._replace(slo_slack=np.array([-100.02, 1.0, 1.0, 1.0]))
    assert policy.plan(in_time).prefill_budget is not None


CLOSED = {
    "model": "qwen3-30b-a3b", "draft": "eagle3", "gpus": "1 x h200", "slo": {"tpot": "15ms"},
    "workload": {"kind": "closed", "concurrency": 12, "limit": 24, "lengths": {"prompt": 300, "output": 120}},
}  # fmt: skip


def summary(policy, concurrency=12, **acceptance):
    workload = CLOSED["workload"] | {"concurrency": concurrency, "limit": 2 * concurrency}
    run = CLOSED | {"policy": policy, "workload": workload, "acceptance": {"kind": "iid", "rate": 0.7} | acceptance}
    return simulate(scenario_from_mapping(run)).summary


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_run_serves_everyone(name):
    run = summary(name)
    assert run["requests"]["finished"] == 24
    assert run["speculation"]["acceptance_length"] > 1.5


def test_confidences_that_tell_something_spare_verification():
    """The same requests and coins, 48 at a time, so that verifying costs: fewer drafts in vain, more tokens/s."""
    policies = ({"kind": "fixed", "length": 8}, {"kind": "dspark", "lengths": [8], "staleness": 0})
    fixed, chosen = (summary(policy, concurrency=48, auc=0.85) for policy in policies)
    assert chosen["speculation"]["wasted_fraction"] < 0.9 * fixed["speculation"]["wasted_fraction"]
    assert chosen["output_tokens_per_s"] > fixed["output_tokens_per_s"]


def test_observations_of_the_suite_reach_the_hard_cases():
    """The conformance suite shows these policies ragged drafts, no confidence, no slack, and no rows."""
    shown = list(observations((0, 1, 2, 3, 4)))
    assert any(o.confidence is None and o.batch for o in shown)
    assert any(o.slo_slack is None and o.batch for o in shown)
    assert any(not o.batch for o in shown)
    assert any(o.batch and 0 < o.pending.sum() < 4 * o.batch for o in shown)
    assert plan_seconds(get_policy("tetris"), (0, 1, 2, 3, 4), 1.0) > 0
