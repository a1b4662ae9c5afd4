"""The parts of a recommendation: what drafts yield, which policy stands first, and the searches."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdsim.acceptance import conditional_rates
from sdsim.errors import ScenarioError
from sdsim.load import mean_rate
from sdsim.policies import policy_class
from sdsim.recommendation.candidates import default_policies, lengths_of, live_laws, named_policies
from sdsim.recommendation.drafts import Drafts, moved
from sdsim.recommendation.flip import TOLERANCE, crossing
from sdsim.recommendation.measured import apply_measured
from sdsim.recommendation.ranking import SPEED, Contender, best, gain, objective, ranked
from sdsim.recommendation.replicas import WIDEST, drained, fewest
from sdsim.recommendation.table import NEAR, StepTimes
from sdsim.recommendation.trials import Bench, Trial
from sdsim.scenario import PolicySpec
from sdsim.simulation import make_policy, make_system, simulate
from sdsim.workload import requests
from tests.scenario_texts import GOOD, load, without

RATES = st.floats(0.02, 0.98)
MIXTURE = "{kind: mixture, classes: {chat: {rate: 0.5, spread: 0.15}, code: {rate: 0.9, spread: 0.05}}}"
CLASSES = "{chat: {share: 0.7}, code: {share: 0.3, lengths: {prompt: 300, output: 40}}}"
POSITIONS = "{kind: positions, rates: [0.8, 0.5, 0.2, 0.1]}"
LAWS = ("{kind: iid, rate: 0.6}", POSITIONS, "{kind: drift, rates: [0.4, 0.8], every: 20}", MIXTURE)


def contender(label, goodput, e2e=None, tuned=False):
    """A policy with these goodputs and mean latencies, one a seed."""
    latencies = e2e or [1.0] * len(goodput)
    summaries = [{"goodput_rps": g, "e2e_s": {"mean": s}} for g, s in zip(goodput, latencies, strict=True)]
    trials = tuple(Trial(summary, {}, 100.0, (1, 8)) for summary in summaries)
    return Contender(label, PolicySpec(kind="off"), trials, tuned)


# --- who stands first ---


def test_a_clear_lead_in_the_objective_decides_whatever_the_speed():
    slow, quick = contender("slow", [11, 11.1, 10.9], [9, 9, 9]), contender("quick", [10, 10, 10.1], [1, 1, 1])
    assert best([quick, slow], "goodput_rps") is slow
    assert [one.label for one in ranked([quick, slow], "goodput_rps")] == ["slow", "quick"]


def test_equals_are_told_apart_by_speed_and_then_by_order():
    simple, same = contender("simple", [10, 10, 10]), contender("same", [10.05, 9.96, 10.04])
    quick = contender("quick", [10.02, 9.95, 10.01], [0.8, 0.8, 0.8])
    assert best([simple, same], "goodput_rps") is simple
    assert best([simple, same, quick], "goodput_rps") is quick


def test_a_small_difference_that_every_seed_shows_counts():
    base, more = contender("base", [10, 20, 30]), contender("more", [10.04, 20.08, 30.12])
    assert gain(more, base, "goodput_rps").proven
    assert best([base, more], "goodput_rps") is more


def test_gains_over_nothing_are_infinite_and_over_some_seeds_finite():
    none, some = contender("none", [0, 0]), contender("some", [1, 2])
    assert gain(some, none, "goodput_rps").mean == np.inf
    assert gain(none, none, "goodput_rps").mean == 0
    half = gain(contender("x", [3, 3]), contender("y", [0, 2]), "goodput_rps")
    assert half.mean == pytest.approx((3 + 1) / 2 / 1)
    assert best([none, some], "goodput_rps") is some


@given(st.lists(st.lists(st.integers(0, 100), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_ranking_holds_everyone_once_and_begins_with_the_best(values):
    sides = [contender(f"p{i}", goodput) for i, goodput in enumerate(values)]
    order = ranked(sides, "goodput_rps")
    assert sorted(one.label for one in order) == [one.label for one in sides]
    assert order[0] is best(sides, "goodput_rps")


def test_speed_of_a_run_that_finished_nothing_is_zero():
    assert contender("x", [1], [None]).values(SPEED) == [0.0]


# --- searches ---


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_crossing_is_found_from_anywhere(true, guess):
    asked = []

    def pays(acceptance):
        asked.append(acceptance)
        return acceptance >= true

    found = crossing(pays, guess)
    assert found == pytest.approx(true, abs=TOLERANCE)
    assert all(0 <= a <= 1 for a in asked)
    assert len(asked) < 16


def test_a_crossing_that_is_none():
    assert crossing(lambda _: True, 0.4) == 0.0
    assert crossing(lambda _: False, 0.4) is None


@given(st.integers(1, 60), st.integers(1, 6))
def test_the_fewest_replicas_are_the_fewest(need, start):
    asked = []

    def attained(replicas):
        asked.append(replicas)
        return min(replicas / need, 1.0) * 0.95

    found = fewest(attained, start, 0.9)
    assume(0.9 * need / 0.95 % 1 > 1e-6)
    true = int(np.ceil(0.9 * need / 0.95))
    assert found == (true if true <= WIDEST * start else None)
    assert len(asked) <= 2 * np.log2(WIDEST * start) + 2


def test_replicas_that_do_not_help_end_the_search():
    asked = []

    def attained(replicas):
        asked.append(replicas)
        return 0.5

    assert fewest(attained, 2, 0.9) is None
    assert asked == [2, 4]


def test_a_drained_run_has_the_same_requests_and_no_clock(tmp_path):
    scenario = load(tmp_path, GOOD, "until=20s")
    cut = drained(scenario, 7)
    before = np.concatenate([b.arrival_s for b in requests(scenario.workload, 7, 20.0)])
    after = np.concatenate([b.arrival_s for b in requests(cut.workload, 7, None)])
    assert cut.until is None
    assert after.tolist() == before.tolist()


# --- what drafts yield ---


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("length", [1, 3])
def test_expected_tokens_are_those_of_a_run(tmp_path, law, length):
    kind = "bursty, classes: " + CLASSES if law == MIXTURE else "bursty"
    text = without("acceptance").replace("kind: bursty", f"kind: {kind}")
    text = text.replace("azure-conv", "{prompt: 100, output: 200}") + f"acceptance: {law}\n"
    slower = ("workload.rate=3/s", "workload.peak=6/s", "until=120s")
    scenario = load(tmp_path, text, *slower, f"policy={{kind: fixed, length: {length}}}")
    emitted = simulate(scenario).summary["speculation"]["acceptance_length"]
    assert Drafts(scenario, scenario.acceptance).tokens((0, length))[1] == pytest.approx(emitted, rel=0.025)


@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=20)
@given(target=RATES)
def test_a_moved_law_has_the_mean_asked_for(tmp_path_factory, law, target):
    kind = "bursty, classes: " + CLASSES if law == MIXTURE else "bursty"
    text = without("acceptance").replace("kind: bursty", f"kind: {kind}") + f"acceptance: {law}\n"
    scenario = load(tmp_path_factory.getbasetemp(), text)
    spec, mean = scenario.acceptance, Drafts(scenario, scenario.acceptance).mean
    law = moved(spec, mean, target)
    if spec.kind == "mixture":  # spreads are clipped at 0 and 1
        assert Drafts(scenario, law).mean == pytest.approx(target, abs=0.04)
    else:
        assert Drafts(scenario, law).mean == pytest.approx(target, abs=1e-9)
    assert moved(spec, mean, mean) == spec or spec.kind != "iid"


def test_positions_move_by_their_conditional_rates(tmp_path):
    scenario = load(tmp_path, without("acceptance") + "acceptance: {kind: positions, rates: [0.8, 0.4]}\n")
    law = moved(scenario.acceptance, 0.65, 0.325)
    assert conditional_rates(np.array(law.rates)).tolist() == pytest.approx([0.4, 0.25])


# --- the table ---


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_table_is_near_the_most_tokens_a_second_in_the_fewest_ranges(batches, seed):
    """Against all tables there are."""
    random, lengths = np.random.default_rng(seed), (0, 2, 3)
    times, tokens = StepTimes(lengths, 1 + 0.008 * random.random((batches, 3))), np.ones(3)
    rates = tokens / times.seconds
    near = rates >= (1 - NEAR) * rates.max(axis=1, keepdims=True)

    def ranges(table):
        return 1 + np.count_nonzero(np.diff(table))

    allowed = [t for t in product(range(3), repeat=batches) if near[np.arange(batches), t].all()]
    table = times.table(tokens)
    assert tuple(np.searchsorted(lengths, table)) in allowed
    assert ranges(table) == min(map(ranges, allowed))


# --- candidates ---


def test_live_laws_come_from_the_registry(monkeypatch):
    class Newcomer(policy_class("goodput")):
        pass

    assert {"auto", "goodput", "moesd", "position_goodput"} <= set(live_laws())
    assert not {"off", "oracle_expected", "dspark", "batch_table", "fixed", "hysteresis", "evict"} & set(live_laws())
    monkeypatch.setattr("sdsim.recommendation.candidates.policy_names", lambda: ["goodput", "newcomer"])
    monkeypatch.setattr("sdsim.recommendation.candidates.policy_class", lambda _: Newcomer)
    assert live_laws() == ["goodput", "newcomer"]


def test_default_candidates_hold_each_once_and_what_the_scenario_names(tmp_path):
    scenario = load(tmp_path, GOOD, "policy=[{kind: goodput}, {kind: oracle_expected}, {kind: fixed, length: 3}, exp3]")
    found = default_policies(scenario, np.array([3, 3, 1]), (0, 1, 3))
    assert found[0].kind == "off"
    assert found[1].parameters == {"table": [[1, 2, 3], [3, 3, 1]]}
    kinds = [spec.kind for spec in found]
    assert kinds.count("goodput") == 1
    assert kinds.count("fixed") == 2
    assert "exp3" in kinds
    assert "oracle_expected" not in kinds
    system = make_system(scenario)
    assert [lengths_of(spec, make_policy(spec, system)) for spec in found[:4]] == [[0], [1, 3], [1], [3]]


def test_a_constant_length_that_the_table_is_already_is_not_run_twice(tmp_path):
    found = default_policies(load(tmp_path, GOOD, "policy=off"), np.array([3, 3]), (0, 1, 3))
    assert [spec.parameters["length"] for spec in found if spec.kind == "fixed"] == [1]


def test_named_candidates_have_off_first_and_the_tuned_table_in_place():
    found = named_policies("batch_table, {kind: fixed, length: 2}, off, 'exp3'", np.array([1, 0]))
    assert [spec.kind for spec in found] == ["off", "batch_table", "fixed", "exp3"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("godput", "did you mean goodput"),
        ("{kind: fixed, lenght: 2}", "did you mean length"),
        ("[[", "names and mappings"),
        ("oracle_realised", "only a simulation knows"),
    ],
)
def test_a_wrong_candidate_is_one_clear_error(text, says):
    with pytest.raises(ScenarioError, match=says) as error:
        named_policies(text, np.array([1]))
    assert all(problem.startswith("--policies: ") for problem in error.value.problems)


# --- measured on an engine ---

FOUND = {
    "engine": "vllm",
    "warnings": ["w"],
    "acceptance": {"rate": 0.8, "positions": [{"unconditional": {"rate": r}} for r in (0.8, 0.6, 0.61)]},
    "load": {"mean_batch": 9.0, "running": 8, "prompt_tokens": 700.0, "output_tokens": 150.0, "requests_per_s": 3.0},
}


def test_what_an_engine_counted_takes_the_place_of_assumptions(tmp_path):
    scenario, told = apply_measured(load(tmp_path, GOOD, "replicas=2"), FOUND)
    assert scenario.acceptance.rates == (0.8, 0.6, 0.6)
    assert mean_rate(scenario) == pytest.approx(6)
    assert scenario.workload.peak == pytest.approx(2 * scenario.workload.rate)
    prompts, outputs = (
        np.concatenate([getattr(b, name) for b in requests(scenario.workload, 7, 3000.0)])
        for name in ("prompt_tokens", "output_tokens")
    )
    assert prompts.mean() == pytest.approx(700, rel=0.05)
    assert outputs.mean() == pytest.approx(150, rel=0.05)
    assert told.json()["warnings"] == ["w"]
    assert set(told.replaced) == {"acceptance", "workload.lengths", "workload.rate"}
    assert not told.assumed


def test_what_an_engine_did_not_count_stays_and_is_told(tmp_path):
    before = load(tmp_path, GOOD)
    load_unknown = dict.fromkeys(FOUND["load"])
    after, told = apply_measured(before, {**FOUND, "acceptance": None, "load": load_unknown})
    assert after == before
    assert set(told.assumed) == {"acceptance", "workload.lengths", "workload.rate"}


def test_one_rate_stands_for_positions_that_are_not_known(tmp_path):
    positions = [{"unconditional": {"rate": r}} for r in (0.8, None)]
    scenario, _ = apply_measured(load(tmp_path, GOOD), {**FOUND, "acceptance": {"rate": 0.8, "positions": positions}})
    assert (scenario.acceptance.kind, scenario.acceptance.rate) == ("iid", 0.8)


def test_a_closed_loop_takes_the_batch(tmp_path):
    text = GOOD.replace(GOOD.splitlines()[3], "workload: {kind: closed, concurrency: 3, lengths: azure-conv}")
    scenario, told = apply_measured(load(tmp_path, text, "replicas=2"), FOUND)
    assert scenario.workload.concurrency == 18
    assert "workload.rate" not in told.replaced


# --- runs ---


def test_a_trial_keeps_what_its_run_says(tmp_path):
    scenario = load(tmp_path, GOOD, "until=10s", "slo={ttft: 40ms, tpot: 10ms}")
    counted = []
    bench = Bench(finished=counted.append)
    spec = PolicySpec(kind="fixed", parameters={"length": 2})
    (trial,), (again,) = bench.run(scenario, [spec, spec], [7])
    run = simulate(scenario, spec, 7)
    table = run.requests
    assert trial.summary["steps"] == run.summary["steps"]
    low, high = trial.usual_batches
    assert np.mean((run.steps["rows"] >= low) & (run.steps["rows"] <= high)) == pytest.approx(0.9, abs=0.05)
    late = table["first_token_s"] - table["arrival_s"] > 0.04
    assert trial.missed["ttft"] == pytest.approx(np.mean(late))
    assert set(trial.missed) == {"ttft", "tpot"}
    assert counted == [1, 2]
    assert again.summary["goodput_rps"] == trial.summary["goodput_rps"]


def test_the_objective_is_goodput_only_where_there_are_targets(tmp_path):
    assert objective(load(tmp_path, GOOD)) == "goodput_rps"
    assert objective(load(tmp_path, without("slo"))) == "output_tokens_per_s"
