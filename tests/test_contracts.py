"""What others build on, tried as they would write it: spellings of options, scenarios, policies, traces, names."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sdsim
from sdsim.predict import main as predict
from sdsim.run import main as run
from sdsim.testing import check_policy

SMALL = """model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
workload: {kind: poisson, rate: 20/s, limit: 30, lengths: {prompt: 300, output: 20}}
acceptance: {kind: iid, rate: 0.8}
policy: {kind: fixed, length: 3}
slo: {ttft: 2s, tpot: 50ms}
seed: 7
"""
MINE = """from sdsim.policy import Plan


class Mine:
    def __init__(self, length=2):
        self.length = length

    def plan(self, observation, /):
        return Plan(self.length)

    def learn(self, outcome, /):
        pass
"""
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with small.yaml and mine.py, the current one."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    Path("mine.py").write_text(MINE)
    return "small.yaml"


def scenario(**changes):
    return sdsim.scenario_from_mapping(yaml.safe_load(SMALL) | changes)


def answer(command, capsys, *words):
    code = command([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


ORDERS = {
    "one --set, several changes": ["small.yaml", "--set", "seed=3", "slo.tpot=40ms", "policy.length=2"],
    "changes before the file": ["--set", "seed=3", "slo.tpot=40ms", "--set", "policy.length=2", "small.yaml"],
    "a --set for each": [
        "--set",
        "seed=3",
        "small.yaml",
        "--set",
        "slo.tpot=40ms",
        "--set",
        "policy={kind: fixed, length: 2}",
    ],
}


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_changes_may_follow_one_set_or_have_one_each(order, small, capsys):
    code, found = answer(run, capsys, *ORDERS[order])
    assert (code, found["seed"], found["policy"]) == (0, 3, "fixed-2")


@pytest.mark.parametrize("words", [["--require-slo", "small.yaml"], ["small.yaml", "--require-slo"]])
def test_require_slo_takes_no_value(words, small, capsys):
    assert answer(run, capsys, *words)[0] == 0
    assert answer(run, capsys, *words, "--set", "slo.ttft=1us")[0] == 3
    assert answer(run, capsys, *words, "--set", "slo.ttft=1us", "--slo-attainment", "0")[0] == 0


POLICIES = {
    "mine:Mine": "mine:Mine",
    "mine.py:Mine": "mine.py:Mine",
    "./mine.py:Mine": "mine.py:Mine",
    "fixed-2": "fixed-2",
}


@pytest.mark.parametrize("word", sorted(POLICIES))
def test_a_policy_is_named_by_module_file_or_label(word, small, capsys, monkeypatch):
    monkeypatch.syspath_prepend("")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    code, found = answer(run, capsys, small, "--policy", word)
    assert (code, found["policy"], found["speculation"]["mean_draft_length"]) == (0, POLICIES[word], 2)
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def test_the_file_of_a_scenarios_policy_stands_beside_the_scenario(small, monkeypatch, tmp_path):
    Path("named.yaml").write_text(SMALL.replace("{kind: fixed, length: 3}", "{kind: mine.py:Mine, length: 1}"))
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with pytest.raises(sdsim.ScenarioError, match=r"named.yaml:6: policy.*--allow-code"):
        sdsim.load_scenario("../named.yaml")
    found = sdsim.load_scenario("../named.yaml", allow_code=True)
    assert found.resolved()["policy"] == [{"kind": f"{tmp_path}/mine.py:Mine", "length": 1}]
    assert sdsim.simulate(found).policy == "mine.py:Mine"


def test_the_installed_command_finds_modules_of_the_folder_that_it_is_called_in(small):
    code = "import sys; sys.path.remove(''); sys.argv[1:] = ['run', 'small.yaml', '--json', '--policy', 'mine:Mine']\n"
    code += "from sdsim.__main__ import entry; entry()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert json.loads(done.stdout)["policy"] == "mine:Mine", done.stderr


@pytest.mark.parametrize("word", ["nofile.py:Mine", "./mine:Mine", "mine.py:Nobody", ":Mine", "mine:", "mine.py:"])
def test_a_policy_that_cannot_be_loaded_is_an_error_of_one_line(word, small):
    with pytest.raises(
        sdsim.ScenarioError, match=r"policy.0: policy .* cannot be loaded: [^\n]*check the module[^\n]*$"
    ):
        run([small, "--json", "--policy", word])


PLANS = {
    "3": "3; allowed: a Plan",
    "None": "None; allowed: a Plan",
    "Plan(9)": r"draft length 9; allowed: \(0, 1",
    "Plan(0, drafter='off')": "with the drafter off; allowed: on, else 0",
    "Plan(2, drafter='warm')": "to draft 2 with the drafter warm",
    "Plan(0, prefill_budget=-1)": "prefill budget -1; allowed: 0 or more",
    "Plan(0, observation.pending + 1)": "verify lengths .* allowed: 0 to pending",
    "Plan(0, observation.pending * float('nan'))": r"verify lengths .* allowed: \d+ whole numbers",
    "Plan(0, observation.pending * 0.5)": r"verify lengths .* allowed: \d+ whole numbers",
    "Plan(0, observation.pending[:-1])": r"verify lengths .* allowed: \d+ whole numbers",
    "Plan(0, object())": r"verify lengths .* allowed: \d+ whole numbers",
    "Plan(2.0)": r"draft length 2.0; allowed: \(0, 1",
    "Plan([])": r"draft length \[\]; allowed: \(0, 1",
    "Plan(0, prefill_budget='x')": "prefill budget x; allowed: 0 or more",
    "Plan(0, prefill_budget=0.5)": "prefill budget 0.5; allowed: 0 or more",
}


@pytest.mark.parametrize("plan", sorted(PLANS))
def test_an_illegal_plan_is_an_error_at_the_policys_line(plan, small):
    Path("mine.py").write_text(
        MINE.replace(
            "Plan(self.length)", plan if "pending" not in plan else f"{plan} if observation.batch else Plan(0)"
        )
    )
    with pytest.raises(sdsim.PolicyError, match=rf"^small.yaml:6: policy: Mine planned .*{PLANS[plan]}"):
        run([small, "--json", "--policy", "mine.py:Mine"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("words", [["--json"], ["--no-plots", "--out", "ran"]])
def test_a_full_disk_behind_stdout_is_an_error_of_one_line(words, small):
    """What was written besides stays."""
    command = [sys.executable, "-m", "sdsim.run", small, *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert said == ["stdout: cannot be written: [Errno 28] No space left on device; free space where it goes"]
    assert Path("ran/summary.json").exists() == ("--out" in words)


RAISED = {
    "plan": ("{}['lost']", "KeyError: 'lost'"),
    "learn": ("[].index(3)", "ValueError: 3 is not in list"),
    "an end": ("exec('raise SystemExit(0)')", "SystemExit: 0"),
    "a write": ("observation.context_lengths.fill(0)", "ValueError: assignment destination is read-only"),
    "two lines": ("exec('raise RuntimeError(chr(97) + chr(10) + chr(98))')", "RuntimeError: a b"),
}


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_policy_that_raises_on_the_way_is_an_error_of_one_line_and_nothing_is_written(name, jobs, small, capsys):
    """Two seeds, so that two jobs are two processes."""
    code, said = RAISED[name]
    call, argument, line = ("learn", "outcome", "pass") if name == "learn" else ("plan", "observation", "return")
    failing = f"{argument}.step < 9 or {code}\n        {line}"
    Path("mine.py").write_text(MINE.replace(f"        {line}", f"        {failing}"))
    where = "<string>:1" if "exec" in code else r"mine\.py:\d+"
    with pytest.raises(
        sdsim.PolicyError, match=rf"^small.yaml:6: policy: \S+ raised {said}; at {where}, in {call} of step \d+; mend"
    ) as error:
        run([small, "--policy", "mine.py:Mine", "--seeds", "2", "--jobs", str(jobs), "--quiet", "--out", "ran"])
    assert len(error.value.problems) == 1
    assert not Path("ran").exists()


@pytest.mark.parametrize(("text", "said"), [
    ("1 / 0", "cannot be loaded: ZeroDivisionError"),
    ("exit(3)", "cannot be loaded: SystemExit: 3"),
    (MINE.replace("self.length = length", "{}[9]"), "cannot be built: KeyError: 9"),
])  # fmt: skip
def test_a_policy_whose_module_or_constructor_raises_is_an_error_of_one_line(text, said, small):
    Path("mine.py").write_text(text)
    with pytest.raises(sdsim.ScenarioError, match=rf"policy.0: policy \S+mine.py:Mine\S? {said}[^\n]*; mend it$"):
        run([small, "--json", "--policy", "mine.py:Mine"])


@pytest.mark.parametrize("kind", ["goodput", "auto", "moesd", "cascade"])
def test_usual_lengths_end_where_acceptance_is_known(kind):
    """A law of three positions, and a policy that was not told its lengths; lengths that it was told are refused."""
    law = {"kind": "positions", "rates": [0.8, 0.6, 0.4]}
    result = sdsim.simulate(scenario(policy=kind, acceptance=law))
    assert result.steps["draft_length"].max() <= 3
    assert result.scenario.policies[0].parameters["lengths"] == [0, 1, 2, 3]
    assert sdsim.simulate(result.scenario).requests["finish_s"].tolist() == result.requests["finish_s"].tolist()
    with pytest.raises(sdsim.PolicyError, match="drafts up to 4 tokens, but the acceptance law covers 3"):
        sdsim.simulate(scenario(policy={"kind": kind, "lengths": [0, 4]}, acceptance=law))


def test_a_policy_without_lengths_may_draft_what_acceptance_is_known_for(small):
    law = {"kind": "positions", "rates": [0.8, 0.6]}
    assert sdsim.simulate(scenario(acceptance=law), "mine.py:Mine").summary["speculation"]["mean_draft_length"] == 2
    with pytest.raises(sdsim.PolicyError, match=r"draft length 3; allowed: \(0, 1, 2\)"):
        sdsim.simulate(scenario(acceptance=law), {"kind": "mine.py:Mine", "length": 3})


def test_what_drafts_nothing_needs_no_acceptance():
    changes = yaml.safe_load(SMALL)
    del changes["acceptance"]
    warm, off = ({**changes, "policy": policy} for policy in ({"kind": "fixed", "length": 0}, "off"))
    steps = [sdsim.simulate(sdsim.scenario_from_mapping(one)).steps for one in (warm, off)]
    assert steps[0]["seconds"].sum() > steps[1]["seconds"].sum()
    with pytest.raises(sdsim.ScenarioError, match="acceptance: missing; required since a policy drafts"):
        sdsim.scenario_from_mapping({**changes, "policy": ["off", "goodput"]})


def test_simulate_takes_a_policy_as_a_scenario_does():
    by_name, by_mapping = (sdsim.simulate(scenario(), policy) for policy in ("fixed-2", {"kind": "fixed", "length": 2}))
    assert by_name.policy == by_mapping.policy == "fixed-2"
    assert by_name.requests["finish_s"].tolist() == by_mapping.requests["finish_s"].tolist()
    with pytest.raises(sdsim.ScenarioError, match=r"^policy: unknown policy 'godput'.*did you mean goodput\?"):
        sdsim.simulate(scenario(), "godput")


class Luckless:
    """A policy that plans otherwise each time it is asked."""

    def __init__(self):
        self.asked = 0

    def plan(self, observation, /):
        self.asked += 1
        return sdsim.Plan(17)

    def learn(self, outcome, /):
        pass


def test_check_policy_takes_a_maker_or_a_policy():
    policy = Luckless()
    with pytest.raises(AssertionError, match="draft length 17"):
        check_policy(policy)
    assert policy.asked == 0
    check_policy(sdsim.get_policy("fixed", {"length": 2}))


NAMES = [
    ("arrival_s", "prompt_tokens", "output_tokens"),
    ("timestamp", "input_length", "output_length"),
    ("arrival", "prompt", "output"),
]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_plain_trace_may_use_the_words_of_scenarios_and_records(names, zipped, tmp_path):
    rows = [dict(zip(names, (0.5 + 0.25 * i, 100 + i, 10 + i), strict=True)) for i in range(8)]
    text = "".join(json.dumps(row | {"class": "chat"}) + "\n" for row in rows).encode()
    path = tmp_path / ("trace.jsonl.gz" if zipped else "trace.jsonl")
    path.write_bytes(gzip.compress(text) if zipped else text)
    result = sdsim.simulate(scenario(workload={"kind": "trace", "format": "jsonl", "path": str(path), "rate": "4/s"}))
    assert result.requests["prompt_tokens"].tolist() == list(range(100, 108))
    assert result.requests["output_tokens"].tolist() == list(range(10, 18))
    assert result.requests["arrival_s"].tolist() == pytest.approx([2 / 7 * i for i in range(8)], abs=1e-5)


@pytest.mark.parametrize("draft", ["ngram", "{kind: ngram, available: 0.4}", "{kind: model, model: qwen2-0.5b}"])
def test_predict_takes_a_draft_as_a_scenario_does(draft, capsys):
    words = ["--model", "mixtral-8x7b", "--gpu", "h200", "--batch", "8", "--draft-length", "2", "--draft", draft]
    code, found = answer(predict, capsys, *words)
    assert code == 0
    assert (found["rows"][0]["draft_s"] > 0) == ("model" in draft)


def test_a_law_without_its_kind_is_shown_the_plainest():
    with pytest.raises(sdsim.ScenarioError, match=r"acceptance: found 0.8; .*write \{kind: iid, ...\}"):
        scenario(acceptance=0.8)
    with pytest.raises(sdsim.ScenarioError, match=r"workload: found 3; .*write \{kind: poisson, ...\}"):
        scenario(workload=3)


def test_errors_are_public():
    assert {
        sdsim.ScenarioError,
        sdsim.CalibrationError,
        sdsim.CapacityError,
        sdsim.PolicyError,
        sdsim.TraceError,
    } == set(sdsim.SdsimError.__subclasses__())
