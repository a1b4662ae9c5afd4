"""The cost model: laws, the paper's shape, the published floors, and engine overheads."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.drafts import make_draft
from sdsim.errors import CalibrationError
from sdsim.experts import make_routing
from sdsim.gpus import gpu_names, load_gpu
from sdsim.latency.collectives import make_collectives
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import EngineOverhead, Phases, engine_names, load_engine, padded
from sdsim.latency.prices import Prices
from sdsim.latency.roofline import RooflineKernels
from sdsim.models import load_model, model_names
from sdsim.parallel import Layout
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import make_system, simulate
from sdsim.step import StepShape
from sdsim.testing import check_latency_model

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def latency(model, draft="qwen2-0.5b", gpu="h200", engine="ideal", gpus=1):
    target = load_model(model)
    drafter = (
        make_draft("model", target, draft) if draft not in ("eagle3", "mtp", "ngram") else make_draft(draft, target)
    )
    overhead = engine if isinstance(engine, EngineOverhead) else load_engine(engine)
    kernels, collectives = RooflineKernels(load_gpu(gpu)), make_collectives(load_gpu(gpu), gpus, "hgx", None)
    return ComposedLatency(target, drafter, kernels, overhead, Layout(gpus, gpus), collectives)


def prices(model, **kw):
    priced = latency(model, **kw)
    return Prices(priced, make_routing(priced.target.experts, priced.target.experts_per_token))


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("draft", ["qwen2-0.5b", "eagle3", "mtp", "ngram"])
def test_contract_for_every_model(name, draft):
    check_latency_model(latency(name, draft, gpus=8))


@pytest.mark.parametrize("gpu", gpu_names())
def test_contract_for_every_gpu(gpu):
    check_latency_model(latency("qwen3-30b-a3b", gpu=gpu))


def curve(model, length=4):
    priced = prices(model)
    off = [priced.cost(b, 0, 128) for b in BATCHES]
    on = [priced.cost(b, length, 128) for b in BATCHES]
    tokens = (1 - 0.8 ** (length + 1)) / 0.2
    speedups = [tokens * a.seconds / b.seconds for a, b in zip(off, on, strict=True)]
    return speedups, [a.target_s / b.target_s for a, b in zip(off, on, strict=True)]


def test_moe_speedup_and_efficiency_rise_then_fall():
    speedups, efficiency = curve("qwen2-57b-a14b")
    peak = speedups.index(max(speedups))
    assert 8 <= BATCHES[peak] <= 64
    assert speedups[0] < speedups[peak] > 1.25 * speedups[-1]
    assert efficiency[0] < max(efficiency) > efficiency[-1]


def test_dense_efficiency_only_falls():
    _, efficiency = curve("qwen2.5-32b")
    assert all(later <= earlier * 1.0001 for earlier, later in pairwise(efficiency))


@pytest.mark.parametrize(
    ("model", "tokens", "floor_ms"),
    [("qwen2-57b-a14b", 1, 6.37), ("qwen2-57b-a14b", 16, 23.8), ("mixtral-8x7b", 1, 5.93), ("qwen3-30b-a3b", 64, 13.9)],
)
def test_step_is_near_the_published_byte_floor(model, tokens, floor_ms):
    """The floor divides weight bytes by 4.3e12 bytes/s; ours by the achievable rate, plus gaps."""
    seconds = prices(model).cost(tokens, 0, 1).seconds
    assert 0.95 * floor_ms < seconds * 1e3 < 1.6 * floor_ms


def test_draft_passes_are_one_long_and_the_rest_short():
    """T_D(B, K + 1) + (K - 1) T_D(B, 1): the gain of one more draft is one short pass, the same each time."""
    priced = prices("qwen2-57b-a14b")
    drafts = [priced.cost(8, k, 128).draft_s for k in (1, 2, 3, 4)]
    gaps = [b - a for a, b in pairwise(drafts)]
    assert gaps[0] == pytest.approx(gaps[2], rel=0.05)
    assert drafts[0] > 0


def test_off_warm_and_on_cost_ever_more():
    priced = prices("qwen3-30b-a3b")
    off, warm, on = priced.off_seconds(8, 500), priced.step_seconds(8, 0, 500), priced.step_seconds(8, 1, 500)
    assert off < warm < on


def test_ngram_drafts_are_free_and_eagle_is_cheaper_than_a_model():
    by_kind = {d: prices("qwen3-30b-a3b", draft=d).cost(8, 3, 500).draft_s for d in ("qwen2-0.5b", "eagle3", "ngram")}
    assert by_kind["ngram"] == 0
    assert 0 < by_kind["eagle3"] < by_kind["qwen2-0.5b"]


def test_tensor_parallel_is_faster_but_not_free():
    one, two = (prices("qwen2.5-32b", gpus=n).cost(8, 0, 500) for n in (1, 2))
    assert one.seconds / 2 < two.seconds < one.seconds
    assert two.components["collectives"] > 0 == one.components["collectives"]


def test_sliding_windows_cap_attention():
    priced = latency("gpt-oss-120b")
    shape = StepShape(rows=8, verify_tokens=8, context_tokens=8 * 100_000, attention_pairs=8 * 100_000)
    full = priced.target.layers * RooflineKernels(load_gpu("h200")).attention(priced.target, 1.0).verify(
        8, 8, 800_000, 800_000
    )
    assert 0.45 * full < priced.cost(shape).components["attention"] < 0.55 * full


@given(rows=st.integers(1, 256), length=st.integers(0, 8), context=st.integers(1, 20_000), prefill=st.integers(0, 8192))
def test_price_equals_its_parts_on_the_ideal_engine(rows, length, context, prefill):
    priced = prices("qwen3-30b-a3b")
    shape = priced.shape(rows, length, context, prefill)
    cost = priced._latency.cost(shape)
    assert sum(cost.components.values()) == pytest.approx(cost.seconds)
    assert priced.step_seconds(rows, length, context, prefill) == pytest.approx(cost.seconds)


def test_captured_sizes_follow_vllms_rule():
    engine = EngineOverhead("x", capture_limit=512)
    assert engine.capture_sizes(256, 0) == (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))
    assert engine.capture_sizes(256, 3)[:4] == (4, 8, 16, 24)
    assert all(size % 5 == 0 for size in engine.capture_sizes(256, 4))
    assert engine.capture_sizes(16, 0)[-1] == 32
    # 31 rows of 3 tokens: 186 is asked for, the list ends at 184, and 186 is beyond that again
    assert engine.capture_sizes(31, 2)[-2:] == (168, 177)
    assert engine.capture_sizes(1, 8) == (9,)
    assert EngineOverhead("x").capture_sizes(256, 4) == ()
    assert [padded(t, (1, 2, 4, 8)) for t in (1, 3, 8, 9)] == [1, 4, 8, 9]


def test_host_and_gpu_by_scheduling_mode():
    engine = EngineOverhead("x", synchronous_drafts=("model",), host_step_s=1e-3, host_row_s=1e-4)
    work = Phases(target_s=10e-3, sampling_s=1e-3, draft_s=2e-3, launch_target_s=0.0, launch_draft_s=4e-3, rows=10)
    assert engine.seconds(work, None) == pytest.approx(13e-3)
    assert engine.seconds(work, "model") == pytest.approx(2e-3 + 13e-3)
    launched = work._replace(launch_target_s=12e-3, launch_draft_s=1e-3)
    assert engine.seconds(launched, None) == pytest.approx(2e-3 + 13e-3)
    assert engine.seconds(launched, "model") == pytest.approx(2e-3 + 12e-3 + 1e-3 + 2e-3)
    slow = work._replace(launch_draft_s=40e-3)
    assert engine.seconds(slow, "model") == pytest.approx(2e-3 + 40e-3)


def test_off_is_the_engine_started_without_a_drafter():
    """Its host works ahead; with a draft model, which OFF does not load, it would wait for each step's tokens."""
    base = {"model": "qwen3-30b-a3b", "gpus": "1 x h200", "engine": "vllm-0.22.1", "policy": "off", "slo": {"ttft": 1}}
    base["workload"] = {"kind": "poisson", "rate": 30, "limit": 40, "lengths": {"prompt": 100, "output": 50}}
    drafter = {"draft": {"kind": "model", "model": "qwen2-0.5b"}, "acceptance": {"kind": "iid", "rate": 0.8}}
    without, beside = (scenario_from_mapping(base | more) for more in ({}, drafter))
    assert simulate(beside).requests["finish_s"].tolist() == simulate(without).requests["finish_s"].tolist()
    ours, theirs = (make_system(scenario).prices.cost(32, 0, 500) for scenario in (beside, without))
    assert ours == theirs
    warm = scenario_from_mapping(base | drafter | {"policy": {"kind": "fixed", "length": 0}})
    assert simulate(warm).requests["finish_s"].max() > simulate(without).requests["finish_s"].max()


