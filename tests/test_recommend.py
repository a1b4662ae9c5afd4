"""The command: its contract, that it holds what it promises, and what wrong input is answered with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from sdsim.engine_config import read_sglang_adaptive_config, read_vllm_arguments, read_vllm_ranges
from sdsim.errors import PolicyError, ScenarioError
from sdsim.latency.prices import Prices
from sdsim.recommend import main
from sdsim.recommendation.engines import _usual_length
from sdsim.scenario import load_scenario
from sdsim.simulation import make_system, simulate

SMALL = """model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
workload: {kind: poisson, rate: 30/s, limit: 90, lengths: {prompt: 200, output: 40}}
acceptance: {kind: iid, rate: 0.8}
slo: {ttft: 2s, tpot: 50ms}
seed: 7
"""
CONTRACT = {"policy", "lengths", "gain", "gain_ci95", "runner_up", "flips_below_acceptance", "gpus", "config"}
QUICK = ("--jobs", "1", "--policies", "batch_table,goodput,{kind: fixed, length: 2}")


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def answer(capsys, *words):
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert not said.err
    return json.loads(said.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_the_contract_and_twice_the_same(small, capsys):
    first, second = (answer(capsys, small, "--jobs", "1") for _ in range(2))
    assert first == second
    assert set(first) >= CONTRACT
    low, high = first["speed_gain_ci95"]
    assert 0 < low < first["speed_gain"] < high
    assert first["runner_up"]["why"]
    assert 0 < first["flips_below_acceptance"] < first["acceptance"]
    assert first["gpus"] == first["replicas"] == 1
    assert first["config"]["num_speculative_tokens_per_batch_size"][-1][1] == 256


def test_workers_change_nothing(small, capsys):
    assert answer(capsys, small, *QUICK) == answer(capsys, small, *QUICK, "--jobs", "2")


def test_the_gain_is_that_of_runs(small, capsys):
    found = answer(capsys, small, *QUICK, "--seeds", "2", "--set", "policy={kind: fixed, length: 2}")
    scenario = load_scenario(Path(small))
    policy = {
        "fixed-2": "{kind: fixed, length: 2}",
        "goodput": "{kind: goodput}",
        "batch-table": f"{{kind: batch_table, table: {found['config']['num_speculative_tokens_per_batch_size']}}}",
    }[found["policy"]]
    ratios = []
    for seed in (7, 8):
        theirs = simulate(scenario, None, seed).summary["e2e_s"]["mean"]
        ours = simulate(load_scenario(Path(small), [f"policy={policy}"]), None, seed).summary["e2e_s"]["mean"]
        ratios.append(theirs / ours - 1)
    assert found["speed_gain"] == pytest.approx(sum(ratios) / 2, rel=1e-6)


@pytest.mark.parametrize("engine", ["ideal", "vllm-0.22.1"])
def test_each_batch_size_takes_the_length_of_the_most_tokens_a_second(small, capsys, engine):
    """As computed here, from the prices of steps, under a light load; runs decide among lengths within a hundredth."""
    changes = (f"engine={engine}", "model=qwen2-57b-a14b", "workload.rate=3/s")
    words = [word for change in changes for word in ("--set", change)]
    found = answer(capsys, small, "--jobs", "1", "--policies", "batch_table", *words)
    table = read_vllm_ranges(found["config"]["num_speculative_tokens_per_batch_size"], 256, 4)
    prices: Prices = make_system(load_scenario(Path(small), changes)).prices
    for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        rates = [sum(0.8**i for i in range(k + 1)) / prices.step_seconds(batch, k, 220.0) for k in range(5)]
        assert rates[table[batch - 1]] > 0.985 * max(rates)


def test_acceptance_of_nothing_is_answered_with_off(small, capsys):
    found = answer(capsys, small, *QUICK, "--set", "acceptance={kind: iid, rate: 0}")
    assert (found["policy"], found["lengths"], found["gain"]) == ("off", [0], 0.0)
    assert 0 < found["flips_below_acceptance"] < 1
    assert found["config"]["speculative_config"] is None
    assert "serve without" in found["config"]["notes"][0]


def test_the_policy_flips_where_it_says(small, capsys):
    flip = answer(capsys, small, *QUICK)["flips_below_acceptance"]
    below, above = (
        answer(capsys, small, *QUICK, "--set", f"acceptance.rate={rate}")["policy"]
        for rate in (flip - 0.05, flip + 0.05)
    )
    assert below == "off"
    assert above != "off"


def test_the_number_of_gpus_holds_the_targets_and_one_replica_less_does_not(small, capsys):
    busy = "workload={kind: poisson, rate: 400/s, limit: 800, lengths: {prompt: 200, output: 40}}"
    changes = [busy, "slo={ttft: 200ms, tpot: 12ms}", "gpus=2 x h200", "replica={tensor_parallel: 2}"]
    words = [word for change in changes for word in ("--set", change)]
    two = "{kind: fixed, length: 2}"
    found = answer(capsys, small, "--jobs", "1", "--policies", two, "--seeds", "1", *words)
    assert found["gain_ci95"] is None
    assert found["gpus"] == 2 * found["replicas"] > 2
    policy = f"policy={'off' if found['policy'] == 'off' else two}"

    def attained(replicas):
        return simulate(load_scenario(Path(small), [*changes, policy, f"replicas={replicas}"])).summary[
            "slo_attainment"
        ]

    assert attained(found["replicas"]) >= 0.9 > attained(found["replicas"] - 1)


def test_without_targets_tokens_count_and_no_gpus_are_named(small, capsys, tmp_path):
    path = tmp_path / "free.yaml"
    path.write_text(SMALL.replace("slo: {ttft: 2s, tpot: 50ms}\n", ""))
    found = answer(capsys, str(path), *QUICK)
    assert found["objective"] == "output_tokens_per_s"
    assert found["gpus"] is found["slo_attainment"] is None


def test_targets_on_the_command_line_take_the_place_of_the_scenarios(small, capsys):
    found = answer(capsys, small, *QUICK, "--slo", "tpot=1us")
    assert found["gpus"] is None
    assert found["slo_attainment"] == 0.9


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_what_is_written_is_what_was_answered(small, capsys, tmp_path, engine):
    out = tmp_path / "out"
    words = (small, *QUICK, "--for", engine, "--set", "draft=eagle3", "--out", str(out))
    found = answer(capsys, *words)
    assert json.loads((out / "recommendation.json").read_text()) == found
    assert load_scenario(out / "scenario.yaml").draft.kind == "eagle3"
    config = found["config"]
    if engine == "vllm":
        assert json.loads((out / "speculative_config.json").read_text()) == config["speculative_config"]
        table = read_vllm_arguments(config["arguments"], 256)
        ranges = config["num_speculative_tokens_per_batch_size"]
        assert table.tolist() == read_vllm_ranges(ranges, 256, max(k for *_, k in ranges)).tolist()
    elif engine == "sglang":
        adaptive = json.loads((out / "speculative_adaptive.json").read_text())
        longest = max(slot["candidate_steps"][0] for slot in config["speculative_adaptive_config"].values())
        assert max(read_sglang_adaptive_config(adaptive, 256)) == longest
        assert "bias_seconds" in json.loads((out / "dspark_sps.json").read_text())
    else:
        written = yaml.safe_load((out / "speculative_config.yaml").read_text())["speculative_config"]
        assert all(isinstance(bound, int) for bound in written["draft_len_schedule"])
    with pytest.raises(ScenarioError, match="out"):
        main([*words])


def test_what_is_printed_holds_the_answer(small, capsys):
    assert main([small, "--jobs", "1", "--policies", "batch_table,{kind: fixed, length: 2}"]) == 0
    said = capsys.readouterr().out
    sentences = ("Use batch-table", "over off", "Next is", "Below a mean acceptance", "1 GPU in 1 replica")
    assert all(words in " ".join(said.split()) for words in (*sentences, "--speculative-config"))
    assert "either the table" not in said


def test_two_ways_to_run_it_are_told_apart(small, capsys):
    assert main([small, "--jobs", "1", "--policies", "goodput", "--for", "vllm"]) == 0
    said = capsys.readouterr().out
    table, live = said.index("either the table, which the engine follows"), said.index("or the policy itself, inside")
    assert table < said.index("--speculative-config") < live < said.index("--scheduler-cls")


@pytest.mark.parametrize(
    ("engine", "why"), [("sglang", "with an EAGLE head or MTP only"), ("tensorrt-llm", "takes no policy")]
)
def test_an_engine_that_cannot_run_the_policy_says_so_first(small, capsys, engine, why):
    found = answer(capsys, small, "--jobs", "1", "--policies", "goodput", "--for", engine)
    assert found["policy"] == "goodput"
    assert why in found["config"]["notes"][0]


def test_a_single_length_suits_the_usual_batches():
    """Of a table of short drafts for the many large batches, those that the load has decide."""
    table = np.array([1] * 4 + [4] * 25 + [3] * 40 + [2] * 180)
    assert [_usual_length(table, usual) for usual in ((1, 249), (5, 40), (20, 80), (1, 4))] == [2, 4, 3, 1]
    assert _usual_length(np.array([2, 2, 0, 0]), (3, 4)) == 2


def test_a_law_that_learns_runs_live_in_the_engine(small, capsys):
    found = answer(capsys, small, "--jobs", "1", "--policies", "goodput")
    assert found["policy"] == "goodput"
    live = found["config"]["live_arguments"]
    assert "--scheduler-cls sdsim.adapters.vllm.AsyncScheduler" in live
    assert set(read_vllm_arguments(live, 256).tolist()) == {0, 1, 2, 3, 4}


def test_acceptance_known_for_few_positions_bounds_the_lengths(small, capsys):
    few = "acceptance={kind: positions, rates: [0.8, 0.5]}"
    found = answer(capsys, small, "--jobs", "1", "--set", few)
    assert max(found["lengths"]) <= 2
    with pytest.raises(PolicyError, match=r"small.yaml:\d+: policy: fixed drafts up to 4.*2 positions"):
        main([small, "--policies", "{kind: fixed, length: 4}", "--set", few])


def test_metrics_take_the_place_of_assumptions(small, capsys, tmp_path):
    pytest.importorskip("prometheus_client", exc_type=ImportError)
    from tests.test_engine_metrics import vllm_page

    page = tmp_path / "page.txt"
    page.write_text(vllm_page())
    found = answer(capsys, small, *QUICK, "--metrics", str(page), "--seconds", "10")
    assert found["measured"]["engine"] == "vllm"
    assert found["measured"]["replaced"]["acceptance"]["kind"] == "positions"
    assert found["acceptance"] != 0.8
    assert main([small, *QUICK, "--metrics", str(page)]) == 0
    assert "measured on the running vllm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--for", "vlm"], r"--for: unknown engine 'vlm'; .*did you mean vllm\?"),
        (["--slo", "tpt=3s"], r"--slo: unknown target 'tpt'; .*did you mean tpot\?"),
        (["--slo", "tpot"], "--slo: found 'tpot'"),
        (["--slo", "tpot=0s"], "--slo: tpot: found '0s'; allowed: a time over 0"),
        (["--lengths", "0"], "--lengths: '0'; allowed: one above 0"),
        (["--lengths", "1,99"], "--lengths: '1,99'"),
        (["--slo-attainment", "1.1"], "--slo-attainment: found 1.1"),
        (["--slo-attainment", "nan"], "--slo-attainment: found nan"),
        (["--policies", "godput"], "--policies: unknown policy 'godput'"),
        (["--every", "5"], "--every: given without --metrics"),
        (["--metrics", "a", "--metrics", "b", "--metrics", "c"], "--metrics: 3 sources"),
        (["--metrics", "a", "--every", "-1"], "--every: -1"),
        (["--set", "draft=none"], "draft: none, so there is nothing to choose"),
        (["--set", "engine=[ideal, vllm-0.22.1]"], "engine: found 2"),
        (["--jobs", "0"], "--jobs: found 0"),
        (["--out", "."], "exists"),
    ],
)
def test_wrong_input_is_one_clear_error(small, words, says):
    with pytest.raises(ScenarioError, match=says):
        main([small, *words])
