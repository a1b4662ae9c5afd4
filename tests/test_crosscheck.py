"""Predictions against measurements: on records made from predictions, errors are what was put in."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sdsim
from sdsim.agreement import gpu_points
from sdsim.agreement.design import LARGEST_BATCH, stratified_points
from sdsim.agreement.figures import batch_range, error_summary
from sdsim.agreement.gpu_points import fitting_points
from sdsim.agreement.replay import replay_row
from sdsim.agreement.runs import compare_runs
from sdsim.agreement.setting import Setting
from sdsim.agreement.speedups import best_lengths, with_speedups
from sdsim.agreement.steps import ANY_WORKLOAD
from sdsim.agreement.tolerance import Check, parse_tolerances
from sdsim.command import OK, OUT_OF_TOLERANCE
from sdsim.crosscheck import main
from sdsim.errors import ScenarioError, SdsimError
from sdsim.gpus import load_gpu
from sdsim.latency.calibrated import CalibratedKernels, make_kernels
from sdsim.latency.calibration import load_shipped
from sdsim.latency.engine_overhead import SCHEMA
from sdsim.latency.leave_out import DIMENSIONS, shapes, without
from sdsim.latency.quality import Quality
from sdsim.matrices import attention
from sdsim.measurements import read_measurements
from sdsim.models import load_model
from sdsim.pools import Pool
from sdsim.predict import main as predict
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import make_system, simulate

RECORDS = sorted((Path(__file__).parent / "records").glob("*.jsonl"))
SLOWER_HOST = {"vllm-mixtral-8x7b-g3": 1.2}
"""Records of a machine whose processor takes that many times as long for a launch as the one that the engine's file
was measured on."""
MODEL, DRAFT = "qwen3-30b", "qwen2-0.5b"
BATCHES = (1, 8, 64)
ANSWER = {"steps", "replays", "runs", "leave_out", "checks", "ok", "data_quality"}


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_the_shipped_model_agrees_with_what_was_measured(record, capsys, tmp_path):
    words = ["--measured", str(record), "--json"]
    if record.stem in SLOWER_HOST:
        engine = json.loads((Path(sdsim.__file__).parent / "data/engines/vllm-0.22.1.json").read_text())
        engine |= {key: SLOWER_HOST[record.stem] * value for key, value in engine.items() if key.startswith("host_")}
        (tmp_path / "slower.json").write_text(json.dumps(engine))
        words += ["--engine", str(tmp_path / "slower.json")]
    assert main(words) == OK, capsys.readouterr().out


@pytest.mark.parametrize("record", [r for r in RECORDS if r.stem.startswith("vllm")], ids=lambda path: path.stem)
def test_an_engine_has_the_kv_blocks_that_it_said_it_had(record):
    for one in read_measurements(record).steps:
        scenario = Setting().scenario(one.record, one.max_num_seqs, ANY_WORKLOAD, "blocks")
        lengths = (one.record.draft_length,) if one.record.draft else ()
        pool = Pool(scenario, make_system(scenario), scenario.policies[0], lengths)
        assert pool.limits().blocks == pytest.approx(one.record.kv_blocks, rel=0.04)


def answer(capsys, *words, code=OK):
    assert main([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def predicted():
    """Steps of `predict` as a record of them would be, at a context that is given outright."""
    import contextlib
    import io

    said = io.StringIO()
    words = ["--model", MODEL, "--draft", DRAFT, "--gpu", "h200", "--batch", ",".join(map(str, BATCHES))]
    with contextlib.redirect_stdout(said):
        predict([*words, "--draft-length", "0,2,4", "--context", "200", "--json"])
    return [
        {
            "model": MODEL, "draft": DRAFT if row["draft_length"] else None, "gamma": row["draft_length"],
            "B": row["batch"], "context": 200, "alpha": 0.8 if row["draft_length"] else None, "engine": "ideal",
            "step_ms_median": 1e3 * row["step_s"], "tokens_per_seq_step": row["tokens_per_step"],
        }
        for row in json.loads(said.getvalue())["rows"]
    ]  # fmt: skip


def recorded(tmp_path, lines, name="measured.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_record_of_the_prediction_has_no_error(tmp_path, predicted, capsys):
    found = answer(capsys, "--measured", recorded(tmp_path, predicted))
    assert set(found) == ANSWER
    rows = found["steps"]["rows"]
    assert [row["error"] for row in rows] == pytest.approx([0] * 9, abs=1e-9)
    assert all(row["speedup_error"] == pytest.approx(0, abs=1e-9) for row in rows)
    assert [one["regret"] for one in found["steps"]["best"]] == [0, 0, 0]
    assert sum(found["data_quality"].values()) == pytest.approx(1)
    assert found["ok"]


def test_errors_have_the_sign_and_size_that_were_put_in(tmp_path, predicted, capsys):
    slower = {0: 1.0, 2: 1.04, 4: 1.25}
    lines = [line | {"step_ms_median": line["step_ms_median"] * slower[line["gamma"]]} for line in predicted]
    path = recorded(tmp_path, lines)
    found = answer(capsys, "--measured", path, code=OUT_OF_TOLERANCE)
    (summary,) = found["steps"]["summary"]
    assert [part["bias"] for part in summary["by_draft_length"]] == pytest.approx([0, 1 / 1.04 - 1, -0.2], abs=1e-9)
    assert [part["batch"] for part in summary["by_batch"]] == ["1-8", "9-64"]
    assert (summary["points"], summary["median"]) == (9, pytest.approx(1 - 1 / 1.04))
    assert {check["what"]: check["ok"] for check in found["checks"]} == {
        "qwen3-30b steps, median": True, "qwen3-30b steps, p90": False,
    }  # fmt: skip
    assert answer(capsys, "--measured", path, "--tolerance", "steps_p90=21%")["ok"]


def test_each_model_is_judged_by_itself(tmp_path, predicted, capsys):
    other = [line | {"model": "qwen2-57b", "step_ms_median": 1.0} for line in predicted[:1]]
    found = answer(capsys, "--measured", recorded(tmp_path, [*predicted, *other]), code=OUT_OF_TOLERANCE)
    assert [check["ok"] for check in found["checks"]] == [True, True, False, False]


def step(length, batch, measured, predicted):
    return {
        "model": "m", "draft": "d" if length else None, "engine": "e", "gpu": "g", "prompt": 128, "batch": batch,
        "draft_length": length, "measured_s": measured, "predicted_s": predicted, "tokens_per_step": 1 + length,
    }  # fmt: skip


def test_regret_is_what_the_predicted_length_costs_of_the_best():
    rows = with_speedups([step(0, 4, 1, 1), step(1, 4, 1.6, 1), step(2, 4, 2, 2), step(2, 8, 1, 1)])
    assert [row["measured_speedup"] for row in rows] == [1, 1.25, 1.5, None]
    assert [row["predicted_speedup"] for row in rows] == [1, 2, 1.5, None]
    (best,) = best_lengths(rows)
    assert (best["measured_best"], best["predicted_best"]) == (2, 1)
    assert best["regret"] == pytest.approx(1 - 1.25 / 1.5)
    slow = with_speedups([step(0, 1, 1, 1), step(3, 1, 9, 1)])
    assert best_lengths(slow)[0] | {"batch": 1} == best_lengths(slow)[0]
    assert (best_lengths(slow)[0]["measured_best"], best_lengths(slow)[0]["regret"]) == (0, pytest.approx(1 - 4 / 9))


def test_error_summary_is_of_sizes_and_keeps_the_bias():
    found = error_summary([-0.1, 0.02, 0.04, -0.06])
    assert found == {
        "points": 4, "median": pytest.approx(0.05), "p90": pytest.approx(0.088), "p95": pytest.approx(0.094),
        "bias": pytest.approx(-0.02),
    }  # fmt: skip
    assert error_summary([])["median"] is None
    assert [batch_range(b) for b in (1, 8, 9, 256, 257)] == ["1-8", "1-8", "9-64", "65-256", "257-"]


def engine_file(tmp_path, **figures):
    path = tmp_path / "engine.json"
    path.write_text(json.dumps({"schema": SCHEMA, "name": "test", "capture_limit": 512} | figures))
    return path


def test_the_batch_limit_and_recorded_sizes_decide_what_is_captured(tmp_path, predicted, capsys):
    """Beyond twice the batch limit, or the largest recorded size, the host launches each layer and is the slower."""
    engine = engine_file(tmp_path, host_layer_s=0.01)
    line = predicted[0] | {"B": 40}
    cases = [{}, {"max_num_seqs": 256}, {"max_num_seqs": 16}, {"capture_sizes": [1, 2, 4, 8, 32]}]
    found = []
    for more in cases:
        path = recorded(tmp_path, [line | more])
        found.append(answer(capsys, "--measured", path, "--engine", engine, code=OUT_OF_TOLERANCE))
    captured, same, few, sizes = (one["steps"]["rows"][0]["predicted_s"] for one in found)
    assert captured == same
    assert few == sizes == pytest.approx(48 * 0.01)
    assert captured < few / 10


def test_options_name_files_from_here_and_records_from_their_own_folder(tmp_path, predicted, capsys, monkeypatch):
    engine_file(tmp_path, capture_limit=0)
    (tmp_path / "records").mkdir()
    path = recorded(tmp_path / "records", predicted)
    monkeypatch.chdir(tmp_path)
    found = answer(capsys, "--measured", path, "--engine", "engine.json")
    assert {row["engine"] for row in found["steps"]["rows"]} == {"engine"}


def test_the_engine_is_the_records_own_unless_named(tmp_path, predicted, capsys):
    path = recorded(tmp_path, [predicted[0] | {"engine": "Ideal"}])
    assert answer(capsys, "--measured", path)["steps"]["rows"][0]["engine"] == "ideal"
    unknown = recorded(tmp_path, [predicted[0] | {"engine": "vllm 9.9"}])
    with pytest.raises(SdsimError, match=r"unknown engine 'vllm-9.9'; known: .*ideal"):
        main(["--measured", str(unknown)])


def test_models_by_alias_by_config_and_the_draft_of_mixtral(tmp_path, predicted, capsys):
    line = predicted[3] | {"model": "mixtral-8x7b", "draft": "tiny-mistral", "gamma": 2, "alpha": 0.8}
    config = {
        "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000,
        "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text(json.dumps(config))
    own = line | {"model": "mine", "model_config": "mine/config.json"}
    lines = [line, line | {"draft": None}, own]
    rows = answer(capsys, "--measured", recorded(tmp_path, lines), code=OUT_OF_TOLERANCE)["steps"]["rows"]
    assert rows[0]["predicted_s"] == rows[1]["predicted_s"] == rows[2]["predicted_s"]
    assert [row["draft"] for row in rows] == ["tiny-mistral"] * 3
    with pytest.raises(SdsimError, match="unknown model 'mistery'"):
        main(["--measured", str(recorded(tmp_path, [line | {"model": "mistery"}]))])


def test_parts_measured_apart_are_compared_apart(tmp_path, predicted, capsys):
    path = recorded(tmp_path, predicted[5:6])
    row = answer(capsys, "--measured", path)["steps"]["rows"][0]
    parts = {"target_ms": 500 * row["target_s"], "draft_ms": 1e3 * row["draft_s"], "distinct_experts": 1.0}
    found = answer(capsys, "--measured", recorded(tmp_path, [predicted[5] | parts]))
    errors = {part["part"]: part["bias"] for part in found["steps"]["summary"][0]["by_part"]}
    wanted = {"target_s": 1, "draft_s": 0, "distinct_experts": row["distinct_experts"] - 1}
    assert errors == pytest.approx(wanted)


REPLAYED = {
    "model": MODEL, "gpus": "1 x h200", "engine": "ideal", "replica": {"max_num_seqs": 256},
    "workload": {
        "kind": "poisson", "rate": 30, "limit": 80, "lengths": {"prompt": 300, "output": {"mean": 40, "sigma": 1}},
    },
}  # fmt: skip
DRAFTING = {
    "draft": {"kind": "model", "model": DRAFT}, "acceptance": {"kind": "iid", "rate": 0.7},
    "policy": {"kind": "fixed", "length": 3},
}  # fmt: skip


def as_lines(requests, slower=1.0, **more):
    """Return a run's requests as a record, every time stretched but the arrivals."""
    columns = {k: requests[k].tolist() for k in requests}
    order = np.argsort(requests["request_id"])
    return [
        {
            "model": MODEL, "gamma": 0, "alpha": None, "rate": 30.0, "i": i, "arrival": columns["arrival_s"][r],
            "prompt": int(columns["prompt_tokens"][r]), "output": int(columns["output_tokens"][r]),
            "first": columns["arrival_s"][r] + slower * (columns["first_token_s"][r] - columns["arrival_s"][r]),
            "finish": columns["arrival_s"][r] + slower * (columns["finish_s"][r] - columns["arrival_s"][r]),
            "got": int(columns["output_tokens"][r]), "engine": "ideal", **more,
        }
        for i, r in enumerate(order)
    ]  # fmt: skip


