"""What a wrong scenario is answered with: every mistake at once, where it stands, and what to do."""

from __future__ import annotations

import pytest

from sdsim.errors import ScenarioError
from sdsim.scenario import load_scenario, scenario_from_mapping
from tests.scenario_texts import GOOD, WORKLOAD, load, mistakes, without


def test_the_good_one_is_good(tmp_path):
    load(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("text", "start", "said"),
    [
        (GOOD + "polcy: 3\n", "x.yaml:10: polcy: unknown key 'polcy'; known: ", "; did you mean policy?"),
        (GOOD.replace("qwen3-30b-a3b", "qwen9"), "x.yaml:1: model: unknown model 'qwen9'; known: ", "config.json"),
        (GOOD.replace("qwen3-30b-a3b", '"qwen3\\n"'), "x.yaml:1: model: found 'qwen3\\n'; ", "on one line"),
        (GOOD.replace("12/s", "12 bananas"), "x.yaml:4: workload.rate: found '12 bananas'; ", "such as 12/s"),
        (GOOD.replace("12/s", "-12/s"), "x.yaml:4: workload.rate: found '-12/s'; ", "0 or more"),
        (GOOD.replace("0.8", ".nan"), "x.yaml:5: acceptance.rate: found NaN; ", "from 0 to 1"),
        (GOOD.replace("0.8", "2"), "x.yaml:5: acceptance.rate: found 2; ", "from 0 to 1"),
        (GOOD.replace("1 x h200", "1 x h999"), "x.yaml:3: gpus: unknown GPU 'h999'; known: ", "h200"),
        (GOOD + "  - : [\n", "x.yaml:10: not readable as YAML: ", "mend"),
        ("", "x.yaml:1: nothing in it; ", "model, gpus and workload"),
        ("# a comment\n", "x.yaml:1: nothing in it; ", "model, gpus and workload"),
        ("- 1\n- 2\n", "x.yaml:1: found [1, 2]; ", "a mapping"),
        ("12\n", "x.yaml:1: found 12; ", "a mapping"),
        (
            GOOD.replace(WORKLOAD, "{kind: trace, format: azure, path: nowhere.csv}"),
            "x.yaml:4: workload.path: ",
            "'nowhere.csv'",
        ),
        (GOOD.replace("bursty", "burst"), "x.yaml:4: workload.kind: unknown workload kind 'burst'", "mean bursty?"),
        (GOOD.replace("kind: bursty, ", ""), "x.yaml:4: workload: found {", "kind is one of bursty"),
        (GOOD.replace(WORKLOAD, "3"), "x.yaml:4: workload: found 3; ", "kind is one of bursty"),
        (without("model"), "x.yaml:1: model: missing; ", "model, gpus, workload"),
        (without("acceptance"), "x.yaml:1: acceptance: missing; ", "a policy drafts"),
        (without("draft"), "x.yaml:5: policy: found 'fixed' without a draft; ", "draft: eagle3"),
        (without("until"), "x.yaml:4: workload: found kind bursty, which never ends; ", "limit"),
        (GOOD.replace("1 x", "8 x"), "x.yaml:3: gpus: found 8 x h200; ", "replica.tensor_parallel to 8"),
        (GOOD.replace("qwen2-0.5b", "qwen2"), "x.yaml:2: draft.model: unknown draft model 'qwen2'", "config.json"),
        (GOOD.replace(", model: qwen2-0.5b", ""), "x.yaml:2: draft.model: missing; ", "kind model"),
        (GOOD.replace("kind: model", "kind: mtp"), "x.yaml:2: draft.model: found 'qwen2-0.5b'; ", "remove it"),
        (GOOD.replace("qwen2-0.5b}", "qwen2-0.5b, available: 0.4}"), "x.yaml:2: draft.available: found 0.4; ", "ngram"),
        (GOOD.replace("length: 3", "length: 99"), "x.yaml:6: policy: policy fixed: ", "99"),
        (GOOD.replace("fixed", "fxed"), "x.yaml:6: policy: unknown policy 'fxed'", "did you mean fixed?"),
        (GOOD.replace("kind: fixed, ", ""), "x.yaml:6: policy.kind: missing; ", "kind"),
        (GOOD.replace("{kind: fixed, length: 3}", "[]"), "x.yaml:6: policy: found []; ", "one entry or more"),
        (GOOD.replace("{kind: fixed, length: 3}", "[off, 4]"), "x.yaml:6: policy.1: found 4; ", "a mapping"),
        (GOOD.replace("length: 3", "length: .inf"), "x.yaml:6: policy: found infinity; ", "finite"),
        (
            GOOD.replace("azure-conv", "azure"),
            "x.yaml:4: workload.lengths: unknown length table 'azure'; ",
            "prompt: 500",
        ),
        (GOOD.replace("azure-conv", "{prompt: 3}"), "x.yaml:4: workload.lengths.output: missing; ", "prompt, output"),
        (GOOD + "engine: vlm\n", "x.yaml:10: engine: unknown engine 'vlm'; ", "ideal"),
        (GOOD + "router: fastest\n", "x.yaml:10: router.kind: unknown router 'fastest'; ", "round_robin"),
        (
            GOOD.replace("iid, rate: 0.8", "profile, name: x"),
            "x.yaml:5: acceptance.name: unknown acceptance profile 'x'",
            "mtp",
        ),
        (
            GOOD.replace("iid, rate: 0.8", "positions, rates: [0.5, 0.6]"),
            "x.yaml:5: acceptance.rates: found 0.6",
            "never rise",
        ),
        (
            GOOD.replace("rate: 0.8", "rate: 0.8, auc: 0.3"),
            "x.yaml:5: acceptance.auc: found 0.3; ",
            "from 0.5, below 1",
        ),
        (
            GOOD.replace("iid, rate: 0.8", "mixture, classes: {chat: {rate: 0.5, spread: 0.6}}"),
            "x.yaml:5: acceptance.classes.chat.spread: 0.6 is too wide",
            "below 0.5",
        ),
        (GOOD.replace("seed: 7", "seed: 1.5"), "x.yaml:9: seed: found 1.5; ", "a whole number from 0"),
        (GOOD.replace("60s", "2024-13-45"), "x.yaml:8: until: found '2024-13-45'; ", "a time over 0"),
    ],
)
def test_one_mistake_is_one_short_line(tmp_path, text, start, said):
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(start)
    assert said in line
    assert len(line) < 400


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path):
    text = """modle: qwen3-30b-a3b
draft: {kind: modle}
gpus: 1 x h999
replica:
  tensor_paralel: 2
  max_num_seqs: none
workload:
  kind: poisson
  rate: 12 bananas

  lengths: {prompt: {mean: 3}, output: 5, outptu: 5}
  classes:
    chat: {share: 0}
policy:
- off
- {kind: fixed, length: 99}
slo: {tpo: 3, ttft: -2s}
seed: -1
seed: -2
"""
    expected = [
        ("1: model", "missing"),
        ("1: modle", "did you mean model?"),
        ("2: draft.kind", "did you mean model?"),
        ("3: gpus", "h999"),
        ("5: replica.tensor_paralel", "did you mean tensor_parallel?"),
        ("6: replica.max_num_seqs", "'none'"),
        ("9: workload.rate", "bananas"),
        ("11: workload.lengths.prompt.sigma", "missing"),
        ("11: workload.lengths.outptu", "did you mean output?"),
        ("13: workload.classes.chat.share", "over 0"),
        ("16: policy.1", "99"),
        ("17: slo.tpo", "did you mean tpot?"),
        ("17: slo.ttft", "'-2s'"),
        ("19: seed", "written again, first in line 18"),
        ("19: seed", "-2"),
    ]
    found = mistakes(tmp_path, text)
    assert len(found) == len(expected)
    for line, said in expected:
        assert any(m.startswith(f"x.yaml:{line}: ") and said in m for m in found), (line, found)
    numbers = [int(m.split(":")[1]) for m in found]
    assert numbers == sorted(numbers)