def test_draft_passes_bind_the_host_at_small_batch():
    engine = EngineOverhead("x", synchronous_drafts=("model",), host_draft_pass_s=8e-3)
    assert prices("qwen3-30b-a3b", engine=engine).cost(1, 4, 128).seconds == pytest.approx(32e-3)


def test_steps_above_the_capture_limit_are_launched_layer_by_layer():
    engine = EngineOverhead("x", capture_limit=512, host_layer_s=1e-3, host_experts_s=1e-3, host_shared_s=1e-3)
    dense, moe, shared = (load_model(m) for m in ("qwen2.5-32b", "qwen3-30b-a3b", "qwen2-57b-a14b"))
    assert engine.launch_target_s(dense, eager=True, alike=True) == pytest.approx(64e-3)
    assert engine.launch_target_s(moe, eager=True, alike=True) == pytest.approx(96e-3)
    assert engine.launch_target_s(shared, eager=True, alike=False) == pytest.approx(84e-3)
    piecewise = EngineOverhead("x", capture_limit=512, host_piece_layer_s=1e-3)
    assert piecewise.launch_target_s(moe, eager=False, alike=False) == pytest.approx(48e-3)
    assert piecewise.launch_target_s(moe, eager=False, alike=True) == 0
    assert piecewise.launch_target_s(moe, eager=True, alike=False) == 0, "a step without graphs has no pieces"
    counted = EngineOverhead("x", capture_limit=512, host_new_count_s=1e-3)
    found = [counted.launch_target_s(moe, eager, alike) for eager in (True, False) for alike in (True, False)]
    assert found == [0.0, 1e-3, 0.0, 0.0], "rows that are alike come again and again, captured counts were met before"
    priced = prices("qwen3-30b-a3b", engine=engine)
    assert priced.cost(512, 0, 128).components["host"] == 0.0
    assert priced.cost(520, 0, 128).components["host"] == pytest.approx(96e-3)