@pytest.mark.parametrize("length", [0, 3])
def test_a_record_of_a_simulated_run_is_simulated_without_error(tmp_path, capsys, length):
    run = simulate(scenario_from_mapping(REPLAYED | (DRAFTING if length else {})))
    more = {"gamma": length, "alpha": 0.7 if length else None}
    path = recorded(tmp_path, as_lines(run.requests, **more))
    (replay,) = read_measurements(path).replays
    row = replay_row(replay, Setting(), seeds=(0,))
    for figure in ("tpot_s", "ttft_s"):
        assert list(row[figure]["error"].values()) == pytest.approx([0] * 4, abs=1e-6)
    assert row["output_tokens_per_s"]["error"] == pytest.approx(0, abs=1e-6)
    assert (row["requests"], row["saturated"], row["draft_length"]) == (80, False, length)
    (pooled,) = answer(capsys, "--measured", path)["replays"]
    errors = [pooled["tpot_s"]["error"]["p50"], pooled["output_tokens_per_s"]["error"]]
    assert errors == pytest.approx([0, 0], abs=0.05)
    assert (errors == pytest.approx([0, 0], abs=1e-9)) is (length == 0)


def test_slower_requests_are_out_of_tolerance_and_a_growing_queue_has_no_ttft(tmp_path, capsys):
    run = simulate(scenario_from_mapping(REPLAYED))
    lines = as_lines(run.requests, slower=1.2)
    found = answer(capsys, "--measured", recorded(tmp_path, lines), code=OUT_OF_TOLERANCE)
    (row,) = found["replays"]
    assert [row["tpot_s"]["error"][p] for p in ("p50", "p99")] == pytest.approx([1 / 1.2 - 1] * 2)
    verdicts = {check["what"].split(", ")[1]: check["ok"] for check in found["checks"]}
    assert verdicts.keys() == {"TPOT p50", "TPOT p90", "throughput", "TTFT p50"}
    assert not any(verdicts[what] for what in ("TPOT p50", "TPOT p90", "TTFT p50"))
    growing = [line | {k: line[k] + 9 * i for k in ("first", "finish")} for i, line in enumerate(lines)]
    (row,) = answer(capsys, "--measured", recorded(tmp_path, growing), code=OUT_OF_TOLERANCE)["replays"]
    assert row["saturated"]
    assert main(["--measured", str(recorded(tmp_path, growing))]) == OUT_OF_TOLERANCE
    said = capsys.readouterr().out
    assert "saturated" in said
    assert "TTFT p50" not in said