def test_a_rule_between_keys_waits_for_those_keys_only(tmp_path):
    found = mistakes(tmp_path, without("acceptance").replace("60s", "soon").replace("1 x h200", "2 x h200"))
    assert [line.split(": ")[1] for line in found] == ["acceptance", "gpus", "until"]


def test_long_and_many_lined_values_stay_short(tmp_path):
    found = mistakes(tmp_path, GOOD.replace("qwen3-30b-a3b", "x" * 10**5) + f'? "{"a" * 9999}"\n: 3\n"b\\nc": 3\n')
    assert [line.split(": ")[0] for line in found] == ["x.yaml:1", "x.yaml:10", "x.yaml:12"]
    assert max(map(len, found)) < 500


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b", "n" * 5000, "x.yaml/y.yaml"])
def test_a_file_that_cannot_be_read(tmp_path, name):
    (tmp_path / "x.yaml").write_text(GOOD)
    with pytest.raises(ScenarioError, match="a scenario file is needed; check the path"):
        load_scenario(tmp_path / name)


def test_a_mapping_s_mistakes_carry_its_name():
    with pytest.raises(ScenarioError, match=r"^mine: gpus: missing; .*\nmine: workload\.lengths: missing; "):
        scenario_from_mapping({"model": "mixtral-8x7b", "workload": {"kind": "poisson", "rate": 3}}, name="mine")
    endless: dict[str, object] = {"kind": "goodput"}
    endless["lengths"] = endless
    with pytest.raises(ScenarioError, match="nested too deeply"):
        scenario_from_mapping({"policy": endless})