def test_routed_padding_loads_experts():
    def distinct(routed):
        priced = latency("qwen3-30b-a3b", engine=EngineOverhead("x", capture_limit=512, padding_routed=routed))
        return priced._distinct(20.0, 7)

    assert distinct(False) == 20.0
    assert distinct(True) == pytest.approx(128 - 108 * (1 - 8 / 128) ** 7)


def test_shared_expert_stream():
    engine = EngineOverhead("x", shared_stream_tokens=256, shared_stream_gain=0.4)
    hidden = engine.shared_hidden(np.array([1, 2, 16, 128, 256, 257])).tolist()
    assert hidden[2] == max(hidden) < 0.4
    assert hidden[4] < 0
    assert hidden[5] == 0


def test_engine_files(tmp_path):
    assert {"ideal", "vllm-0.22.1"} <= set(engine_names())
    assert load_engine("ideal").ideal
    assert not load_engine("vllm-0.22.1").ideal
    good = tmp_path / "mine.json"
    good.write_text(json.dumps({"schema": 2, "name": "mine", "host_step_s": 0.001, "capture_limit": 64}))
    assert load_engine("mine.json", tmp_path).capture_sizes(256, 0)[-1] == 64
    for text, said in (
        ("{", "not JSON"),
        ("[]", "schema"),
        ('{"schema": 9}', "reads 2"),
        ('{"schema": 2, "name": "x", "host_step_s": NaN}', "NaN, which is no JSON"),
        ('{"schema": 2, "name": "x", "host_step_s": -1}', "a number from 0"),
        ('{"schema": 2, "name": "x", "capture_limit": 1e9}', "number of tokens"),
        ('{"schema": 2, "name": "x", "padding_routed": "no"}', "true or false"),
        ('{"schema": 2, "name": "x", "shared_stream_gain": 2}', "a number from 0 to 1;"),
        ('{"schema": 2, "name": "x", "synchronous_drafts": [{}]}', "allowed: a list of model"),
        ('{"schema": 2, "name": "x", "kernels": "../elsewhere"}', "without slashes"),
        ("[" * 9000, "nested too deeply"),
        ('{"schema": 2, "name": "x", "hots_step_s": 1}', "did you mean host_step_s"),
        ('{"schema": 2, "name": "x", "capture_limit": -1}', "number of tokens"),
        ('{"schema": 2, "name": "x", "synchronous_drafts": ["modell"]}', "allowed: a list of model"),
        ('{"schema": 2, "name": "x", "kernels": 3}', "a short name"),
        ('{"schema": 2}', "name"),
    ):
        bad = tmp_path / "bad.json"
        bad.write_text(text)
        with pytest.raises(CalibrationError, match=said):
            load_engine("bad.json", tmp_path)
    with pytest.raises(CalibrationError, match="did you mean ideal"):
        load_engine("ideall")
    with pytest.raises(CalibrationError, match="cannot be read"):
        load_engine("none.json", tmp_path)
