"""Classes of requests: targets of their own, priority, and requests that do not speculate."""

from typing import ClassVar

import numpy as np
import pytest

from sdsim.errors import ScenarioError
from sdsim.pairs import figures
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate
from tests.invariants import run_checked
from tests.test_conservation import conserved

LENGTHS = {"prompt": 400, "output": 60}
BASE = {
    "model": "qwen3-30b-a3b",
    "gpus": "1 x h200",
    "replica": {"max_num_seqs": 8},
    "workload": {
        "kind": "poisson",
        "rate": 40,
        "limit": 200,
        "lengths": LENGTHS,
        "classes": {"chat": {"share": 1}, "batch": {"share": 3}},
    },
    "seed": 1,
}
DRAFTING = {
    "draft": {"kind": "model", "model": "qwen2-0.5b"},
    "policy": {"kind": "fixed", "length": 3},
    "acceptance": {"kind": "iid", "rate": 0.9},
}


def run(blocks=None, **keys):
    result, _ = run_checked(lambda: simulate(scenario_from_mapping(BASE | keys)), blocks)
    conserved(result)
    return result


def of(result, name):
    chosen = result.requests["request_class"] == result.class_names.index(name)
    return {key: column[chosen] for key, column in result.requests.items()}


def waits(result, name):
    mine = of(result, name)
    return (mine["first_token_s"] - mine["arrival_s"]).mean()


@pytest.mark.parametrize("blocks", [None, 140])
def test_priority_goes_first_and_others_still_come(blocks):
    plain, ranked = run(blocks), run(blocks, classes={"chat": {"priority": 1}})
    assert waits(ranked, "chat") < 0.3 * waits(plain, "chat")
    assert waits(ranked, "batch") > waits(plain, "batch")
    assert ranked.summary["requests"]["finished"] == 200


def test_equal_priorities_change_nothing():
    plain, ranked = run(), run(classes={"chat": {"priority": 2}, "batch": {"priority": 2}})
    assert plain.requests["finish_s"].tobytes() == ranked.requests["finish_s"].tobytes()


def test_within_a_priority_first_come_is_first_served():
    ranked = run(classes={"chat": {"priority": 1}})
    for name in ("chat", "batch"):
        mine = of(ranked, name)
        order = np.argsort(mine["arrival_s"])
        assert (np.diff(mine["first_token_s"][order]) >= 0).all()


def test_a_class_that_does_not_speculate_verifies_nothing():
    result = run(**DRAFTING, classes={"batch": {"speculate": False}})
    batch, chat = of(result, "batch"), of(result, "chat")
    assert (batch["verify_steps"] == batch["output_tokens"] - 1).all(), "a token a step after the first"
    assert chat["verify_steps"].mean() < 0.5 * 59
    nobody = run(**DRAFTING, classes={"batch": {"speculate": False}, "chat": {"speculate": False}})
    assert nobody.summary["speculation"]["mean_draft_length"] == 0


def test_others_accept_as_they_did():
    """The coins of the chat requests do not know of the others."""
    both, one = run(**DRAFTING), run(**DRAFTING, classes={"batch": {"speculate": False}})
    found = [r["verify_steps"][np.argsort(r["request_id"])] for r in (of(both, "chat"), of(one, "chat"))]
    assert (found[0] == found[1]).all()


def test_each_class_is_held_to_its_own_targets():
    slo = {"ttft": "10s"}
    every, strict = run(slo=slo), run(slo=slo, classes={"chat": {"slo": {"ttft": "1ms"}}})
    assert every.summary["slo_attainment"] == 1.0
    assert strict.summary["slo_attainment"] == pytest.approx(len(of(strict, "batch")["request_id"]) / 200)
    by_class = figures(strict)
    assert by_class["chat"]["slo_attainment"] == 0.0
    assert by_class["batch"]["slo_attainment"] == 1.0
    alone = run(classes={"chat": {"slo": {"e2e": "1h"}}})
    assert alone.summary["slo_attainment"] == 1.0, "the others have no target to miss"


def test_policies_see_the_slack_of_each_request():
    keys = {"slo": {"tpot": "5ms"}, "classes": {"chat": {"slo": {"tpot": "1s"}}}}
    policy = {"policy": f"{__name__}:Slack"}
    Slack.seen.clear()
    run(**(DRAFTING | policy), **keys)
    slack = np.concatenate(Slack.seen)
    assert (slack > 5).any(), "a second a token"
    assert (slack < 0.3).any()


class Slack:
    """Keeps what it sees."""

    needs = ("slo_slack",)
    lengths = (0, 1)
    label = "slack"
    seen: ClassVar = []

    def plan(self, observation, /):
        from sdsim.policy import Plan

        self.seen.append(observation.slo_slack.copy())
        return Plan(1)

    def learn(self, outcome, /):
        pass


def test_an_unknown_class_is_refused():
    with pytest.raises(ScenarioError, match=r"unknown class 'chatt'.*did you mean chat"):
        scenario_from_mapping(BASE | {"classes": {"chatt": {"priority": 1}}})
