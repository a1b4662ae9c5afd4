"""The YAML that is read, and the keys that options set in it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sdsim.errors import ScenarioError
from sdsim.scenario import scenario_from_mapping
from sdsim.scenario.file import MAX_BYTES
from tests.scenario_texts import GOOD, load, mistakes, without


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: &a [1, 1, 1, 1]\n" + "".join(f"{c}: &{c} [{f'*{b}, ' * 9}]\n" for b, c in pairwise("abcdefgh")),
            "over 10,000",
        ),
        ("model: &a [*a]\n", "nested too deeply"),
        ("model: &a {b: *a}\n", "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "{a: " * 3000, "nested too deeply"),
        ("- " * 5000, "nested too deeply"),
        ("model: [" + "1," * 20000 + "]", "over 10,000"),
        ("#" * (MAX_BYTES + 1), "over 1,000,000 bytes"),
        (bytes(range(256)), "not UTF-8 text"),
        (b"model: \x00\n", "control character"),
        (b"\x1f\x8b\x08\x00\x00", "not UTF-8 text"),
        ("model: !!python/object/apply:os.system [ls]\n", "python/object/apply"),
        ("model: !ours x\n", "the tag '!ours'"),
        ("seed: !!int seven\n", "'seven' as int"),
        ("seed: " + "9" * 5000, "as int"),
        ("? [a]\n: 3\n", "a key that is a list"),
        ("{{model}}: 3\n", "a key that is a list"),
        (GOOD + "---\n" + GOOD, "single document"),
        ("a: *b\n", "undefined alias"),
        ("a: 'b\n", "quoted scalar"),
        ("\ta: b\n", "cannot start any token"),
    ],
)
def test_what_is_no_plain_yaml_is_one_clear_line(tmp_path, text, said):
    (line,) = mistakes(tmp_path, text)
    assert line.startswith("x.yaml:")
    assert said in line
    assert len(line) < 400


def test_merge_keys_are_unknown_keys(tmp_path):
    (line,) = mistakes(tmp_path, GOOD.replace("{ttft: 2s,", "{<<: {ttft: 2s},"))
    assert line.startswith("x.yaml:7: slo.<<: unknown key '<<'")


def test_aliases_are_read(tmp_path):
    scenario = load(tmp_path, GOOD.replace("ttft: 2s, tpot: 50ms", "ttft: &t 2s, e2e: *t"))
    assert scenario.slo.ttft == scenario.slo.e2e == 2


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    load(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())


def test_keys_are_text(tmp_path):
    (line,) = mistakes(tmp_path, GOOD + "off: 3\n")
    assert line.startswith("x.yaml:10: off: unknown key 'off'")
    classes = "{chat: {share: 1}, 1: {share: 1}}"
    assert load(tmp_path, GOOD.replace("azure-conv}", f"azure-conv, classes: {classes}}}")).workload.class_names == (
        "chat",
        "1",
    )
    with pytest.raises(ScenarioError, match="scenario: 1: found 1 as a name; allowed: text"):
        scenario_from_mapping({1: 2})


@pytest.mark.parametrize(
    ("override", "attribute", "value"),
    [
        ("workload.rate=20/s", lambda s: s.workload.rate, 20),
        ("policy.length=4", lambda s: s.policies[0].parameters, {"length": 4}),
        ("policy=off", lambda s: s.policies[0].kind, "off"),
        ("policy=[off, {kind: fixed, length: 1}]", lambda s: len(s.policies), 2),
        ("slo.e2e=1min", lambda s: (s.slo.ttft, s.slo.e2e), (2, 60)),
        ("slo=", lambda s: s.slo, None),
        ("seed=1e3", lambda s: s.seed, 1000),
        ("replica.max_num_seqs=64", lambda s: s.replica.max_num_seqs, 64),
        ("workload.lengths={prompt: 5, output: 7}", lambda s: s.workload.lengths.output, 7),
        (" seed = 3 ", lambda s: s.seed, 3),
    ],
)
def test_an_override_replaces_one_key(tmp_path, override, attribute, value):
    assert attribute(load(tmp_path, GOOD, override)) == value


def test_overrides_reach_into_words_and_lists(tmp_path):
    scenario = load(tmp_path, GOOD, "policy=[off, fixed]", "policy.1.length=2", "acceptance=iid", "acceptance.rate=0.5")
    assert [p.parameters for p in scenario.policies] == [{}, {"length": 2}]
    assert scenario.acceptance.rate == 0.5


def test_an_override_leaves_an_alias_s_other_places_alone(tmp_path):
    text = without("policy") + "policy: [&p {kind: fixed, length: 3}, *p]\n"
    scenario = load(tmp_path, text, "policy.0.length=1")
    assert [p.parameters["length"] for p in scenario.policies] == [1, 3]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed", "--set seed: found 'seed'; allowed: key=value; "),
        ("=3", "--set '': found '=3'; allowed: key=value; "),
        ("slo..tpot=3", "--set slo..tpot: found 'slo..tpot=3'; allowed: key=value; "),
        ("polcy.length=3", "--set polcy.length: polcy: unknown key 'polcy'; "),
        ("slo.tpo=3ms", "--set slo.tpo: unknown key 'tpo'; "),
        ("slo.tpot=3 bananas", "--set slo.tpot: found '3 bananas'; "),
        ("slo=3", "--set slo: found 3; allowed: a mapping with keys of ttft, tpot, e2e; "),
        ("slo={tpo: 3}", "--set slo: slo.tpo: unknown key 'tpo'; "),
        ("slo={tpot: 3, tpot: 4}", "--set slo: tpot: written again"),
        ("workload.rate.x=3", "--set workload.rate.x: workload.rate is '12/s', not a mapping; "),
        ("gpus.count=3", "--set gpus.count: gpus is '1 x h200', not a mapping; "),
        ("seed={", "--set seed: not readable as YAML: "),
        ("draft.kind=mtp", "x.yaml:2: draft.model: found 'qwen2-0.5b'; "),
        ("engine=[]", "--set engine: found []; "),
        ("policy=[]", "--set policy: found []; "),
        ("policy=[off, x]", "--set policy: policy.1: unknown policy 'x'; "),
        ("acceptance=positions", "--set acceptance: acceptance.rates: missing; "),
    ],
)
def test_a_bad_override_is_named(tmp_path, override, line):
    (found,) = mistakes(tmp_path, GOOD, override)
    assert found.startswith(line)


def test_an_index_beyond_the_list(tmp_path):
    (found,) = mistakes(tmp_path, GOOD, "policy=[off]", "policy.4.length=3")
    assert found.startswith("--set policy.4.length: policy is a list of 1; allowed: an index below that")


def test_overrides_mend_and_join_the_file_s_mistakes(tmp_path):
    load(tmp_path, GOOD.replace("12/s", "12 bananas"), "workload.rate=12/s")
    found = mistakes(tmp_path, GOOD + "polcy: 3\n", "seed=-1", "until", "seeds=0")
    assert [line.split(": ")[0] for line in found] == ["x.yaml:10", "--set seed", "--set until", "--set seeds"]
