"""Replicas of several GPUs: what each holds, what a step costs them, and what its exchanges rest on."""

import json

import numpy as np
import pytest

from sdsim.cluster import kv_blocks
from sdsim.drafts import make_draft
from sdsim.errors import CalibrationError, CapacityError, ScenarioError
from sdsim.experts import busiest_rank, make_routing, other_ranks_reached
from sdsim.gpus import load_gpu
from sdsim.latency.calibrated import make_kernels
from sdsim.latency.collectives import (
    gpu_of_file,
    load_collectives,
    load_shipped_collectives,
    make_collectives,
    parse_collectives,
)
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import load_engine
from sdsim.latency.prices import Prices
from sdsim.models import load_model
from sdsim.parallel import Layout
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import make_system
from sdsim.testing import check_latency_model

H200 = load_gpu("h200")
LAYOUTS = [Layout(8, 8), Layout(8, 8, True), Layout(8, 1, True), Layout(8, 2, True)]
WORK = {"kind": "poisson", "rate": 1, "limit": 1, "lengths": {"prompt": 1, "output": 1}}


def latency(model, layout, draft=None, measured=None, kernels="roofline"):
    target = load_model(model)
    drafter = make_draft("model", target, draft) if draft else None
    collectives = make_collectives(H200, layout.gpus, "hgx", measured)
    return ComposedLatency(target, drafter, make_kernels(H200, kernels), load_engine("ideal"), layout, collectives)


def cost(model, layout, rows, length=0, **kw):
    priced = latency(model, layout, **kw)
    return Prices(priced, make_routing(priced.target.experts, priced.target.experts_per_token)).cost(rows, length, 1000)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "deepseek-v3"])
def test_contract_for_every_layout(model, layout):
    check_latency_model(latency(model, layout, "qwen2-0.5b"))


def test_weights_lie_once_a_group_and_experts_once_where_they_are_spread():
    model = load_model("mixtral-8x7b")
    routed = 32 * 8 * 3 * 4096 * 14336 * 2.0
    assert Layout(8, 8).weights_bytes(model) == Layout(8, 8, True).weights_bytes(model) == model.weights_bytes
    assert Layout(8, 2, True).weights_bytes(model) == pytest.approx(4 * (model.weights_bytes - routed) + routed)


def test_kv_lies_on_every_gpu_that_attends_to_it():
    latent, grouped = load_model("deepseek-v3"), load_model("qwen3-30b-a3b")
    assert Layout(8, 8).kv_bytes_per_token(latent) == 8 * latent.kv_bytes_per_token
    assert Layout(8, 1, True).kv_bytes_per_token(latent) == latent.kv_bytes_per_token
    assert Layout(4, 4).kv_bytes_per_token(grouped) == grouped.kv_bytes_per_token  # four heads, a GPU each
    assert Layout(8, 8).kv_bytes_per_token(grouped) == 2 * grouped.kv_bytes_per_token


def test_data_parallel_attention_holds_more_of_a_latent_cache():
    """Why DeepSeek serves so: under tensor parallel every GPU keeps the same latents."""
    model, limits = load_model("deepseek-v3"), (0.9, 256, 8192, 0, 16)
    spread, divided = (
        kv_blocks(model, None, H200, layout, *limits) for layout in (Layout(16, 1, True), Layout(16, 16))
    )
    assert spread > 5 * divided
    with pytest.raises(CapacityError, match="expert_parallel"):
        kv_blocks(model, None, H200, Layout(4, 4), *limits)


def test_a_group_steps_as_one_gpu_does_with_its_part():
    """All but experts and exchanges: four groups of one GPU with 64 rows cost what one GPU with 16 rows costs."""
    four, one = cost("qwen3-30b-a3b", Layout(4, 1, True), 64), cost("qwen3-30b-a3b", Layout(), 16)
    for part in ("attention_projections", "attention", "router", "norms", "lm_head", "sampling"):
        assert four.components[part] == pytest.approx(one.components[part])
    assert four.components["experts"] < one.components["experts"]
    assert four.components["collectives"] > 0 == one.components["collectives"]


