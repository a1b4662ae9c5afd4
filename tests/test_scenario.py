"""Scenarios: what a file may say, its defaults, and the resolved form."""

from __future__ import annotations

import copy
import json
import pickle
from importlib import resources
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sdsim.errors import ScenarioError
from sdsim.scenario import PolicySpec, Scenario, load_scenario, scenario_from_mapping
from sdsim.units import GpuCount

POISSON = {"kind": "poisson", "rate": "80/s", "limit": 10, "lengths": {"prompt": 500, "output": 200}}
LEAST = {"model": "qwen3-30b-a3b", "gpus": "1 x h200", "workload": POISSON}
DRAFTING = {**LEAST, "draft": "eagle3", "acceptance": {"kind": "iid", "rate": 0.8}}

EXAMPLE = """
# Chat traffic that doubles for one minute in five.
model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
replicas: 1
replica: {tensor_parallel: 1, expert_parallel: 1, max_num_seqs: 256, max_num_batched_tokens: 8192}
router: least_loaded
engine: ideal
workload: {kind: bursty, rate: 12/s, peak: 24/s, period: 5min, lengths: azure-conv}
acceptance: {kind: iid, rate: 0.8}
routing: {kind: uniform}
policy: {kind: fixed, length: 3}
slo: {ttft: 2s, tpot: 50ms}
until: 20min
seed: 7
"""


def load(folder: Path, text: str, *overrides: str) -> Scenario:
    file = folder / "bursty.yaml"
    file.write_text(text, encoding="utf-8")
    return load_scenario(file, overrides)


def test_the_example_of_the_design(tmp_path):
    scenario = load(tmp_path, EXAMPLE)
    assert (scenario.name, scenario.folder, scenario.model) == ("bursty", tmp_path, "qwen3-30b-a3b")
    assert (scenario.draft.kind, scenario.draft.model, scenario.draft.available) == ("model", "qwen2-0.5b", 1.0)
    assert scenario.gpus == GpuCount(1, "h200")
    assert (scenario.router.kind, scenario.engines) == ("least_loaded", ("ideal",))
    bursty = scenario.workload
    assert (bursty.rate, bursty.peak, bursty.period, bursty.duty, bursty.limit) == (12, 24, 300, 0.2, None)
    assert scenario.policies == (PolicySpec(kind="fixed", parameters={"length": 3}),)
    assert (scenario.slo.ttft, scenario.slo.tpot, scenario.slo.e2e) == (2, 0.05, None)
    assert (scenario.until, scenario.seed) == (1200, 7)


def test_defaults():
    scenario = scenario_from_mapping(LEAST)
    assert scenario.draft is scenario.acceptance is scenario.slo is scenario.until is None
    assert scenario.policies == (PolicySpec(kind="off"),)
    replica = scenario.replica
    assert (replica.tensor_parallel, replica.expert_parallel, replica.max_num_seqs) == (1, 1, 256)
    assert (replica.max_num_batched_tokens, replica.memory_fraction) == (8192, 0.95)
    assert (scenario.replicas, scenario.router.kind, scenario.engines) == (1, "least_loaded", ("ideal",))
    assert (scenario.routing.kind, scenario.seed, scenario.seeds, scenario.feedback_lag) == ("uniform", 0, 1, 1)
    assert (scenario.warmup, scenario.block_size, scenario.name) == (0, 16, "scenario")


@pytest.mark.parametrize("written", ["none", "null", "~", "", "off", "{kind: none}", "{kind: off}"])
def test_no_draft(tmp_path, written):
    least = yaml.safe_dump(LEAST)
    assert load(tmp_path, f"{least}\ndraft: {written}\n").draft is None


@pytest.mark.parametrize("written", ["off", "{kind: off}", "[off]", "[{kind: off}]", '"off"'])
def test_off_is_a_policy_and_not_false(tmp_path, written):
    assert load(tmp_path, f"{yaml.safe_dump(LEAST)}\npolicy: {written}\n").policies == (PolicySpec(kind="off"),)


