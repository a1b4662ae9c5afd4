"""Measured tables: monotone, never below the roofline, exact at the points; and files that are not calibrations."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.drafts import make_draft
from sdsim.errors import CalibrationError, ScenarioError
from sdsim.experts import make_routing
from sdsim.gpus import load_gpu
from sdsim.latency.backend import load_backend
from sdsim.latency.calibrated import CalibratedKernels, PartialAttention, make_kernels
from sdsim.latency.calibration import load_calibration, load_shipped, parse
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import load_engine
from sdsim.latency.family import fit_family
from sdsim.latency.leave_out import without
from sdsim.latency.prices import Prices
from sdsim.latency.quality import FREE, Quality
from sdsim.latency.roofline import RooflineKernels
from sdsim.latency.tables import Curve, ExpertTable, Plane, nearest_rising
from sdsim.matrices import Matrix
from sdsim.models import load_model
from sdsim.profile_gpu import earlier, known_rows
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate
from sdsim.testing import check_latency_model

H200 = load_gpu("h200")
SHIPPED = load_shipped("h200")
assert SHIPPED is not None
KERNELS = CalibratedKernels(SHIPPED, H200)


def prices(name, draft="qwen2-0.5b", kernels=KERNELS):
    target = load_model(name)
    latency = ComposedLatency(target, make_draft("model", target, draft), kernels, load_engine("ideal"))
    return Prices(latency, make_routing(target.experts, target.experts_per_token)), latency


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "qwen2-57b-a14b", "mixtral-8x7b", "qwen2.5-32b", "gpt-oss-120b"])
def test_contract(name):
    check_latency_model(prices(name)[1])


@given(tokens=st.integers(1, 8192), more=st.integers(1, 500), distinct=st.floats(8, 128), extra=st.floats(0, 64))
def test_experts_are_monotone_and_above_the_roofline(tokens, more, distinct, extra):
    model = load_model("qwen3-30b-a3b")
    base = KERNELS.experts(model, 1.0).price(tokens, distinct).seconds
    assert KERNELS.experts(model, 1.0).price(tokens + more, distinct).seconds >= base * (1 - 1e-12)
    assert KERNELS.experts(model, 1.0).price(tokens, min(distinct + extra, 128)).seconds >= base * (1 - 1e-12)
    floor = RooflineKernels(H200)
    floor.bytes_per_s = SHIPPED.read_bytes_per_s
    assert base >= floor.experts(model, 1.0).price(tokens, distinct).seconds * (1 - 1e-12)


@given(rows=st.integers(1, 256), queries=st.integers(1, 9), context=st.integers(1, 30_000), more=st.integers(0, 9000))
def test_attention_grows_with_context(rows, queries, context, more):
    attention = KERNELS.attention(load_model("qwen3-30b-a3b"), 1.0)
    tokens = rows * queries
    near = attention.verify(rows, tokens, rows * context, tokens * context)
    far = attention.verify(rows, tokens, rows * (context + more), tokens * (context + more))
    assert 0 < near <= far * (1 + 1e-9)


def test_measured_points_come_back():
    for row in [r for r in SHIPPED.of("gemm") if r["tokens"] == 64][:20]:
        matrix = Matrix(row["shape"]["inputs"], row["shape"]["outputs"])
        price = KERNELS.dense(np.array(64), matrix, 2.0)
        assert price.quality == Quality.MEASURED
        assert price.seconds >= 0.99e-6 * row["us_p50"]


def test_quality_says_what_a_price_rests_on():
    known, _ = prices("qwen2-57b-a14b")
    unseen = CalibratedKernels(without(SHIPPED, load_model("gpt-oss-120b")), H200)
    unknown, _ = prices("gpt-oss-120b", kernels=unseen)
    assert known.cost(8, 0, 500).quality["extrapolated"] == 0
    assert unknown.cost(8, 0, 500).quality["extrapolated"] > 0.5
    assert sum(known.cost(48, 3, 777).quality.values()) == pytest.approx(1)
    assert KERNELS.dense(np.array(64), Matrix(4097, 999), 2.0).quality == Quality.EXTRAPOLATED


def test_a_run_adds_up_what_its_prices_rest_on():
    mapping = {
        "model": "qwen3-30b-a3b", "draft": {"kind": "model", "model": "qwen2-0.5b"}, "gpus": "1 x h200",
        "workload": {"kind": "poisson", "rate": 50, "limit": 30, "lengths": {"prompt": 200, "output": 20}},
        "acceptance": {"kind": "iid", "rate": 0.8}, "policy": {"kind": "fixed", "length": 3},
    }  # fmt: skip
    calibrated = simulate(scenario_from_mapping(mapping)).summary["data_quality"]
    assert calibrated["extrapolated"] < 0.02
    assert sum(calibrated.values()) == pytest.approx(1)
    roofline = simulate(scenario_from_mapping(mapping | {"calibration": "roofline"})).summary["data_quality"]
    assert roofline == {"measured": 0.0, "interpolated": 0.0, "extrapolated": 1.0}
    other = simulate(scenario_from_mapping(mapping | {"gpus": "1 x h100"})).summary["data_quality"]
    assert other["extrapolated"] == 1.0


def test_families_predict_the_shapes_they_were_fitted_without():
    """Leave one MoE shape out: the fit of the others is within a tenth on half of its points."""
    rows = [r for r in SHIPPED.of("moe") if "weights" not in r["shape"]]
    for name in ("qwen3-30b-a3b", "qwen2-57b-a14b", "mixtral-8x7b"):
        hidden = load_model(name).hidden
        others = [r for r in rows if r["shape"]["hidden"] != hidden]
        family = fit_family(others, SHIPPED.read_bytes_per_s, SHIPPED.flops_per_s)
        mine = [r for r in rows if r["shape"]["hidden"] == hidden]
        errors = sorted(abs(1e6 * family.seconds(r["bytes"], r["flops"]) / r["us_p50"] - 1) for r in mine)
        assert errors[len(errors) // 2] < 0.12, (name, errors[len(errors) // 2])


def test_one_slow_count_does_not_slow_all_larger_ones():
    assert nearest_rising([1.0, 2.0, 9.0, 3.0, 4.0]).tolist() == [1.0, 2.0, 4.0, 4.0, 4.0]
    assert nearest_rising([1.0, 2.0, 2.0, 5.0]).tolist() == [1.0, 2.0, 2.0, 5.0]


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0]), min_size=1, max_size=6))
def test_no_rising_times_are_closer(seconds):
    """Against all of them: an optimum takes its values from those given."""

    def error(found):
        return sum(abs(math.log(a / b)) for a, b in zip(found, seconds, strict=True))

    found = nearest_rising(seconds)
    assert bool((np.diff(found) >= 0).all())
    rising = itertools.combinations_with_replacement(sorted(set(seconds)), len(seconds))
    assert error(found) <= min(map(error, rising)) + 1e-9


def test_tables_by_hand():
    curve = Curve([(1, 1.0), (4, 3.0), (2, 0.9)])
    seconds, quality = curve.prices(np.array([0, 1, 2, 3, 8]))
    assert seconds.tolist() == pytest.approx([0.0, 0.95, 0.95, 1.975, 6.0])
    assert quality.tolist() == [
        Quality.MEASURED, Quality.MEASURED, Quality.MEASURED, Quality.INTERPOLATED, Quality.EXTRAPOLATED
    ]  # fmt: skip
    rows = [{"tokens": t, "distinct": d, "us_p50": 1e6 * s} for t, d, s in ((1, 2, 1.0), (4, 2, 1.5), (4, 6, 5.5))]
    table = ExpertTable(rows, 8, 0.5)
    assert table.price(1, 2) == (1.0, Quality.MEASURED)
    assert table.price(4, 4).seconds == pytest.approx(3.5)
    assert table.price(1, 4).seconds == pytest.approx(2.0)
    plane = Plane({(1, 10): 1.0, (1, 100): 10.0, (4, 10): 4.0})
    assert plane.seconds(2, 10) == pytest.approx(2.0)
    assert plane.seconds(4, 100) == pytest.approx(40.0)
    assert plane.seconds(1, 1000) == pytest.approx(100.0)
    assert plane.seconds(8, 10) == pytest.approx(8.0)
    assert plane.seconds(0.5, 1) == pytest.approx(1.0)
    cut = Plane({(4, 10): 4.0, (1, 100): 9.0})  # a measurement that ended early leaves a hole below as well
    assert [cut.seconds(1, 10), cut.seconds(4, 100), cut.seconds(1, 55)] == pytest.approx([9.0, 40.0, 9.0])
    assert Plane({(2, 10): 3.0}).seconds(4, 20) == pytest.approx(12.0)


GOOD = {
    "schema": 1,
    "gpu": "h200",
    "ceilings": {"read_tb_s": 4.5, "matmul_tflop_s": 700},
    "rows": [
        {"kernel": "gemm", "shape": {"inputs": 1, "outputs": 1}, "tokens": 1, "us_p50": 3.0, "bytes": 6, "flops": 2}
    ],
}
MOE = {"experts": 8, "topk": 2, "hidden": 4, "intermediate": 4}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpu": "h100"}, "measured on 'h100'"),
        ({"schema": 2}, "this version reads 1"),
        ({"rows": []}, "rows or ceilings missing"),
        ({"ceilings": {"read_tb_s": float("nan"), "matmul_tflop_s": 1}}, "NaN, which is no JSON"),
        ({"ceilings": {"read_tb_s": 0, "matmul_tflop_s": 1}}, "ceilings.read_tb_s"),
        ({"rows": [{**GOOD["rows"][0], "us_p50": 1e300}]}, r"us_p50 1e\+300"),
        ({"rows": [{**GOOD["rows"][0], "shape": {"inputs": 1}}]}, "shape: outputs missing"),
        ({"rows": [{**GOOD["rows"][0], "tokens": None}]}, "tokens nothing"),
        ({"rows": [{**GOOD["rows"][0], "bytes": True}]}, "bytes true"),
        ({"rows": [{**GOOD["rows"][0], "kernel": ["gemm"]}]}, "not a measurement"),
        ({"rows": [{**GOOD["rows"][0], "kernel": "moe", "shape": MOE | {"experts": 10**7}}]}, "experts 10000000"),
        ({"rows": [{**GOOD["rows"][0], "kernel": "moe", "shape": MOE, "distinct": 0}]}, "distinct 0"),
        ({"rows": [{**GOOD["rows"][0], "kernel": "rejection", "shape": {"vocab": 9}}]}, "mode missing"),
        ({"rows": [{**GOOD["rows"][0], "shape": GOOD["rows"][0]["shape"] | {"weights": "int3"}}]}, "weights .?int3"),
        ({"rows": GOOD["rows"] * 501}, "501 points of"),
        ({"rows": GOOD["rows"] * 10_001}, "10,001 rows"),
        ({"rows": [{**GOOD["rows"][0], "us_p50": -1}]}, "us_p50 -1"),
        ({"rows": [{**GOOD["rows"][0], "tokens": 1.5}]}, "tokens 1.5"),
        ({"rows": [{**GOOD["rows"][0], "kernel": "warp"}]}, "not a measurement"),
    ],
)
def test_a_wrong_calibration_is_refused(change, said, tmp_path):
    with pytest.raises(CalibrationError, match=said):
        parse(json.dumps(GOOD | change), "x.json", "h200")


def test_files_that_are_no_calibration(tmp_path):
    path = tmp_path / "h200.json"
    path.write_text(json.dumps(GOOD)[:-20])
    with pytest.raises(CalibrationError, match="cut short"):
        load_calibration(path, "h200")
    with pytest.raises(CalibrationError, match="cannot be read"):
        load_calibration(tmp_path / "none.json", "h200")
    mapping = {"model": "qwen3-30b-a3b", "gpus": "1 x h200", "calibration": str(path)}
    workload = {"kind": "poisson", "rate": 1, "limit": 1, "lengths": {"prompt": 1, "output": 1}}
    with pytest.raises(ScenarioError, match=r"calibration: .*cut short"):
        scenario_from_mapping(mapping | {"workload": workload})
    path.write_text(json.dumps(GOOD))
    assert isinstance(make_kernels(H200, str(path)), CalibratedKernels)


def test_an_interrupted_profile_resumes_and_loses_nothing(tmp_path):
    out, part = tmp_path / "h200.json", tmp_path / "h200.json.part"
    rows = [{"key": f"k{i}", "us_p50": i + 1.0} for i in range(3)]
    part.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"key": "torn", "us')
    assert known_rows(part, out, resume=True) == rows
    with pytest.raises(CalibrationError, match="add --resume"):
        known_rows(part, out, resume=False)
    out.write_text(json.dumps({"rows": [{"key": "k9", "us_p50": 1.0}, rows[0]]}))
    assert {r["key"] for r in known_rows(part, out, resume=True)} == {"k0", "k1", "k2", "k9"}


def test_a_profile_added_to_a_file_says_where_its_older_rows_are_from(tmp_path):
    out = tmp_path / "h200.json"
    assert earlier(out) == {}
    out.write_text(json.dumps({"provenance": {"commit": "abc", "earlier": {"rows": 1}}, "rows": [{"key": "k"}] * 2}))
    assert earlier(out) == {"earlier": {"commit": "abc", "earlier": {"rows": 1}, "rows": 2}}


def test_experts_below_the_fewest_timed_are_spared_their_weights():
    rows = [{"tokens": 8, "distinct": d, "us_p50": 100.0 + 10 * d} for d in (8, 16)]
    table = ExpertTable(rows, 32, 2e-6)
    assert table.price(8, 5.0).seconds == pytest.approx(180e-6 - 3 * 2e-6)
    assert table.price(8, 20.0).seconds == pytest.approx(260e-6 + 4 * 2e-6)


def test_half_the_heads_prefill_in_half_the_time():
    class Whole:
        def prefill(self, *sizes: int) -> float:
            return float(sum(sizes))

    assert PartialAttention(Whole(), 0.5).prefill(2, 300, 40, 7) == 0.5 * 349


def test_one_row_of_logits_is_no_extrapolation_of_two():
    vocabulary = load_model("qwen3-30b-a3b").vocabulary
    found = KERNELS.sampling(np.array([0, 1, 2]), vocabulary)
    assert found.quality.tolist() == [Quality.MEASURED, Quality.INTERPOLATED, Quality.MEASURED]
    assert found.seconds[1] == found.seconds[2]


def test_longer_drafts_than_were_timed_take_longer_in_proportion():
    attention = KERNELS.attention(load_model("qwen3-30b-a3b"), 1.0)
    longest = max(r["q_len"] for r in SHIPPED.of("attention") if r["shape"]["heads"] == 32)
    one, two = (attention.verify(4, 4 * q, 4 * (4000 - q), 4 * q * (4000 - q)) for q in (longest, 2 * longest))
    assert two == pytest.approx(2 * one)


def test_kernels_that_nobody_timed_on_a_gpu_are_refused():
    with pytest.raises(CalibrationError, match=r"kernels 'vllm-0.22.1' were not measured on 'l40'; use engine ideal"):
        load_backend("vllm-0.22.1", "l40")
    with pytest.raises(CalibrationError, match="kernels 'none' were not measured on 'h200'"):
        load_backend("none", "h200")


@pytest.mark.parametrize("kernels", [RooflineKernels(H200), KERNELS])
def test_no_tokens_load_no_experts(kernels):
    assert kernels.experts(load_model("mixtral-8x7b"), 1.0).price(0, 0.0) == FREE


def test_fewer_tokens_than_were_timed_cost_what_the_fewest_do():
    rows = [{"tokens": t, "distinct": d, "us_p50": 10.0 * t + d} for t in (4, 8) for d in (4, 8)]
    table = ExpertTable(rows, 16, 1e-6)
    assert table.price(2, 4.0) == (table.price(4, 4.0).seconds, Quality.EXTRAPOLATED)
    assert table.price(4, 4.0) == (pytest.approx(44e-6), Quality.MEASURED)
    assert table.price(16, 8.0) == (pytest.approx(2 * 88e-6), Quality.EXTRAPOLATED)


def test_a_plane_tells_times_at_other_contexts_than_its_own():
    plane = Plane({(1, 10): 1.0, (1, 100): 10.0, (2, 10): 2.0, (2, 100): 20.0})
    assert plane.across_at(1, [10, 100]) == [1.0, 10.0]
    assert plane.across_at(1, [10, 55, 100]) == pytest.approx([1.0, 5.5, 10.0])
    assert plane.across_at(2, [55]) == pytest.approx([11.0])
