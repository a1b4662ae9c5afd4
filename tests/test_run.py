"""The command line: contracts, exit codes, and that nothing is half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from sdsim.errors import ScenarioError
from sdsim.run import main
from sdsim.scenario import load_scenario

ROOT = Path(__file__).resolve().parent.parent
SMALL = """
model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
workload: {kind: poisson, rate: 50/s, limit: 60, lengths: {prompt: 200, output: 30}}
acceptance: {kind: iid, rate: 0.8}
policy: {kind: fixed, length: 3}
slo: {ttft: 2s, tpot: 50ms}
seed: 7
"""
LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
KEYS = {
    "policy", "requests", *LATENCIES, "output_tokens_per_s", "output_tokens_per_gpu_s", "goodput_rps",
    "slo_attainment", "speculation", "moe", "preemptions", "steps", "mean_batch", "simulated_s", "wall_s",
    "steps_per_wall_s", "data_quality",
}  # fmt: skip


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def call(*words, capsys):
    code = main([str(w) for w in words])
    return code, capsys.readouterr().out


def test_json_keeps_the_contract(small, capsys):
    code, out = call(small, "--json", capsys=capsys)
    summary = json.loads(out)
    assert code == 0
    assert set(summary) >= KEYS
    assert summary["policy"] == "fixed-3"
    assert summary["requests"] == {"offered": 60, "finished": 60, "unfinished": 0}
    assert all(set(summary[k]) == {"mean", "p50", "p90", "p99"} for k in LATENCIES)
    assert set(summary["speculation"]) == {
        "mean_draft_length", "acceptance_length", "acceptance_rate", "wasted_fraction", "off_fraction"}  # fmt: skip
    assert summary["speculation"]["mean_draft_length"] == 3
    assert summary["output_tokens_per_gpu_s"] == summary["output_tokens_per_s"]
    assert sum(summary["data_quality"].values()) == pytest.approx(1)


def test_two_runs_differ_in_wall_time_only(small, capsys):
    one, two = (json.loads(call(small, "--json", capsys=capsys)[1]) for _ in range(2))
    for key in ("wall_s", "steps_per_wall_s"):
        one.pop(key), two.pop(key)
    assert one == two


def test_several_policies_seeds_and_jobs(small, capsys):
    words = [small, "--json", "--policy", "off", "--policy", "{kind: fixed, length: 2}", "--seeds", "3"]
    serial = json.loads(call(*words, "--jobs", "1", capsys=capsys)[1])["runs"]
    parallel = json.loads(call(*words, "--jobs", "2", capsys=capsys)[1])["runs"]
    assert [r["policy"] for r in serial] == ["off", "fixed-2"]
    for a, b in zip(serial, parallel, strict=True):
        low, high = a["ci95"]["goodput_rps"]
        assert low < a["goodput_rps"] < high
        for run in (a, b):
            for key in ("wall_s", "steps_per_wall_s"):
                run.pop(key), run["ci95"].pop(key)
        assert a == b


def test_policies_that_share_a_label_are_told_apart(small, capsys):
    words = ["--policy", "{kind: goodput, lengths: [0, 1]}", "--policy", "{kind: goodput, lengths: [0, 4]}"]
    runs = json.loads(call(small, "--json", *words, capsys=capsys)[1])["runs"]
    assert [r["policy"] for r in runs] == ["goodput", "goodput-2"]


def test_off_from_yaml_false_and_undefined_figures(small, capsys):
    summary = json.loads(call(small, "--json", "--set", "policy=off", "--set", "slo=null", capsys=capsys)[1])
    assert summary["policy"] == "off"
    assert summary["goodput_rps"] is None
    assert summary["speculation"]["acceptance_rate"] is None
    assert summary["speculation"]["wasted_fraction"] == 0
    assert summary["speculation"]["off_fraction"] == 1


def test_until_leaves_requests_unfinished(small, capsys):
    summary = json.loads(call(small, "--json", "--set", "until=0.5s", capsys=capsys)[1])
    counts = summary["requests"]
    assert counts["unfinished"] > 0
    assert counts["offered"] == counts["finished"] + counts["unfinished"]
    assert summary["simulated_s"] == 0.5
    assert summary["slo_attainment"] <= counts["finished"] / counts["offered"]


def test_run_folder_is_complete_and_rerunnable(small, tmp_path, capsys):
    folder = tmp_path / "out"
    code, _ = call(small, "--out", folder, "--quiet", "--no-plots", capsys=capsys)
    assert code == 0
    assert sorted(p.name for p in folder.iterdir()) == [
        "requests.parquet", "scenario.yaml", "steps.parquet", "summary.json"]  # fmt: skip
    again = tmp_path / "again"
    call(folder / "scenario.yaml", "--out", again, "--quiet", "--no-plots", capsys=capsys)
    for name in ("requests.parquet", "steps.parquet"):
        assert pq.read_table(folder / name) == pq.read_table(again / name)
    requests = pq.read_table(folder / "requests.parquet")
    assert requests.num_rows == 60
    assert requests.schema.field("finish_s").metadata[b"unit"] == b"s"
    resolved = yaml.safe_load((folder / "scenario.yaml").read_text())
    assert resolved["replica"]["max_num_seqs"] == 256


def test_several_runs_share_a_folder(small, tmp_path, capsys):
    folder = tmp_path / "out"
    call(small, "--out", folder, "--quiet", "--policy", "off", "--policy", "goodput", capsys=capsys)
    names = {p.name for p in folder.iterdir()}
    assert names == {"off", "goodput", "summary.json", "timeline.png", "latencies.png"}
    assert len(json.loads((folder / "summary.json").read_text())["runs"]) == 2


def test_an_existing_folder_is_never_touched(small, tmp_path, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine").write_text("keep")
    done = subprocess.run(
        [sys.executable, "-m", "sdsim.run", small, "--out", folder], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert (folder / "mine").read_text() == "keep"


def test_require_slo(small, capsys):
    assert call(small, "--json", "--require-slo", capsys=capsys)[0] == 0
    assert call(small, "--json", "--require-slo", "--set", "slo.tpot=1ms", capsys=capsys)[0] == 3


def test_the_table_answers(small, capsys, monkeypatch):
    monkeypatch.chdir(Path(small).parent)
    code, out = call(small, "--policy", "off", "--policy", "{kind: fixed, length: 3}", "--seeds", "3", capsys=capsys)
    text = " ".join(out.split())
    assert code == 0
    assert "is first with" in text
    assert "95% interval" in text
    assert "pays above an acceptance of" in text
    assert "predicted GPU time: " in text
    assert (Path(small).parent / "runs/small/summary.json").exists()


BAD = {
    "an unknown key": ("seed: 7", "sed: 7", "did you mean seed"),
    "a wrong unit": ("50/s", "50 bananas", "bananas"),
    "a negative rate": ("50/s", "-50/s", "-50"),
    "not a number": ("0.8", ".nan", "NaN"),
    "a draft that never fits the law": ("{kind: iid, rate: 0.8}", "{kind: positions, rates: [0.5]}", "covers 1"),
    "a prompt over the limit": ("prompt: 200", "prompt: 99999", "can never fit"),
    "a model that does not fit": ("qwen3-30b-a3b", "deepseek-v3", "use more GPUs"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_ends_with_2_and_writes_nothing(name, tmp_path):
    old, new, said = BAD[name]
    assert old in SMALL
    path = tmp_path / "bad.yaml"
    path.write_text(SMALL.replace(old, new))
    words = [sys.executable, "-m", "sdsim.run", path.name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("bad.yaml:")
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml"]


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_scenarios_load_and_are_short(path):
    scenario = load_scenario(path)
    assert load_scenario(path, ["seed=3"]).seed == 3
    assert scenario.name == path.stem
    assert len(path.read_text().splitlines()) < 30
    assert path.read_text().startswith("#")


@pytest.mark.parametrize("option", [["--jobs", "0"], ["--jobs", "-1"], ["--slo-attainment", "nan"], ["--seeds", "0"]])
def test_bad_options_are_refused(small, option):
    with pytest.raises(ScenarioError, match=option[0].removeprefix("--")):
        main([small, "--json", *option])


def test_misspelt_options_and_files_name_the_nearest(small, capsys):
    with pytest.raises(SystemExit) as ended:
        main([small, "--polcy", "off"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --polcy off; did you mean --policy?" in capsys.readouterr().err
    with pytest.raises(ScenarioError, match=r"smal\.yaml: no such file; did you mean small\.yaml\?"):
        main([small.replace("small.yaml", "smal.yaml")])


def test_the_end_says_what_opens_the_files(small, tmp_path, capsys):
    out = tmp_path / "seen"
    words = [small, "--no-plots", "--html", "--trace", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"page: {out}/report.html" in said
    assert f"traces: {out}/trace.json.gz, for https://ui.perfetto.dev" in said
    assert (out / "report.html").exists()
    assert (out / "trace.json.gz").exists()
    assert main([*words[:-1], f"{out}-2", "--policy", "off", "--policy", "goodput"]) == 0
    assert f"traces: {out}-2/*/trace.json.gz" in capsys.readouterr().out
    assert len(list(tmp_path.glob("seen-2/*/trace.json.gz"))) == 2


def test_a_run_that_is_too_short_says_so_where_it_is_read(small, capsys):
    """In the notes; under --json on stderr, for stdout has one object alone."""
    line = "fixed-3: 60 requests finished, so p99 rests on 1 of them; lengthen the run"
    words = [small, "--set", "workload.rate=5/s"]
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["policy"] == "fixed-3"
    assert said.err == f"warning: {line}\n"
    assert main([*words, "--out", str(Path(small).parent / "folder"), "--html", "--no-plots"]) == 0
    assert line in capsys.readouterr().out.splitlines()
    assert line in (Path(small).parent / "folder/report.html").read_text()
