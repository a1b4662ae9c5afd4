"""Figures against numpy and by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.metrics import Slo, distribution, meets, slo_of, speculation, summarise, weighted_distribution
from sdsim.recorder import Recorder
from sdsim.request import RequestTable
from sdsim.scenario import scenario_from_mapping
from sdsim.statistics import interval, mean_summary, relative_gain
from tests.priced import simulate_priced
from tests.random_scenarios import random_case


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 20)), min_size=1, max_size=40))
def test_weighted_percentiles_are_numpys_on_repeated_values(pairs):
    values, counts = (np.array(c, dtype=float) for c in zip(*pairs, strict=True))
    expected = distribution(np.repeat(values, counts.astype(int)))
    found = weighted_distribution(values, counts)
    for key, value in expected.items():
        assert found[key] == (value if value is None else pytest.approx(value, rel=1e-9, abs=1e-12))


def table():
    nan = np.nan
    return {
        "request_id": np.arange(4.0),
        "replica": np.zeros(4),
        "arrival_s": np.array([0.0, 1.0, 2.0, 3.0]),
        "first_token_s": np.array([0.5, 1.2, 4.5, 3.1]),
        "finish_s": np.array([2.5, 1.2, 5.0, nan]),
        "prompt_tokens": np.full(4, 10.0),
        "output_tokens": np.array([5.0, 1.0, 11.0, 9.0]),
        "generated_tokens": np.array([5.0, 1.0, 11.0, 3.0]),
        "request_class": np.zeros(4),
        "preemptions": np.array([0.0, 0.0, 2.0, 1.0]),
        "verify_steps": np.ones(4),
    }


def steps():
    return {
        "start_s": np.array([0.0, 1.0]),
        "seconds": np.array([1.0, 3.0]),
        "rows": np.array([2.0, 4.0]),
        "verify_tokens": np.array([2.0, 16.0]),
        "draft_length": np.array([0.0, 3.0]),
        "emitted_tokens": np.array([3.0, 10.0]),
        "first_tokens": np.array([1.0, 0.0]),
        "accepted_tokens": np.array([0.0, 6.0]),
        "distinct_experts": np.array([10.0, 30.0]),
        "regular_gaps": np.array([2.0, 4.0]),
    }


def test_summary_by_hand():
    found = summarise(table(), steps(), np.array([9.0]), Slo(ttft=1.0, tpot=0.5), gpus=2)
    assert found["requests"] == {"offered": 4, "finished": 3, "unfinished": 1}
    assert found["ttft_s"]["mean"] == pytest.approx((0.5 + 0.2 + 2.5 + 0.1) / 4)
    assert found["tpot_s"]["mean"] == pytest.approx((2.0 / 4 + 0.5 / 10) / 2)
    assert found["itl_s"]["mean"] == pytest.approx((2 * 1 + 4 * 3 + 9) / 7)
    assert found["output_tokens_per_s"] == pytest.approx(17 / 5.0)
    assert found["output_tokens_per_gpu_s"] == pytest.approx(17 / 10.0)
    assert found["slo_attainment"] == 0.5
    assert found["goodput_rps"] == pytest.approx(2 / 5.0)
    assert found["preemptions"] == 3
    assert found["mean_batch"] == 3
    assert found["moe"]["distinct_experts_mean"] == 20


def test_speculation_by_hand():
    found = speculation(steps())
    assert found["mean_draft_length"] == pytest.approx(12 / 6)
    assert found["acceptance_length"] == pytest.approx(12 / 6)
    assert found["acceptance_rate"] == pytest.approx(0.5)
    assert found["wasted_fraction"] == pytest.approx(0.5)
    assert found["off_fraction"] == pytest.approx(0.25)


def test_a_single_token_has_no_tpot_to_miss():
    assert meets(Slo(tpot=1e-9), table()).tolist() == [False, True, False, False]


def test_warmup_cut_and_nothing_at_all():
    later = summarise(table(), steps(), np.empty(0), None, 1, warmup_s=1.0)
    assert later["requests"]["offered"] == 3
    assert later["goodput_rps"] is None
    none = {k: v[:0] for k, v in table().items()}
    empty = summarise(none, {k: v[:0] for k, v in steps().items()}, np.empty(0), Slo(ttft=1), 1)
    assert empty["ttft_s"] == {"mean": None, "p50": None, "p90": None, "p99": None}
    assert empty["output_tokens_per_s"] is None
    assert empty["slo_attainment"] is None


def test_the_warm_up_cut_leaves_out_gaps_too():
    recorder = Recorder(RequestTable())
    recorder.gaps(np.array([9.0, 8.0]), 0.5)
    recorder.gaps(np.array([2.0]), 1.0)
    assert recorder.irregular_gaps().tolist() == [9, 8, 2]
    assert recorder.irregular_gaps(1.0).tolist() == [2]


def test_after_a_warm_up_longer_than_the_run_nothing_is_left():
    """Not even the gaps of rows that were evicted."""
    evicted = 0
    for number in range(12):
        mapping, pools = random_case(number)
        scenario = scenario_from_mapping(mapping | {"policy": "off", "engine": "ideal", "until": None})
        evicted += simulate_priced(scenario, lambda shape: 0.01, pools).summary["preemptions"]
        late = scenario.model_copy(update={"warmup": 1e9})
        found = simulate_priced(late, lambda shape: 0.01, pools).summary["itl_s"]
        assert found == dict.fromkeys(("mean", "p50", "p90", "p99"))
    assert evicted


def test_intervals_cover():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        found = interval(rng.normal(3.0, 2.0, 5))
        assert found is not None
        inside += found[0] < 3.0 < found[1]
    assert 0.93 <= inside / 1000 <= 0.97
    assert interval([1.0]) is None


def test_paired_gain_removes_what_seeds_share():
    rng = np.random.default_rng(1)
    load = rng.uniform(1, 10, 6)
    gain, found = relative_gain(load * 1.1, load)
    assert gain == pytest.approx(0.1)
    assert found == (pytest.approx(0.1), pytest.approx(0.1))


def test_mean_summary_keeps_what_agrees_and_marks_what_is_missing():
    a = {"policy": "x", "seed": 1, "steps": 10, "ttft_s": {"p50": 1.0}, "goodput_rps": None}
    b = {"policy": "x", "seed": 2, "steps": 20, "ttft_s": {"p50": 3.0}, "goodput_rps": None}
    found = mean_summary([a, b])
    assert found["policy"] == "x"
    assert found["seed"] == [1, 2]
    assert found["steps"] == 15
    assert found["ttft_s"]["p50"] == 2.0
    assert found["goodput_rps"] is None
    assert found["ci95"]["ttft_s"]["p50"][0] < 2.0 < found["ci95"]["ttft_s"]["p50"][1]
    assert mean_summary([a]) == a


def test_a_figure_that_one_seed_lacks_is_missing_and_counts_that_agree_stay_whole():
    found = mean_summary([{"seed": 1, "steps": 7, "tpot": 1.0}, {"seed": 2, "steps": 7, "tpot": None}])
    assert found["tpot"] is None
    assert "tpot" not in found["ci95"]
    assert repr(found["steps"]) == "7"


def test_what_is_left_out_of_means():
    """Steps without rows, of the batch; steps that draft one token, of the time off; a dense model, of experts."""
    seen = {name: np.append(values, 0.0) for name, values in steps().items()} | {"draft_length": np.array([0.0, 1, 0])}
    found = summarise(table(), seen, np.empty(0), None, 1)
    assert found["mean_batch"] == 3
    assert found["speculation"]["off_fraction"] == pytest.approx(0.25)
    dense = steps() | {"distinct_experts": np.zeros(2)}
    assert summarise(table(), dense, np.empty(0), None, 1)["moe"]["distinct_experts_mean"] is None


def test_the_span_begins_with_the_first_request_offered_even_if_it_never_finishes():
    late = table() | {"finish_s": np.array([np.nan, 1.2, 5.0, np.nan]), "arrival_s": np.array([0.0, 1.0, 2.0, 3.0])}
    assert summarise(late, steps(), np.empty(0), None, 1)["output_tokens_per_s"] == pytest.approx(12 / 5.0)


def test_every_target_of_a_scenario_counts():
    spec = SimpleNamespace(ttft=None, tpot=None, e2e=0.3)
    slo = slo_of(spec, {}, ("default",))
    assert slo is not None
    assert meets(slo, table()).tolist() == [False, True, False, False]