def test_tpot_of_short_answers_is_left_out(tmp_path, capsys):
    lines = as_lines(simulate(scenario_from_mapping(REPLAYED)).requests)
    short = [line | {"output": 4, "got": 4} for line in lines]
    (row,) = answer(capsys, "--measured", recorded(tmp_path, short), code=OUT_OF_TOLERANCE)["replays"]
    assert row["tpot_s"]["measured"]["p50"] is None
    assert row["tpot_s"]["error"]["p50"] is None


def test_a_run_agrees_with_itself_and_not_with_a_slower_one():
    run = simulate(scenario_from_mapping(REPLAYED | DRAFTING))
    same = compare_runs(run, run)
    assert all(row["error"]["p90"] == 0 for row in [*same["step_s"], *same["distinct_experts"]])
    assert sum(row["steps"]["measured"] for row in same["step_s"]) == int((run.steps["prefill_tokens"] == 0).sum())
    slow = {**run.steps, "seconds": 2 * run.steps["seconds"]}
    object.__setattr__(run, "steps", slow)
    other = compare_runs(run, simulate(scenario_from_mapping(REPLAYED | DRAFTING)))
    assert [row["error"]["p50"] for row in other["step_s"]] == pytest.approx([-0.5] * len(other["step_s"]))
    assert all(low <= high for row in other["step_s"] for low, high in [row["batch"]])