def test_spread_experts_are_read_by_their_own_gpu():
    """At large batch every expert is read, an eighth of them by each GPU, whichever way they are divided."""
    spread, divided = (cost("qwen3-30b-a3b", layout, 512) for layout in (Layout(8, 8, True), Layout(8, 8)))
    assert spread.components["experts"] == pytest.approx(divided.components["experts"], rel=0.15)
    assert spread.components["collectives"] == divided.components["collectives"]


@pytest.mark.parametrize(
    ("experts", "per_token", "tokens", "ranks"),
    [(128, 8, 1, 2), (128, 8, 16, 2), (8, 2, 4, 2), (256, 8, 64, 8), (256, 8, 2048, 64), (256, 8, 8, 64)],
)
def test_busiest_rank_against_monte_carlo(experts, per_token, tokens, ranks):
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(200):
        ids = np.argsort(rng.random((tokens, experts)), axis=1)[:, :per_token]
        home = ids // (experts // ranks)
        others = np.mean([len(set(row) - {t % ranks}) for t, row in enumerate(home.tolist())])
        distinct = np.unique(ids)
        counts = [np.bincount(part.ravel(), minlength=ranks).max() for part in (home, distinct // (experts // ranks))]
        seen.append((len(distinct), counts[0] / per_token, counts[1], others))
    distinct, most, loaded, others = np.mean(seen, axis=0)
    found = busiest_rank(experts, per_token, tokens, distinct, ranks)
    assert found[1] == pytest.approx(loaded, rel=0.1)
    assert most - 0.1 <= found[0] <= most + 1.1
    assert other_ranks_reached(experts, per_token, ranks) == pytest.approx(others, rel=0.05)


def measured_file(*rows, **head):
    lines = [{"schema": 1, "gpu": "h200", "provenance": {"date": "2026-11-23"}} | head, *rows]
    return "\n".join(json.dumps(line) for line in lines)


def row(op="all_reduce", ranks=2, size=1024, us=10.0):
    return {"kind": "collective", "op": op, "ranks": ranks, "bytes": size, "us_p50": us}


def test_measured_collectives_replace_the_links():
    """The very points; between two GPUs their curve; over more, links with the measured latency and rate."""
    rows = [row(us=12.0), row(size=1 << 20, us=20.0), row(size=1 << 28, us=1000.0), row("all_to_all", us=9.0)]
    measured = parse_collectives(measured_file(*rows), "x.jsonl", "h200")
    assumed, known = make_collectives(H200, 8, "hgx", None), make_collectives(H200, 8, "hgx", measured)
    assert known.all_reduce(1024, 2) == (12e-6, 0)
    assert known.all_reduce(1 << 19, 2).quality == 1
    assert known.all_to_all(1024, 2).seconds == 9e-6
    assert known.all_reduce(1.0, 8) == (pytest.approx(12e-6, rel=1e-5), 2)
    rate = ((1 << 28) - 1024) / 988e-6
    assert known.all_reduce(1e10, 8).seconds == pytest.approx(2 * 7 / 8 * 1e10 / rate, rel=0.01)
    assert assumed.all_reduce(1024, 2).quality == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.jsonl:1: schema None; this version reads 1"),
        ("[1]", "x.jsonl:1: found .1.; allowed: an object a line"),
        (measured_file(row())[:-5], "x.jsonl:2: not JSON, perhaps cut short"),
        (measured_file(row(), gpu="h100"), "measured on 'h100', the scenario runs on 'h200'"),
        (measured_file(), "no collective in it"),
        (measured_file(row(), row(op="gather")), "x.jsonl:3: op 'gather'"),
        (measured_file(row(us=-1.0)), "x.jsonl:2: us_p50 -1.0"),
        (measured_file(row(ranks=1)), "x.jsonl:2: op 'all_reduce', ranks 1"),
    ],
)
def test_bad_measurements_are_refused(text, message):
    with pytest.raises(CalibrationError, match=message):
        parse_collectives(text, "x.jsonl", "h200")


