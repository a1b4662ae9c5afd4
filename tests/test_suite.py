"""Ranking policies over scenarios: the figure, the pairs, the order, and the command on small ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from sdsim.command import BAD_INPUT, OK
from sdsim.errors import ScenarioError
from sdsim.policies.step_optimum import best_prefixes
from sdsim.scenario import load_scenario
from sdsim.standings import duels, headline, score, standings, totals
from sdsim.suite import CORE, main

SUITE = Path(__file__).parents[1] / "scenarios" / "suite"
SMALL = """
model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
workload: {kind: closed, concurrency: 4, limit: 8, lengths: {prompt: 50, output: 40}}
acceptance: {kind: iid, rate: 0.8}
"""


def runs(*values, figure="goodput_rps"):
    return [{figure: value, "error": None} for value in values]


def test_every_scenario_of_the_suite_loads_and_is_short():
    files = sorted(SUITE.glob("*.yaml"))
    assert len(files) >= 10
    for file in files:
        scenario = load_scenario(file, [f"policy=[{', '.join(CORE)}]"])
        assert headline(scenario) in ("goodput_rps", "output_tokens_per_s", "e2e_s.mean")
        assert len(file.read_text().splitlines()) <= 30


def test_gains_are_of_pairs_and_lower_latencies_are_gains():
    rows = standings("goodput_rps", {"base": runs(1.0, 2.0), "a": runs(1.1, 2.4), "b": runs(0.9, 1.8)}, "base")
    assert [row["policy"] for row in rows] == ["a", "base", "b"]
    assert [row["gain"] for row in rows] == pytest.approx([0.15, 0.0, -0.1])
    assert rows[0]["ci95"][0] < 0.15 < rows[0]["ci95"][1]
    assert rows[2]["ci95"] == pytest.approx((-0.1, -0.1))
    slow = standings(
        "e2e_s.mean", {"base": runs(2.0, figure="e2e_s.mean"), "a": runs(1.0, figure="e2e_s.mean")}, "base"
    )
    assert slow[0]["policy"] == "a"
    assert slow[0]["gain"] == pytest.approx(1.0)
    assert slow[0]["ci95"] is None


def test_what_failed_comes_last_with_its_reason_and_has_no_mean():
    failed = [{"error": "out of memory"}, {"error": "out of memory"}]
    rows = standings("goodput_rps", {"base": runs(1.0, 2.0), "a": failed}, "base")
    assert rows[-1] == {"policy": "a", "mean": None, "gain": None, "ci95": None, "error": "out of memory"}
    found = totals([{"name": "one", "standings": rows}])
    assert found[-1] == {"policy": "a", "mean_gain": None, "lowest": None, "where": None}


def test_over_an_oracle_that_meets_nothing_there_is_no_gain():
    rows = standings("goodput_rps", {"base": runs(1.0, 0.0), "a": runs(1.1, 2.4)}, "base")
    assert [(row["mean"], row["gain"]) for row in rows] == [(0.5, None), (pytest.approx(1.75), None)]
    assert rows[1]["error"] == "0 for a seed, over which there is no gain"
    slow = {"base": runs(2.0, figure="e2e_s.mean"), "a": runs(0.0, figure="e2e_s.mean")}
    assert [row["gain"] for row in standings("e2e_s.mean", slow, "base")] == [0.0, None]


def test_totals_name_the_worst_scenario():
    one = standings("goodput_rps", {"base": runs(1.0), "a": runs(1.2), "b": runs(1.1)}, "base")
    two = standings("goodput_rps", {"base": runs(1.0), "a": runs(0.7), "b": runs(1.1)}, "base")
    rows = totals([{"name": "one", "standings": one}, {"name": "two", "standings": two}])
    assert [row["policy"] for row in rows] == ["b", "base", "a"]
    assert rows[-1]["lowest"] == pytest.approx(-0.3)
    assert rows[-1]["where"] == "two"


def test_a_duel_is_fought_with_the_best_of_each_group():
    outcomes = {"us": runs(1.1, 2.2), "a": runs(1.0, 2.0), "b": runs(0.9, 1.8), "failed": [{"error": "no"}] * 2}
    found = duels("goodput_rps", outcomes, "us", {"both": ["a", "b"], "none": [], "failed": ["failed"]})
    assert found["both"]["policy"] == "a"
    assert found["both"]["gain"] == pytest.approx(0.1)
    assert found["both"]["ci95"] == pytest.approx((0.1, 0.1))
    assert found["none"] is found["failed"] is None


def test_scores_are_higher_for_the_better():
    assert score("e2e_s.mean", {"e2e_s": {"mean": 0.5}}) == 2.0
    assert score("goodput_rps", {"goodput_rps": 3}) == 3.0
    assert score("e2e_s.mean", {"e2e_s": {"mean": None}}) == 0.0


def test_the_command_ranks_and_goes_on_from_its_journal(tmp_path, capsys):
    scenario = tmp_path / "small.yaml"
    scenario.write_text(SMALL)
    out, journal = tmp_path / "out.json", tmp_path / "out.json.journal"
    words = [str(tmp_path), "--policy", "off", "--policy", "auto", "--seeds", "2", "--jobs", "1", "--quiet", "--tuned"]
    assert main([*words, "--out", str(out)]) == OK
    first = json.loads(out.read_text())
    rows = first["scenarios"][0]["standings"]
    assert {row["policy"] for row in rows} == {"oracle-expected", "off", "auto", "batch-context-table"}
    assert rows[-1]["policy"] == "off"
    regret = first["scenarios"][0]["regret"]
    assert regret["randomness"] is regret["myopia"] is None
    gains = {row["policy"]: row["gain"] for row in rows}
    assert regret["estimation"]["gain"] == pytest.approx(1 / (1 + gains["auto"]) - 1, abs=0.01)
    duel = first["scenarios"][0]["duels"]
    assert duel["off"]["gain"] > 0
    assert duel["table"]["policy"] == "batch-context-table"
    assert duel["constant"] is duel["peer"] is None
    assert not journal.exists()
    journal.write_text("damaged\n")
    with pytest.raises(ScenarioError, match="unfinished suite; add --resume"):
        main([*words, "--out", str(tmp_path / "out.json")] if not out.unlink() else [])
    assert main([*words, "--out", str(out), "--resume"]) == OK
    assert json.loads(out.read_text()) == first
    capsys.readouterr()


def test_a_policy_that_fails_costs_its_own_row_only(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SMALL)
    short = "{kind: fixed, length: 16}"
    words = [
        str(tmp_path),
        "--policy",
        short,
        "--set",
        "replica.max_num_batched_tokens=8",
        "--seeds",
        "1",
        "--jobs",
        "1",
    ]
    assert main([*words, "--out", str(tmp_path / "out.json")]) == OK
    shown = capsys.readouterr().out
    assert "max_num_batched_tokens" in shown
    assert "oracle-expected" in shown
    words[words.index(short)] = "off"
    assert main([*words, "--oracle", short, "--out", str(tmp_path / "o.json")]) == BAD_INPUT


def test_a_subject_that_is_not_run_is_refused(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    words = [str(tmp_path), "--policy", "off", "--subject", "goodput", "--out", str(tmp_path / "out.json")]
    with pytest.raises(ScenarioError, match=r"--subject goodput: no policy .* allowed: off, oracle_expected"):
        main(words)


def test_without_scenarios_it_says_so(tmp_path):
    with pytest.raises(ScenarioError, match="no scenario in it"):
        main([str(tmp_path), "--out", str(tmp_path / "out.json")])


@pytest.mark.parametrize("theta", [None, 40.0, 120.0])
def test_the_oracles_set_is_the_best_of_all_prefix_closed_sets(theta):
    rng = np.random.default_rng(3)
    for _ in range(40):
        worth = np.sort(rng.uniform(0, 1, (3, 3)), axis=0)[::-1].copy()
        seconds = 0.01 + np.cumsum(rng.uniform(0, 0.01, 13))
        value, verify = best_prefixes(worth, 3, seconds, theta)

        def gain(lengths, worth=worth, seconds=seconds):
            tokens = 3 + sum(worth[:n, row].sum() for row, n in enumerate(lengths))
            price = seconds[3 + sum(lengths)]
            return tokens / price if theta is None else tokens - theta * price

        assert value == pytest.approx(max(map(gain, itertools.product(range(4), repeat=3))))
        assert gain(verify.tolist()) == pytest.approx(value)