@pytest.mark.parametrize("name", ["qwen3-30b", "qwen2-57b", "mixtral-8x7b", "qwen2.5-32b", "qwen2-0.5b"])
def test_a_model_left_out_is_priced_by_fits_that_never_saw_it(name):
    calibration, model = load_shipped("h200"), load_model(name)
    assert calibration is not None
    kept = without(calibration, model)
    gone = [row for row in calibration.rows if row not in kept.rows]
    own = shapes(model)
    assert gone
    for row in gone:
        assert tuple(row["shape"][d] for d in DIMENSIONS[row["kernel"]]) in own[row["kernel"]]
    kernels = CalibratedKernels(kept, load_gpu("h200"))
    for matrix in attention(model):
        assert kernels.dense(np.array(64), matrix, 2.0).quality == Quality.EXTRAPOLATED
    assert kernels.norms(model, np.array(64)).quality == Quality.EXTRAPOLATED
    assert kernels.sampling(np.array(64), model.vocabulary).quality == Quality.EXTRAPOLATED
    assert kernels.attention(model, 1.0).quality(8, 800) is Quality.EXTRAPOLATED
    if model.is_moe:
        assert kernels.experts(model, 1.0).price(64, model.experts).quality is Quality.EXTRAPOLATED


def test_leaving_out_a_model_that_was_not_measured_changes_nothing():
    model, gpu = replace(load_model("gpt-oss-120b"), hidden=2944), load_gpu("h200")
    plain, left_out = make_kernels(gpu), make_kernels(gpu, unseen=model)
    for matrix in attention(model):
        assert plain.dense(np.array(64), matrix, 2.0) == left_out.dense(np.array(64), matrix, 2.0)


