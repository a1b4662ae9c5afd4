"""Explanations: a replay is the run, its prices are the run's, and a request's life adds up to its record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdsim.errors import ScenarioError, SdsimError
from sdsim.explain import main
from sdsim.explanation import explain_request, explain_step
from sdsim.replay import Step, replay
from sdsim.result import Result
from sdsim.run_folder import read_run
from sdsim.simulation import make_system
from tests.recorded_runs import record

MINE = '''
"""A policy of one's own, in a module of its own."""
from sdsim.policy import Plan


class Cautious:
    """Draft three tokens while few requests run."""

    lengths = (0, 3)
    label = "cautious"

    def plan(self, observation, /):
        return Plan(3) if observation.batch <= 4 else Plan(0, drafter="warm")

    def learn(self, outcome, /):
        pass
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("explain"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Result:
    return read_run(folder)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return read_run(record(tmp_path_factory.mktemp("explain"), "--set", "until=1.5s"))


def rows(run: Result) -> list[dict[str, float]]:
    return [
        dict(zip(run.steps, row, strict=True)) for row in zip(*(v.tolist() for v in run.steps.values()), strict=True)
    ]


@pytest.mark.parametrize("policy", ["goodput", "off", "{kind: fixed, length: 2}"])
def test_a_replay_takes_the_recorded_steps(policy: str, tmp_path: Path) -> None:
    run = read_run(record(tmp_path, "--policy", policy))
    seen: dict[tuple[int, int], tuple[float, ...]] = {}

    def visit(step: Step) -> bool:
        shape, at = step.shape, step.observation
        seen[step.replica, at.step] = (at.now, step.seconds, shape.rows, shape.verify_tokens, shape.prefill_tokens)
        assert len(at.request_ids) == shape.rows
        return False

    replay(run, visit)
    keys = ("start_s", "seconds", "rows", "verify_tokens", "prefill_tokens")
    assert seen == {(r["replica"], r["step"]): tuple(r[k] for k in keys) for r in rows(run)}


def test_a_replay_ends_when_it_has_seen_enough(run: Result) -> None:
    seen = []

    def visit(step: Step) -> bool:
        seen.append(step.observation.step)
        return len(seen) == 5

    replay(run, visit)
    assert len(seen) == 5


def steady_steps(run: Result) -> list[dict[str, float]]:
    """Return decode steps without prompts whose rows verify as many drafts as they then draft."""
    found = [
        r
        for r in rows(run)
        if r["rows"] and not r["prefill_tokens"] and r["verify_tokens"] == r["rows"] * (1 + r["draft_length"])
    ]
    assert len(found) > 20
    return found[:: len(found) // 8]


def test_the_chosen_lengths_price_is_the_steps_own(run: Result) -> None:
    for step in steady_steps(run):
        found = explain_step(run, int(step["replica"]), int(step["step"]))
        (chosen,) = (row for row in found.lengths if row["chosen"])
        assert chosen["draft_length"] == step["draft_length"] == found.chose["draft_length"]
        assert chosen["step_s"] == pytest.approx(step["seconds"], rel=1e-9)
        assert found.happened["emitted_tokens"] == step["emitted_tokens"]


def test_every_length_is_priced_as_policies_are(run: Result) -> None:
    prices = make_system(run.scenario).prices
    step = steady_steps(run)[2]
    found = explain_step(run, int(step["replica"]), int(step["step"]))
    batch, context, rate = (found.saw[k] for k in ("batch", "context_mean_tokens", "believed_acceptance"))
    assert [row["draft_length"] for row in found.lengths] == [0, 1, 2, 3, 4, None]
    base = next(row["tokens_per_s"] for row in found.lengths if row["chosen"])
    for row in found.lengths:
        k = row["draft_length"]
        seconds = prices.off_seconds(batch, context) if k is None else prices.step_seconds(batch, k, context)
        tokens = sum(rate**j for j in range((k or 0) + 1))
        assert row["step_s"] == pytest.approx(seconds, rel=1e-9)
        assert row["tokens_per_row"] == pytest.approx(tokens)
        assert row["tokens_per_s"] == pytest.approx(batch * tokens / seconds)
        assert row["gain"] == pytest.approx(row["tokens_per_s"] / base - 1)


def test_goodput_chooses_the_best_of_the_table_where_no_prompt_runs_beside(run: Result) -> None:
    best = 0
    for step in steady_steps(run):
        found = explain_step(run, int(step["replica"]), int(step["step"]))
        may = [row for row in found.lengths if row["draft_length"] is not None]
        best += max(may, key=lambda row: row["tokens_per_s"])["chosen"]
        assert found.saw["believed_from"] == "the policy's own estimate"
    assert best >= len(steady_steps(run)) - 2  # it prices contexts in buckets, and asks for 10% over K = 0


def test_a_prompt_and_a_first_step_are_explained(run: Result) -> None:
    found = explain_step(run, 0, 0)
    assert found.saw["batch"] == 0
    assert found.saw["context_mean_tokens"] is None
    assert found.lengths or "nothing to draft for" in found.why[0]
    beside = next(r for r in rows(run) if r["rows"] and r["prefill_tokens"])
    said = explain_step(run, int(beside["replica"]), int(beside["step"])).why
    assert any(f"{beside['prefill_tokens']:,.0f} prompt tokens share the step" in text for text in said)


def test_policies_without_an_estimate_are_judged_by_what_they_were_told(tmp_path: Path) -> None:
    words = ("--policy", "{kind: fixed, length: 3}", "--set", "acceptance={kind: iid, rate: 0.8}")
    fixed = read_run(record(tmp_path, *words))
    last = max(rows(fixed), key=lambda r: (r["replica"] == 0, r["step"]))
    found = explain_step(fixed, 0, int(last["step"]))
    assert found.law == "Draft length tokens a row, always. (length 3)"
    assert "keeps no rate of its own" in found.saw["believed_from"]
    assert found.saw["believed_acceptance"] == pytest.approx(0.8, abs=0.03)


def test_a_policy_within_a_policy_is_asked_too(tmp_path: Path) -> None:
    wrapped = "{kind: hysteresis, inner: {kind: goodput}}"
    found = explain_step(read_run(record(tmp_path, "--policy", wrapped)), 0, 40)
    assert found.saw["believed_from"] == "the policy's own estimate"


def test_off_has_nothing_to_choose_from(tmp_path: Path) -> None:
    off = read_run(record(tmp_path, "--policy", "off"))
    found = explain_step(off, 0, 20)
    assert [(row["draft_length"], row["chosen"]) for row in found.lengths] == [(None, True)]
    assert found.why[0] == "OFF is all that it may choose."


def test_every_life_adds_up_to_its_record(run: Result) -> None:
    assert run.summary["preemptions"] > 5
    for i in range(0, 80, 4):
        record_ = {name: values[i] for name, values in run.requests.items()}
        life = explain_request(run, int(record_["request_id"]))
        events = [e["event"] for e in life.events]
        assert events.count("preempted") == record_["preemptions"]
        assert events.count("admitted") == 1 + record_["preemptions"]
        ends = emissions(life.events, life.prompt_tokens)
        assert sum(t.emitted for t in life.turns) + ends == record_["output_tokens"]
        assert life.turns[-1].start_s + life.turns[-1].seconds == record_["finish_s"]
        assert life.drafts["won"] + life.drafts["lost"] == life.drafts["verified"]
        times = [e["at_s"] for e in life.events]
        assert times == sorted(times)
        parts = (life.times[k] for k in ("waiting_s", "prefill_s", "decoding_s"))
        assert sum(parts) == pytest.approx(life.times["e2e_s"])


def emissions(events: list[dict[str, Any]], prompt: int) -> int:
    """Return the prompts that ended: chunks before which no other of the same admission is to come."""
    chunks = [e for e in events if e["event"] in ("admitted", "prefill", "preempted")]
    ended = 0
    for this, following in zip(chunks, [*chunks[1:], None], strict=True):
        if this["event"] == "prefill" and (following is None or following["event"] != "prefill"):
            ended += this["stored"] + this["tokens"] >= prompt
    return ended


def test_drafts_of_all_requests_are_those_of_all_steps(tmp_path: Path) -> None:
    run = read_run(record(tmp_path, "--set", "workload.limit=15"))
    lives = [explain_request(run, i) for i in range(15)]
    assert sum(life.drafts["won"] for life in lives) == run.steps["accepted_tokens"].sum()
    assert sum(life.drafts["verified"] for life in lives) == (run.steps["verify_tokens"] - run.steps["rows"]).sum()
    assert sum(life.drafts["steps"] for life in lives) == run.steps["rows"].sum()


def test_unfinished_requests_are_told_as_far_as_they_got(unfinished: Result) -> None:
    waiting = np.isnan(unfinished.requests["first_token_s"])
    running = np.isnan(unfinished.requests["finish_s"]) & ~waiting
    assert waiting.any()
    assert running.any()
    for i in (*np.flatnonzero(waiting)[:3], *np.flatnonzero(running)[:3]):
        life = explain_request(unfinished, int(unfinished.requests["request_id"][i]))
        assert life.times["e2e_s"] is None
        assert len(life.turns) == unfinished.requests["verify_steps"][i]
        json.dumps(life.json(), allow_nan=False)


def test_policies_of_ones_own_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_policy.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    folder = record(tmp_path, "--policy", "own_policy:Cautious")
    with pytest.raises(ScenarioError, match=r"own_policy:Cautious', whose module .* allowed with --allow-code"):
        main([str(folder), "--step", "40", "--replica", "1"])
    assert main([str(folder), "--step", "40", "--replica", "1", "--allow-code"]) == 0
    assert "Draft three tokens while few requests run." in capsys.readouterr().out


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--step", "30", "--json"]) == 0
    step = json.loads(capsys.readouterr().out)
    assert (step["replica"], step["step"], step["policy"]) == (0, 30, "goodput")
    assert main([str(folder), "--request", "5", "--json"]) == 0
    life = json.loads(capsys.readouterr().out)
    assert life["request"] == 5
    assert set(life["turns"][0]) >= {"step", "seconds", "verified", "accepted", "emitted"}


def test_text_shows_the_table_and_the_life(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--step", "30"]) == 0
    text = capsys.readouterr().out
    assert "Step 30 of replica 0" in text
    assert all(f"K = {k}" in text for k in range(5))
    assert text.count(" * ") == 1
    assert main([str(folder), "--request", "5"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("arrived", "admitted", "prefill of", "first token", "finished", "drafts won"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "99999"], r"--step: found 99999; allowed: 0 to \d+, the steps of replica 0"),
        (["--step", "-1"], "--step: found -1; allowed: 0 to"),
        (["--step", "1", "--replica", "2"], "--replica: found 2; allowed: 0 to 1"),
        (["--request", "80"], "--request: found 80; allowed: 0 to 79, those that arrived"),
        (["--request", "1", "--replica", "0"], "--replica: not allowed with --request"),
    ],
)
def test_what_does_not_exist_is_said(folder: Path, words: list[str], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        main([str(folder), *words])


def test_a_folder_without_one_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no such folder"):
        main([str(tmp_path / "nothing"), "--step", "1"])
    with pytest.raises(ScenarioError, match="holds no run"):
        main([str(tmp_path), "--step", "1"])
    two = record(tmp_path, "--policy", "off", "--policy", "goodput", "--set", "workload.limit=5")
    with pytest.raises(ScenarioError, match=r"holds 2 runs; allowed: one; name its folder, such as .*off"):
        main([str(two), "--step", "1"])


def test_a_record_that_is_not_the_replays_is_refused(run: Result) -> None:
    steps = {name: values.copy() for name, values in run.steps.items()}
    steps["seconds"] *= 1.01
    with pytest.raises(SdsimError, match="does not give what was recorded"):
        explain_step(replace(run, steps=steps), 0, 10)
    requests = {name: values.copy() for name, values in run.requests.items()}
    requests["verify_steps"] += 1
    with pytest.raises(SdsimError, match="request 3: running the scenario again does not give"):
        explain_request(replace(run, requests=requests), 3)


def test_a_run_whose_host_works_ahead_is_explained(tmp_path: Path) -> None:
    """Its steps are timed one after another, and a replay sees them as they were."""
    words = ("--set", "draft=eagle3", "--set", "engine=vllm-0.22.1", "--policy", "{kind: fixed, length: 2}")
    words += ("--set", "replica.memory_fraction=0.436")  # the engine takes memory for itself
    result = read_run(record(tmp_path, *words))
    found = explain_step(result, 0, 20)
    assert found.happened["seconds"] == result.steps["seconds"][(result.steps["replica"] == 0).nonzero()[0][20]]


def test_steps_after_a_failure_are_their_replicas_and_a_request_that_moved_is_not_followed(tmp_path: Path) -> None:
    """The step that a failure ends leaves no record, and its number is taken by the next one."""
    words = ("--set", "failures=[{replica: 0, at: 300ms, for: 100ms}]", "--set", "workload.rate=60/s")
    result = read_run(record(tmp_path, *words))
    steps, requests = result.steps, result.requests
    mine = np.flatnonzero(steps["replica"] == 0)
    after = mine[steps["start_s"][mine] > 0.4]
    assert len(after)
    for row in (after[0], after[-1]):
        found = explain_step(result, 0, int(steps["step"][row]))
        assert found.happened["seconds"] == steps["seconds"][row]
    moved = requests["request_id"][(requests["preemptions"] > 0) & (requests["replica"] == 1)]
    assert len(moved)
    with pytest.raises(ScenarioError, match=f"request {moved[0]:.0f}: it was on more than one replica"):
        explain_request(result, int(moved[0]))