def test_a_list_of_policies_and_of_engines():
    policies = ["off", {"kind": "off"}, {"kind": "fixed", "length": "1e0"}, "goodput", False]
    scenario = scenario_from_mapping({**DRAFTING, "policy": policies, "engine": ["ideal"]})
    assert [p.kind for p in scenario.policies] == ["off", "off", "fixed", "goodput", "off"]
    assert scenario.policies[2].parameters == {"length": 1}


def test_a_policy_may_be_a_class(tmp_path, monkeypatch):
    (tmp_path / "ours.py").write_text("from sdsim.policies.fixed import Fixed as Ours\n")
    monkeypatch.syspath_prepend(tmp_path)
    scenario = scenario_from_mapping({**DRAFTING, "policy": {"kind": "ours:Ours", "length": 2}})
    assert scenario.resolved()["policy"] == [{"kind": "ours:Ours", "length": 2}]


def test_numbers_may_be_text_everywhere(tmp_path):
    text = """
model: qwen3-30b-a3b
draft: {kind: ngram, available: 4e-1}
gpus: h200
replicas: 1e0
replica: {max_num_seqs: 1e2, memory_fraction: 9e-1}
workload:
  kind: closed
  concurrency: 1e1
  think: 1e0
  limit: 1e3
  lengths: {prompt: 1e2, output: {mean: 1e2, sigma: 5e-1}}
  classes: {chat: {share: 1e0}}
acceptance: {kind: mixture, auc: 7e-1, classes: {chat: {weight: 1e0, rate: 8e-1, spread: 1e-1}}}
routing: {kind: correlated, within: 7e-1}
policy: {kind: goodput, lengths: [0, 1e0, 3], margin: 12e-1}
slo: {tpot: 5e-2}
until: 1e3
seed: 1e3
seeds: 2e0
feedback_lag: 2e0
warmup: 1e1
block_size: 32e0
"""
    scenario = load(tmp_path, text)
    assert (scenario.draft.available, scenario.replicas, scenario.replica.max_num_seqs) == (0.4, 1, 100)
    assert (scenario.workload.concurrency, scenario.workload.limit) == (10, 1000)
    assert float(scenario.workload.lengths.output) == 100
    assert (scenario.workload.lengths.prompt_sigma, scenario.workload.lengths.output_sigma) == (0, 0.5)
    assert scenario.policies[0].parameters == {"lengths": [0, 1, 3], "margin": 1.2}
    assert (scenario.slo.tpot, scenario.until, scenario.seed, scenario.seeds) == (0.05, 1000, 1000, 2)
    assert (scenario.feedback_lag, scenario.warmup, scenario.block_size) == (2, 10, 32)
    assert scenario_from_mapping(scenario.resolved()) == scenario