def test_models_left_out_are_predicted_from_the_others(capsys):
    found = answer(capsys, "--leave-out")
    summaries = {row["model"]: row for row in found["leave_out"]["summary"]}
    assert len(found["leave_out"]["rows"]) == 42
    assert set(summaries) >= {"qwen3-30b-a3b", "qwen2-57b-a14b", "mixtral-8x7b", "qwen2.5-32b", "qwen2-0.5b"}
    for row in summaries.values():
        assert row["calibrated"]["median"] < 0.08
        assert row["left_out"]["median"] < 0.12
    layers = [row for row in summaries.values() if row["what"] == "8 layers"]
    assert sum(r["calibrated"]["median"] for r in layers) < sum(r["left_out"]["median"] for r in layers)
    assert found["ok"] is None


def test_a_record_predicted_without_its_model_is_judged_only_if_asked(tmp_path, predicted, capsys):
    path = recorded(tmp_path, predicted)
    found = answer(capsys, "--measured", path, "--leave-out")
    assert found["ok"] is None
    assert found["data_quality"]["extrapolated"] > 0.5
    assert 0.001 < found["steps"]["summary"][0]["median"] < 0.15
    assert answer(capsys, "--measured", path, "--leave-out", "--tolerance", "steps_median=20%,steps_p90=30%")["ok"]


def test_tolerances_are_shares_or_percentages():
    found = parse_tolerances("steps_median=4%, tpot=0.2,throughput= 3 %")
    assert (found.steps_median, found.tpot, found.throughput, found.ttft) == (0.04, 0.2, 0.03, 0.15)
    assert Check("", -0.05, 0.05).ok
    assert not Check("", -0.0501, 0.05).ok
    for text, said in (
        ("tpott=1", "did you mean tpot"),
        ("tpot", "write steps_median=5%"),
        ("tpot=-1", "tpot: found"),
        ("tpot=x%", "found 'x'"),
    ):
        with pytest.raises(ScenarioError, match=said):
            parse_tolerances(text)


