"""Paired differences against scipy, figures against summaries, classes against their sum, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sdsim.compare import main
from sdsim.errors import ScenarioError
from sdsim.pairs import BETTER, HIGHER_IS_BETTER, UNKNOWN, WORSE, difference, figures
from sdsim.run import main as run
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate

ROOT = Path(__file__).resolve().parent.parent
SMALL = """
model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
workload: {kind: poisson, rate: 50/s, limit: 60, lengths: {prompt: 200, output: 30}}
acceptance: {kind: mixture, classes: {easy: {weight: 3, rate: 0.9}, hard: {weight: 1, rate: 0.4}}}
policy: {kind: fixed, length: 3}
slo: {ttft: 50ms, tpot: 10ms}
seed: 7
seeds: 3
"""
MAPPING = {
    "model": "qwen3-30b-a3b",
    "draft": {"kind": "model", "model": "qwen2-0.5b"},
    "gpus": "1 x h200",
    "workload": {
        "kind": "poisson",
        "rate": 60,
        "limit": 80,
        "lengths": {"prompt": 200, "output": {"mean": 30, "sigma": 0.6}},
        "classes": {"chat": {"share": 0.7}, "code": {"share": 0.3, "lengths": {"prompt": 900, "output": 20}}},
    },
    "acceptance": {"kind": "iid", "rate": 0.8},
    "policy": {"kind": "fixed", "length": 2},
    "slo": {"ttft": "60ms", "tpot": "9ms"},
}


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def answer(capsys, *words):
    assert main([str(word) for word in [*words, "--json"]]) == 0
    return json.loads(capsys.readouterr().out)


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=12),
    st.booleans(),
)
def test_differences_are_those_of_the_paired_t_test(pairs, higher):
    base, other = ([float(round(x, 3)) for x in side] for side in zip(*pairs, strict=True))
    found = difference(base, other, higher)
    gaps = np.subtract(other, base)
    assert found.difference == pytest.approx(gaps.mean(), abs=1e-9)
    if gaps.std() < 1e-9:
        return
    test = stats.ttest_rel(other, base)
    expected = test.confidence_interval(0.95)
    assert found.ci95 == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)
    if abs(test.pvalue - 0.05) > 1e-6:
        verdict = UNKNOWN if test.pvalue > 0.05 else BETTER if (gaps.mean() > 0) == higher else WORSE
        assert found.verdict == verdict


def test_few_and_missing_pairs():
    assert difference([None, 1.0], [2.0, None], True) is None
    one = difference([1.0, None], [3.0, 9.0], True)
    assert (one.base, one.other, one.pairs, one.ci95, one.verdict) == (1.0, 3.0, 1, None, UNKNOWN)
    same = difference([1.0, 2.0], [1.0, 2.0], True)
    assert (same.ci95, same.verdict) == ((0.0, 0.0), UNKNOWN)
    assert difference([1.0, 2.0], [2.0, 3.0], False).verdict == WORSE
    assert difference([0.0], [1.0], True).json()["relative"] is None


def at(summary, path):
    for key in path.split("."):
        summary = summary[key]
    return summary


@pytest.mark.parametrize("changes", [{}, {"until": "0.8s"}, {"warmup": "0.5s"}, {"slo": None}])
def test_figures_of_all_requests_are_the_summarys(changes):
    result = simulate(scenario_from_mapping(MAPPING | changes), seed=4)
    found = figures(result)[None]
    assert found == {figure: at(result.summary, figure) for figure in HIGHER_IS_BETTER}


@pytest.mark.parametrize("until", [None, "0.8s"])
def test_classes_add_up(until):
    result = simulate(scenario_from_mapping(MAPPING | {"until": until}), seed=4)
    found = figures(result)
    whole, parts = found.pop(None), found
    assert set(parts) == {"chat", "code"}
    for rate in ("goodput_rps", "output_tokens_per_s"):
        assert sum(part[rate] for part in parts.values()) == pytest.approx(whole[rate])
    sizes = [np.mean(result.requests["request_class"] == i) for i in range(2)]
    shares = [parts[name]["slo_attainment"] for name in result.class_names]
    assert np.dot(sizes, shares) == pytest.approx(whole["slo_attainment"])
    of_code = result.requests["request_class"] == result.class_names.index("code")
    ttft = (result.requests["first_token_s"] - result.requests["arrival_s"])[of_code]
    assert parts["code"]["ttft_s.p90"] == pytest.approx(np.percentile(ttft[~np.isnan(ttft)], 90))


def test_acceptance_classes_tell_who_gains():
    """Requests of a kind that is always accepted speculate as fast as alone; the others do not."""
    classes = {"all": {"weight": 1, "rate": 1.0}, "none": {"weight": 1, "rate": 0.0}}
    workload = {k: v for k, v in MAPPING["workload"].items() if k != "classes"} | {"rate": 1}
    changes = {"acceptance": {"kind": "mixture", "classes": classes}, "workload": workload}
    found = figures(simulate(scenario_from_mapping(MAPPING | changes)))
    assert set(found) == {None, "all", "none"}
    # three tokens a step against one, one request at a time
    assert found["none"]["tpot_s.p50"] / found["all"]["tpot_s.p50"] == pytest.approx(3, rel=0.1)


def test_policies_in_one_scenario(small, capsys):
    found = answer(capsys, "off", "{kind: fixed, length: 3}", "goodput", "--scenario", small, "--seeds", "5")
    assert [(c["base"], c["other"]) for c in found["comparisons"]] == [("off", "fixed-3"), ("off", "goodput")]
    assert found["notes"] == []
    one = found["comparisons"][0]
    assert one["seeds"] == [7, 8, 9, 10, 11]
    assert set(one["figures"]) == set(HIGHER_IS_BETTER)
    assert set(one["classes"]) == {"easy", "hard"}
    tpot = one["figures"]["tpot_s.p50"]
    assert tpot["verdict"] == BETTER
    assert tpot["ci95"][0] < tpot["difference"] < tpot["ci95"][1] < 0
    assert tpot["difference"] == pytest.approx(tpot["other"] - tpot["base"])
    assert tpot["relative"] == pytest.approx(tpot["difference"] / tpot["base"])
    easy, hard = (one["classes"][name]["tpot_s.p50"]["relative"] for name in ("easy", "hard"))
    assert easy < hard


def test_a_run_folder_is_what_its_scenario_gives(small, tmp_path, capsys):
    folder = tmp_path / "kept"
    run([str(small), "--out", str(folder), "--quiet", "--no-plots"])
    (one,) = answer(capsys, folder, small)["comparisons"]
    assert (one["base"], one["other"], one["seeds"]) == ("kept", "small", [7, 8, 9])
    for figure in one["figures"].values():
        assert figure["ci95"] == [0, 0]
        assert figure["verdict"] == UNKNOWN
    assert set(one["classes"]) == {"easy", "hard"}


def test_files_are_held_against_each_other_policy_by_policy(small, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(SMALL.replace("50/s", "80/s").replace("tpot: 10ms", "tpot: 12ms"))
    found = answer(capsys, small, other, "--set", "policy=[off, goodput]", "--seeds", "2")
    pairs = [("small off", "other off"), ("small goodput", "other goodput")]
    assert [(c["base"], c["other"]) for c in found["comparisons"]] == pairs
    text = " ".join(found["notes"])
    for said in ("2 pairs make wide intervals", "other SLOs", "other traffic"):
        assert said in text


def test_engines_and_alike_labels_are_told_apart(small, capsys):
    words = ["{kind: goodput, lengths: [0, 1]}", "{kind: goodput, lengths: [0, 4]}", "--scenario", small]
    found = answer(capsys, *words, "--seeds", "1")
    assert [(c["base"], c["other"]) for c in found["comparisons"]] == [("goodput", "goodput-2")]
    assert found["notes"] == ["one pair, so no interval and no verdict: use --seeds 5 or more"]


def test_figures_that_a_side_lacks_are_left_out(small, capsys):
    found = answer(capsys, "off", "goodput", "--scenario", small, "--set", "slo=null")
    assert set(found["comparisons"][0]["figures"]) == set(HIGHER_IS_BETTER) - {"goodput_rps", "slo_attainment"}


def test_the_tables_hold_every_figure(small, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["off", "goodput", "--scenario", str(small), "--seeds", "3"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "goodput against off, 3 pairs"
    assert max(map(len, lines)) <= 80
    for said in ("SLO met, %", "TPOT p99, ms", "95% interval", "by class", "goodput against off: better in"):
        assert said in out


def test_the_object_is_written_whole_and_once(small, tmp_path, capsys):
    out = tmp_path / "made" / "compared.json"
    found = answer(capsys, "off", "goodput", "--scenario", small, "--out", out)
    assert json.loads(out.read_text()) == found
    assert [p.name for p in out.parent.iterdir()] == ["compared.json"]
    with pytest.raises(ScenarioError, match="exists already"):
        main(["off", "goodput", "--scenario", str(small), "--out", str(out)])


def test_bad_sides_are_refused(small, tmp_path):
    folder = tmp_path / "kept"
    run([str(small), "--out", str(folder), "--quiet", "--no-plots"])
    two = tmp_path / "two.yaml"
    two.write_text(SMALL.replace("{kind: fixed, length: 3}", "[off, goodput]"))
    bad = {
        ("off", "--scenario", small): "found one side, off",
        (small, small): "found one side, fixed-3",
        (small, tmp_path / "none.yaml"): "no such file",
        (small, tmp_path): "holds no run",
        ("off", "goodput"): "off: no such file.*policies of the scenario that --scenario FILE names",
        (small, folder, "--set", "seed=2"): "a run folder, which --set",
        (two, small): "has no counterpart among two off, two goodput",
        ("off", "goodpt", "--scenario", small): "did you mean goodput",
        ("off", "goodput", "--scenario", small, "--jobs", "0"): "1 or more processes",
        ("off", "goodput", "--scenario", small, "--set", "workload.lengths.prompt=99999"): "small.yaml:5: workload",
    }
    for words, said in bad.items():
        with pytest.raises(ScenarioError if "99999" not in str(words) else Exception, match=said):
            main([str(word) for word in [*words, "--json"]])
    apart = tmp_path / "apart.yaml"
    apart.write_text(SMALL.replace("seed: 7", "seed: 70"))
    with pytest.raises(ScenarioError, match="a seed in common"):
        main([str(small), str(apart), "--json"])


def test_bad_input_ends_with_2(tmp_path):
    words = [sys.executable, "-m", "sdsim.compare", "nowhere.yaml", "nothing.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("nowhere.yaml: no such file")
    assert done.stdout == ""
