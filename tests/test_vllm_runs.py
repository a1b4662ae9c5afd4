"""What is asked of an installed vLLM and what its lines say, against a stand-in with vLLM's calls."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from sdsim.command import OUT_OF_TOLERANCE
from sdsim.crosscheck import main as crosscheck
from sdsim.errors import ScenarioError
from sdsim.hardware import vllm_jobs
from sdsim.hardware.vllm import engine_arguments, measure
from sdsim.hardware.vllm_jobs import replay_job, require_vllm, run_jobs, step_job
from sdsim.hardware.vllm_models import ARCHITECTURES, vllm_config
from sdsim.measurements import read_measurements
from sdsim.models import load_model
from sdsim.scenario import scenario_from_mapping

FAKES = Path(__file__).parent / "fakes"
SCENARIO = {
    "model": "qwen3-30b-a3b", "gpus": "1 x h200", "draft": {"kind": "model", "model": "qwen2-0.5b"},
    "workload": {"kind": "poisson", "rate": 200, "limit": 12, "lengths": {"prompt": 50, "output": 12}},
    "acceptance": {"kind": "iid", "rate": 0.7}, "policy": ["off", {"kind": "fixed", "length": 2}],
    "replica": {"max_num_seqs": 8},
}  # fmt: skip

CLOSED = {"kind": "closed", "concurrency": 2, "limit": 4, "lengths": {"prompt": 9, "output": 9}}


@pytest.fixture
def fake(monkeypatch):
    for name in ("vllm", "vllm.platforms"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)  # and what a test imports is gone after it
    monkeypatch.syspath_prepend(str(FAKES))
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{FAKES}{os.pathsep}{Path(vllm_jobs.__file__).parents[2]}{os.pathsep}{inherited}")


def scenario(**changes):
    return scenario_from_mapping(SCENARIO | changes)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_models_config_reads_back_as_the_same_shape(tmp_path, name):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(vllm_config(name)))
    assert load_model(str(path)) == load_model(name)


def test_acceptance_rates_are_unconditional_and_only_with_a_draft(tmp_path):
    drafting = engine_arguments(step_job("mixtral-8x7b", "tiny-mistral", 3, [1, 8], 0.8), tmp_path / "a")
    speculation = drafting["speculative_config"]
    assert speculation["synthetic_acceptance_rates"] == pytest.approx([0.8, 0.64, 0.512])
    assert (speculation["num_speculative_tokens"], drafting["max_num_seqs"]) == (3, 8)
    assert json.loads(Path(speculation["model"], "config.json").read_text())["vocab_size"] == 32_000
    plain = engine_arguments(step_job("mixtral-8x7b", "tiny-mistral", 0, [1], 0.8), tmp_path / "b")
    assert "speculative_config" not in plain
    assert plain["load_format"] == "dummy"


def test_steady_steps_of_two_processes_are_records(fake, tmp_path):
    out = tmp_path / "steps.jsonl"
    run_jobs([step_job("qwen3-30b-a3b", "qwen2-0.5b", k, [1, 8], 0.8) for k in (0, 2)], out)
    found = read_measurements(out).steps
    assert [(one.record.draft_length, one.record.batch) for one in found] == [(0, 1), (0, 8), (2, 1), (2, 8)]
    for one in found:
        r = one.record
        assert (r.engine, r.gpu, r.graph_mode, r.kv_blocks) == ("vllm 0.22.1", "h200", "FULL_AND_PIECEWISE", 5000)
        assert (r.capture_sizes, one.max_num_seqs, r.n) == ((1, 2, 4), 8, 48)
        assert r.async_scheduling is (r.draft_length == 0)
        assert r.step_ms_median >= 0.2 * (1 + r.draft_length)
    off, drafting = (found[i].record for i in (1, 3))
    assert off.tokens_per_seq_step == 1
    # eight sequences over 48 steps: the mean of 384 draws of 1 to 3 tokens
    assert drafting.tokens_per_seq_step == pytest.approx(1 + 0.8 + 0.64, abs=0.2)
    assert off.mean_context == pytest.approx(128 + 12 + 48 / 2, abs=2)
    assert drafting.mean_context == pytest.approx(128 + 2.44 * 36, rel=0.1)


def test_a_replay_keeps_every_request_and_its_order_of_times(fake, tmp_path):
    out = tmp_path / "replay.jsonl"
    both = scenario()
    run_jobs([replay_job(both, policy) for policy in both.policies], out)
    off, drafting = read_measurements(out).replays
    for replay in (off, drafting):
        assert len(replay) == 12
        assert (replay.requests["got_tokens"] == 12).all()
        assert replay.max_num_seqs == 8
        assert (replay.requests["first_token_s"] >= replay.requests["arrival_s"]).all()
    assert (off.requests["arrival_s"] == drafting.requests["arrival_s"]).all()
    assert drafting.record.alpha == 0.7
    assert drafting.record.rate == pytest.approx(200, rel=0.8)


def test_the_command_measures_compares_and_keeps_the_record(fake, tmp_path, capsys):
    path = tmp_path / "s.yaml"
    path.write_text(json.dumps(SCENARIO | {"workload": SCENARIO["workload"] | {"limit": 5}}))
    out = tmp_path / "out"
    words = [str(path), "--on", "vllm", "--seconds", "9", "--engine", "ideal", "--json", "--out", str(out)]
    assert crosscheck(words) == OUT_OF_TOLERANCE
    found = json.loads(capsys.readouterr().out)
    assert [(row["draft_length"], row["requests"]) for row in found["replays"]] == [(0, 5), (2, 5)]
    assert found["replays"][0]["kv_blocks"]["measured"] == 5000
    assert len((out / "measured.jsonl").read_text().splitlines()) == 10
    words = ["--on", "vllm", "--model", "qwen3-30b", "--draft-length", "0,1", "--batch", "1,4", "--engine", "ideal"]
    assert crosscheck([*words, "--json"]) == OUT_OF_TOLERANCE
    rows = json.loads(capsys.readouterr().out)["steps"]["rows"]
    assert [(row["draft_length"], row["batch"]) for row in rows] == [(0, 1), (0, 4), (1, 1), (1, 4)]


def test_measuring_in_this_process_gives_the_same_lines(fake, monkeypatch):
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_MOE_ROUTING_SIMULATION_STRATEGY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    job = step_job("qwen2.5-32b", None, 0, [2], 0.0) | {"steps": [(2, 16, 5)]}
    (line,) = measure(job)  # type: ignore[arg-type]
    assert (line["B"], line["P"], line["n"], line["draft"], line["alpha"]) == (2, 16, 5, None, None)


def test_a_process_that_fails_is_one_clear_error(fake, tmp_path):
    job = step_job("qwen2.5-32b", None, 0, [1], 0.0)
    job["target_config"]["vocab_size"] = 666
    with pytest.raises(ScenarioError, match=r"qwen2.5-32b with 0 drafts: sdsim.hardware.vllm ended with exit code 1"):
        run_jobs([job], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_without_vllm_the_error_says_where_to_run():
    with pytest.raises(ScenarioError, match="vllm is not installed here"):
        require_vllm()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": "goodput"}, "policy: goodput; allowed"),
        ({"policy": {"kind": "fixed", "length": 0}}, "policy: fixed; allowed"),
        ({"draft": "eagle3", "policy": {"kind": "fixed", "length": 2}}, "draft: eagle3; allowed"),
        ({"acceptance": {"kind": "positions", "rates": [0.8, 0.5]}, "policy": {"kind": "fixed", "length": 2}}, "iid"),
        ({"replicas": 2}, "2 replicas"),
        ({"workload": CLOSED}, "closed"),
        ({"workload": SCENARIO["workload"] | {"lengths": {"prompt": 9000, "output": 9}}}, "9009 tokens"),
        ({"until": 1e-9}, "no request arrives"),
        ({"model": "deepseek-v2-lite"}, "model 'deepseek-v2-lite'; allowed"),
    ],
)  # fmt: skip
def test_what_vllm_cannot_run_is_refused(changes, said):
    asked = scenario(**changes)
    with pytest.raises(ScenarioError, match=said):
        replay_job(asked, asked.policies[0])