@pytest.mark.parametrize("count", [9, 40, 100])
def test_points_cover_every_stratum_of_every_axis(count):
    points = stratified_points(count, 1e9, seed=3)
    assert points == stratified_points(count, 1e9, seed=3) != stratified_points(count, 1e9, seed=4)
    lengths = np.bincount([p.draft_length for p in points], minlength=9)
    assert (len(lengths), lengths.min(), lengths.max()) == (9, count // 9, math.ceil(count / 9))
    contexts = np.log([p.context / 128 for p in points]) / np.log(4096 / 128)
    assert 0 <= contexts.min() <= contexts.max() <= 1
    assert max(np.bincount((contexts * count).astype(int).clip(0, count - 1))) <= 2  # rounding moves a few
    batches = np.log([p.batch for p in points]) / np.log(LARGEST_BATCH)
    assert min(np.bincount((batches * 3).astype(int).clip(0, 2))) >= count // 3 - count // 9 - 1
    assert abs(np.corrcoef(batches, contexts)[0, 1]) < 0.7


def test_points_fit_into_memory_and_positions():
    for room, positions in ((20_000, 4096), (150, 4096), (1e9, 300)):
        points = stratified_points(60, room, positions)
        assert all(p.batch * (p.context + 1 + 2 * p.draft_length) <= room for p in points)
        assert all(p.context + 1 + 2 * p.draft_length <= positions for p in points)
        assert all(p.batch >= 1 and p.context >= 128 for p in points)
    with pytest.raises(ValueError, match="hold no row"):
        stratified_points(9, 100)
    with pytest.raises(ValueError, match="hold no row"):
        stratified_points(9, 1e9, 130)
    with pytest.raises(SdsimError, match="deepseek-v3"):
        fitting_points("deepseek-v3", DRAFT, "h200", 9, 0)


def test_points_measured_on_the_gpu_become_records_and_are_compared(tmp_path, monkeypatch, capsys):
    asked = []

    def run_module(module, words, what):
        options = dict(zip(words[::2], words[1::2], strict=True))
        points = json.loads(Path(options["--points"]).read_text())
        asked.append((module, options["--model"], options["--draft"], len(points)))
        where = {"date": "2026-01-02", "commit": "abc", "torch": "2"}
        rows = [
            p | {"step_s": 0.02, "target_s": 0.01, "rejection_s": 0.001, "draft_s": 0.009 if p["draft_length"] else 0.0,
                 "host_s": 0.002, "distinct_experts": 50.0, "distinct_experts_se": 0.1, "repeats": 10}
            for p in points
        ]  # fmt: skip
        Path(options["--out"]).write_text(json.dumps({"device": "NVIDIA H200", "points": rows, "provenance": where}))

    monkeypatch.setattr(gpu_points, "run_module", run_module)
    monkeypatch.setattr("sdsim.agreement.hardware.require_gpu", lambda: None)
    words = ["--on", "gpu", "--model", "qwen3-30b,mixtral-8x7b", "--points", "12", "--out", tmp_path / "out"]
    found = answer(capsys, *words, code=OUT_OF_TOLERANCE)
    assert [(module, model, n) for module, model, _, n in asked] == [
        ("sdsim.hardware.points", "qwen3-30b", 12), ("sdsim.hardware.points", "mixtral-8x7b", 12),
    ]  # fmt: skip
    assert asked[1][2].endswith("tiny-mistral.json")
    assert len(found["steps"]["rows"]) == 24
    assert {row["engine"] for row in found["steps"]["rows"]} == {"ideal"}
    assert {part["part"] for part in found["steps"]["summary"][0]["by_part"]} == {
        "target_s", "reject_s", "draft_s", "distinct_experts",
    }  # fmt: skip
    record = tmp_path / "out/measured.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert {line["draft"] for line in lines} == {None, asked[0][2], "tiny-mistral"}  # no path of this machine
    assert {(line["date"], line["commit"]) for line in lines} == {("2026-01-02", "abc")}
    again = answer(capsys, "--measured", record, code=OUT_OF_TOLERANCE)
    assert again == found


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is here")
def test_without_torch_the_error_says_what_is_needed(tmp_path):
    scenario = tmp_path / "s.yaml"
    scenario.write_text(
        "{model: qwen3-30b-a3b, gpus: 1 x h200, workload: {kind: poisson, rate: 1, limit: 2, lengths: azure-conv}}"
    )
    for words in ([str(scenario), "--on", "gpu"], ["--on", "gpu", "--model", "qwen3-30b"]):
        with pytest.raises(ScenarioError, match="--on gpu needs a checkout with kernels/, and torch and triton"):
            main(words)


def test_a_scenario_on_the_gpu_is_compared_policy_by_policy(tmp_path, monkeypatch, capsys):
    executors = []

    def run_on_gpu(scenario, policy, executor, progress):
        executors.append(executor)
        run = simulate(scenario, policy, engine="ideal", progress=progress)
        slower = {**run.steps, "seconds": 1.25 * run.steps["seconds"]}
        summary = run.summary | {"hardware": {"gpu_s": 1.5, "host_s": 0.25, "graphs": 3, "capture_s": 0.5}}
        late = {**run.requests, "finish_s": run.requests["finish_s"] + 0.1}
        return replace(run, steps=slower, requests=late, summary=summary)

    gpu = types.ModuleType("sdsim.hardware.simulation")
    gpu.IDEAL, gpu.make_executor, gpu.run_on_gpu = "ideal", lambda scenario: scenario.until, run_on_gpu
    monkeypatch.setitem(sys.modules, gpu.__name__, gpu)
    scenario = tmp_path / "s.yaml"
    scenario.write_text(
        json.dumps(REPLAYED | DRAFTING | {"policy": ["off", DRAFTING["policy"]], "engine": "vllm-0.22.1"})
    )
    assert main([str(scenario), "--seconds", "1.5", "--json"]) == OUT_OF_TOLERANCE
    found = json.loads(capsys.readouterr().out)
    assert [(run["policy"], run["engine"]) for run in found["runs"]] == [("off", "ideal"), ("fixed-3", "ideal")]
    assert executors == [1.5, 1.5]
    for run in found["runs"]:
        assert [row["error"]["p50"] for row in run["step_s"]] == pytest.approx([-0.2] * len(run["step_s"]))
        assert run["ttft_s"]["error"]["p50"] == 0
        assert run["tpot_s"]["error"]["p50"] < 0
        assert run["requests"]["measured"] < 80
    assert main([str(scenario), "--on", "gpu"]) == OUT_OF_TOLERANCE
    said = capsys.readouterr()
    assert "fixed-3 on ideal, measured on hardware and simulated" in said.out
    assert "fixed-3: " in said.err
    assert "1.5 s on the GPU, 0.2 s between, 3 graphs captured in 0.5 s; " in said.err


def test_a_gpu_that_fails_is_one_line(tmp_path, monkeypatch):
    def make_executor(scenario):
        raise RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`")

    gpu = types.ModuleType("sdsim.hardware.simulation")
    gpu.IDEAL, gpu.make_executor, gpu.run_on_gpu = "ideal", make_executor, None
    monkeypatch.setitem(sys.modules, gpu.__name__, gpu)
    scenario = tmp_path / "s.yaml"
    scenario.write_text(json.dumps(REPLAYED))
    with pytest.raises(ScenarioError, match=r"^--on gpu: the GPU failed: RuntimeError: CUDA error: out of memory; a"):
        main([str(scenario), "--on", "gpu"])


def test_without_vllm_the_error_says_so():
    with pytest.raises(ScenarioError, match="vllm is not installed here"):
        main(["--on", "vllm", "--model", "qwen3-30b"])


def test_table_and_pictures(tmp_path, predicted, capsys):
    lines = [line | {"context": None, "P": 128} for line in predicted]
    replayed = as_lines(simulate(scenario_from_mapping(REPLAYED)).requests, kv_blocks=12345)
    path = recorded(tmp_path, [*lines, *replayed])
    out = tmp_path / "out"
    assert main(["--measured", str(path), "--out", str(out), "--plots", "svg"]) == OK
    said = capsys.readouterr().out
    for words in (
        "Measured step, ms",
        "Speedup over OFF",
        "regret",
        "TPOT",
        "saturated",
        "KV blocks",
        "predicted GPU time",
        "ok ",
    ):
        assert (words in said) is (words != "saturated")
    assert {p.name for p in out.iterdir()} == {"agreement.json", "measured.jsonl", "steps.svg", "replays.svg"}
    assert json.loads((out / "agreement.json").read_text())["ok"]
    assert (out / "steps.svg").stat().st_size > 10_000
    with pytest.raises(ScenarioError, match="exists already"):
        main(["--measured", str(path), "--out", str(out)])
    assert main(["--measured", str(path), "--full"]) == OK
    assert main(["--leave-out"]) == OK
    assert "left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to compare"),
        (["s.yaml", "--measured", "x"], "scenario and measured"),
        (["s.yaml", "--leave-out"], "--leave-out"),
        (["--measured", "nothing.jsonl"], "no such file"),
        (["nothing.yaml", "--on", "gpu"], "nothing.yaml"),
        (["--model", "qwen3-30b", "--points", "0"], "--points"),
        (["s.yaml", "--seconds", "-1"], "--seconds"),
        (["s.yaml", "--seconds", "nan"], "--seconds"),
        (["--model", "m", "--acceptance", "2"], "--acceptance"),
        (["--measured", "x.jsonl", "--on", "gpu"], "--on"),
        (["--measured", "x.jsonl", "--seconds", "9"], "--seconds"),
        (["--leave-out", "--gpu", "a100"], "no stack of layers"),
        (["--leave-out", "--gpu", "h9"], "unknown GPU"),
        (["--leave-out", "--calibration", "nothing.json"], "nothing.json"),
    ],
)
def test_bad_input(words, said):
    with pytest.raises(SdsimError, match=said):
        main(words)