def test_a_missing_file_of_collectives_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match=r"none.jsonl: cannot be read"):
        load_collectives(tmp_path / "none.jsonl", "h200")


@pytest.mark.parametrize("read", [lambda path: load_collectives(path, "h200"), gpu_of_file])
def test_what_cannot_be_read_is_refused(tmp_path, read):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(CalibrationError, match=r"x.jsonl: cannot be read"):
        read(path)
    with pytest.raises(CalibrationError, match=r"none.jsonl: cannot be read"):
        read(tmp_path / "none.jsonl")


def test_a_file_says_on_which_gpu_it_was_measured(tmp_path):
    (tmp_path / "x.jsonl").write_text(measured_file(row()))
    assert gpu_of_file(tmp_path / "x.jsonl") == "h200"
    (tmp_path / "empty.jsonl").touch()
    assert gpu_of_file(tmp_path / "empty.jsonl") == ""


def test_a_file_of_collectives_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sdsim.latency.collectives.MAX_BYTES", 10)
    (tmp_path / "x.jsonl").write_text(measured_file(row()))
    with pytest.raises(CalibrationError, match="over 10 bytes"):
        load_collectives(tmp_path / "x.jsonl", "h200")


def test_one_size_tells_no_link():
    """Latency and rate are those assumed, where the points of two GPUs are fewer than two."""
    measured = parse_collectives(measured_file(row()), "x.jsonl", "h200")
    assert measured.link(H200) is None
    assumed = make_collectives(H200, 8, "hgx", None)
    assert make_collectives(H200, 8, "hgx", measured).all_reduce(1e6, 8) == assumed.all_reduce(1e6, 8)


def test_the_newest_collectives_that_ship_are_taken(tmp_path, monkeypatch):
    folder = tmp_path / "data/collectives"
    folder.mkdir(parents=True)
    for day, us in (("2026-01-01", 10.0), ("2026-02-01", 20.0)):
        (folder / f"h200-{day}.jsonl").write_text(measured_file(row(us=us)))
    monkeypatch.setattr("sdsim.latency.collectives.resources.files", lambda package: tmp_path)
    load_shipped_collectives.cache_clear()
    found = load_shipped_collectives("h200")
    assert found is not None
    assert found.points["all_reduce", 2] == {1024: pytest.approx(20e-6)}
    assert load_shipped_collectives("h100") is None
    load_shipped_collectives.cache_clear()


def scenario(**keys):
    return scenario_from_mapping({"model": "mixtral-8x7b", "gpus": "2 x h200", "workload": WORK} | keys)


def test_a_scenario_names_its_network_and_its_measurements(tmp_path):
    (tmp_path / "mine.jsonl").write_text(measured_file(row(us=50.0), row(size=1 << 28, us=1000.0)))
    parallel = {"replica": {"tensor_parallel": 2}}
    assumed = make_system(scenario(calibration="roofline", **parallel)).prices.cost(8, 0, 100)
    found = scenario(collectives=str(tmp_path / "mine.jsonl"), **parallel)
    measured = make_system(found).prices.cost(8, 0, 100)
    assert measured.components["collectives"] > assumed.components["collectives"] > 0
    assert scenario_from_mapping(found.resolved()) == found


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"replica": {"tensor_parallel": 2}, "network": "infinibad"}, "network: unknown network 'infinibad'"),
        ({"replica": {"tensor_parallel": 2}, "collectives": "none.jsonl"}, "collectives: .*cannot be read"),
        (
            {"gpus": "8 x h200", "replica": {"tensor_parallel": 8, "expert_parallel": 4}},
            "allowed: expert_parallel 1 or 8",
        ),
        (
            {"gpus": "8 x h200", "replica": {"tensor_parallel": 3, "expert_parallel": 8}},
            "tensor_parallel that divides 8",
        ),
    ],
)
def test_impossible_layouts_are_refused(keys, message):
    keys["gpus"] = f"{max(keys['replica'].values())} x h200"
    with pytest.raises(ScenarioError, match=message):
        scenario(**keys)