def test_paths_start_from_the_scenario_s_folder(tmp_path, monkeypatch):
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (tmp_path / "x.csv").write_text("")
    config = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64}
    config |= {"vocab_size": 100, "max_position_embeddings": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (folder / "slow.json").write_text('{"schema": 2, "name": "slow"}')
    trace = "workload: {kind: trace, format: azure, path: ../x.csv}"
    scenario = load(folder, f"model: ../config.json\ngpus: h200\nengine: [slow.json, ideal]\n{trace}\n")
    assert scenario.workload.path == tmp_path / "x.csv"
    assert scenario.model == str(tmp_path / "config.json")
    assert scenario.engines == (str(folder / "slow.json"), "ideal")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load(elsewhere, yaml.safe_dump(scenario.resolved())) == scenario


def test_paths_start_from_the_working_directory_where_the_folder_has_none(tmp_path, monkeypatch):
    """What --set names is where the shell completes it; the scenario's own folder goes first."""
    folder, here = tmp_path / "scenarios", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    text = "model: qwen3-30b-a3b\ngpus: h200\nworkload: {kind: trace, format: azure, path: x.csv}\n"
    calibration = sorted(Path(str(resources.files("sdsim") / "data/calibrations")).glob("h200*.json"))[0]
    for name, content in (("x.csv", ""), ("mine.json", calibration.read_text())):
        (here / name).write_text(content)
    (here / "slow.json").write_text('{"schema": 2, "name": "slow"}')
    (folder / "s.yaml").write_text(text)
    found = load_scenario(folder / "s.yaml", ["calibration=mine.json", "engine=slow.json"])
    assert found.workload.path == here / "x.csv"
    assert (found.calibration, found.engines) == (str(here / "mine.json"), (str(here / "slow.json"),))
    (folder / "x.csv").write_text("")
    assert load_scenario(folder / "s.yaml").workload.path == folder / "x.csv"
    with pytest.raises(ScenarioError, match=r"no trace at 'y.csv'; .* or the working directory"):
        load_scenario(folder / "s.yaml", ["workload.path=y.csv"])


def test_a_servegen_trace_may_be_a_folder_and_others_not(tmp_path):
    servegen = {"kind": "trace", "format": "servegen", "path": str(tmp_path), "lengths": "azure-conv"}
    scenario = scenario_from_mapping({**LEAST, "workload": servegen})
    assert scenario.workload.path == tmp_path
    with pytest.raises(ScenarioError, match=r"workload\.path: no trace at .*\n.*workload\.lengths: .* servegen only"):
        scenario_from_mapping({**LEAST, "workload": {**servegen, "format": "azure"}})


def test_several_gpus():
    scenario = scenario_from_mapping(
        {**LEAST, "gpus": "8 x H100", "replica": {"tensor_parallel": 2, "expert_parallel": 8}}
    )
    assert (scenario.gpus.count, scenario.gpus.name) == (8, "h100")


def test_a_scenario_is_frozen_comparable_and_can_be_sent_to_a_worker():
    scenario = scenario_from_mapping(DRAFTING, name="one")
    with pytest.raises(ValidationError):
        scenario.seed = 3  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(scenario))
    assert again == scenario
    assert (again.name, again.folder) == (scenario.name, scenario.folder)
    changed = scenario.model_copy(update={"seed": 3})
    assert changed != scenario
    assert changed.name == "one"


def test_the_mapping_given_is_left_alone(tmp_path):
    mapping = {**DRAFTING, "policy": [{"kind": "fixed", "length": 3}]}
    before = copy.deepcopy(mapping)
    scenario_from_mapping(mapping, tmp_path)
    assert mapping == before


TIMES = st.one_of(st.floats(1e-6, 1e6), st.integers(1, 10**6), st.integers(1, 999).map("{}ms".format), st.just("5min"))
RATES = st.one_of(
    st.floats(1e-6, 1e6), st.integers(1, 999).map("{}/s".format), st.sampled_from(["80/min", "5/h", "1e2"])
)
NUMBERS = st.floats(1e-3, 1e6)
COUNTS = st.one_of(st.integers(1, 10**9), st.sampled_from(["1e3", 5.0]))
SHARES = st.floats(0.01, 1)
NAMES = st.one_of(
    st.text(min_size=1, max_size=9), st.sampled_from(["off", "1e3", "1", "null", "a b", "é", "#"])
).filter(lambda name: name.strip() and name.isprintable())
TOKENS = st.one_of(COUNTS, st.fixed_dictionaries({"mean": NUMBERS, "sigma": st.floats(0, 3)}))
LENGTHS = st.one_of(
    st.sampled_from(["azure-conv", "azure-code"]), st.fixed_dictionaries({"prompt": TOKENS, "output": TOKENS})
)
CLASS = st.fixed_dictionaries({"share": NUMBERS}, optional={"lengths": LENGTHS})


def workload(kind: str, **keys: st.SearchStrategy) -> st.SearchStrategy:
    required = {"kind": st.just(kind), "lengths": LENGTHS, "limit": COUNTS, **keys}
    return st.fixed_dictionaries(required, optional={"classes": st.dictionaries(NAMES, CLASS, max_size=2)})


WORKLOADS = st.one_of(
    workload("poisson", rate=RATES),
    workload("bursty", rate=RATES, peak=RATES, period=TIMES, duty=st.floats(0.01, 0.99)),
    workload("mmpp", rate=RATES, peak=RATES, mean_low=TIMES, mean_high=TIMES),
    workload("diurnal", rate=st.one_of(RATES, st.just("0/s")), peak=RATES),
    workload("closed", concurrency=COUNTS, think=TIMES),
)
ACCEPTANCES = st.one_of(
    st.fixed_dictionaries({"kind": st.just("iid"), "rate": st.floats(0, 1)}),
    st.fixed_dictionaries(
        {
            "kind": st.just("positions"),
            "rates": st.lists(st.floats(0, 1), min_size=1, max_size=8).map(lambda r: sorted(r, reverse=True)),
        }
    ),
    st.just({"kind": "profile", "name": "qwen3.5-397b-mtp"}),
    st.just({"kind": "mixture", "classes": {"a": {"rate": 0.9, "weight": 2}, "b": {"rate": "3e-1", "spread": 0.1}}}),
)
POLICIES = st.sampled_from(
    ["off", False, "goodput", {"kind": "fixed", "length": 3}, {"kind": "moesd"}, {"kind": False}]
)
SCENARIOS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", "mixtral-8x7b"]),
        "gpus": st.sampled_from(["1 x h200", "H200"]),
        "draft": st.sampled_from(
            ["mtp", {"kind": "ngram", "available": 0.4}, {"kind": "model", "model": "qwen3-0.6b"}]
        ),
        "workload": WORKLOADS,
        "acceptance": ACCEPTANCES,
    },
    optional={
        "policy": st.one_of(POLICIES, st.lists(POLICIES, min_size=1, max_size=3)),
        "routing": st.sampled_from(
            ["uniform", {"kind": "correlated", "within": 0.7}, {"kind": "skewed", "alpha": 1.2}]
        ),
        "slo": st.dictionaries(st.sampled_from(["ttft", "tpot", "e2e"]), TIMES),
        "until": TIMES,
        "warmup": TIMES,
        "seed": st.integers(0, 2**63 - 1),
        "seeds": st.integers(1, 9),
        "replica": st.fixed_dictionaries({}, optional={"max_num_seqs": COUNTS, "memory_fraction": SHARES}),
        "router": st.sampled_from(["round_robin", "least_loaded", "shortest_queue"]),
        "feedback_lag": st.integers(0, 9),
        "block_size": COUNTS,
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SCENARIOS)
def test_the_resolved_form_loads_to_an_equal_scenario(tmp_path, mapping):
    scenario = scenario_from_mapping(mapping)
    resolved = scenario.resolved()
    text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)
    assert load(tmp_path, text) == scenario
    assert scenario_from_mapping(resolved).resolved() == resolved
    assert load(tmp_path, yaml.safe_dump(mapping)) == scenario
    json.dumps(resolved, allow_nan=False)


MESS = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.sampled_from(["off", "iid"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["kind", "rate", "lengths", "model", "classes"]), st.integers()), inner
        ),
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from([*Scenario.model_json_schema()["properties"], "x", 1, None]), MESS), st.booleans()
)
def test_any_mess_is_a_scenario_error(mess, on_top):
    with pytest.raises(ScenarioError) as error:
        scenario_from_mapping({**(DRAFTING if on_top else {}), **mess, "polcy": 3})
    assert "unknown key 'polcy'" in str(error.value)
    for line in error.value.problems:
        assert line.startswith("scenario: ")
        assert len(line.splitlines()) == 1
