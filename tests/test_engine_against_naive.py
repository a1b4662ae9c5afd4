"""The engine agrees, request by request and step by step, with a naive simulator written from SEMANTICS.md alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdsim.scenario import Scenario, scenario_from_mapping
from tests.awkward_policies import CUSTOM
from tests.both_simulators import agree, run_naive

AWKWARD = "tests.awkward_policies"


def hard(**changes: Any) -> Scenario:
    mapping = {
        "model": "qwen3-30b-a3b",
        "draft": {"kind": "model", "model": "qwen2-0.5b"},
        "gpus": "1 x h200",
        "replica": {"max_num_seqs": 16, "max_num_batched_tokens": 64},
        "workload": {"kind": "poisson", "rate": 500, "limit": 30, "lengths": {"prompt": 150, "output": 40}},
        "acceptance": {"kind": "iid", "rate": 0.7},
        "policy": {"kind": "fixed", "length": 4},
        "seed": 3,
    }
    return scenario_from_mapping(mapping | changes)


SHORT = {"kind": "poisson", "rate": 500, "limit": 30, "lengths": {"prompt": 4, "output": 40}}
NARROW = {"max_num_seqs": 16, "max_num_batched_tokens": 18}


def test_rows_sit_out():
    record = agree(hard(replica=NARROW, workload=SHORT), (500, 500))
    assert record.rules["3.2 row sits out"] > 100


def test_rows_sit_out_and_are_evicted():
    record = agree(hard(replica=NARROW, workload=SHORT, policy=f"{AWKWARD}:Wild"), (12, 20))
    assert record.rules["3.2 row sits out"] > 30
    assert record.evictions > 10


GROWING = {"kind": "poisson", "rate": 5000, "limit": 40, "lengths": {"prompt": 30, "output": 90}}


def test_heavy_eviction():
    record = agree(hard(workload=GROWING), (20, 20))
    assert record.evictions > 30


def test_prompts_wait_for_room_for_themselves():
    """Half of each prompt fits beside those that run; none is begun and then evicted."""
    record = agree(hard(), (18, 18))
    assert record.rules["3.5 blocks lack for the whole alone"] > 10
    assert not record.rules["3.3 half-way request evicted"]


def test_the_same_request_is_evicted_again_and_again():
    workload = {"kind": "poisson", "rate": 5000, "limit": 12, "lengths": {"prompt": 3, "output": 90}}
    record = agree(hard(workload=workload, replica={"max_num_seqs": 12, "max_num_batched_tokens": 80}), (9, 9))
    assert max(r.preemptions for r in record.requests) > 3


@pytest.mark.parametrize("length", [0, 1, 5])
def test_ngram_finds_drafts_only_sometimes(length):
    draft = {"kind": "ngram", "available": 0.5}
    policy = {"kind": "fixed", "length": length}
    agree(hard(draft=draft, policy=policy), (30, 30))
    agree(hard(draft=draft, policy=policy, replica=NARROW, workload=SHORT), (500, 500))


@pytest.mark.parametrize("policy", CUSTOM)
@pytest.mark.parametrize("lag", [0, 3])
def test_custom_policies(policy, lag):
    profile = {"kind": "profile", "name": "minimax-m3-eagle3-no-thinking"}
    for replica in ({"max_num_seqs": 16, "max_num_batched_tokens": 300}, NARROW):
        agree(hard(policy=policy, feedback_lag=lag, replica=replica, acceptance=profile), (40, 60))


def test_loading_the_drafter_again_overdraws_the_pool():
    """The pool of 30 blocks is half the one without a drafter, so each return of the drafter evicts."""
    record = agree(hard(policy=f"{AWKWARD}:Drops"), (30, 60))
    assert record.evictions > 10


def test_a_mixture_goes_by_class():
    mixture = {"kind": "mixture", "classes": {"a": {"rate": 0.9}, "b": {"rate": 0.3, "spread": 0.1}}}
    workload = SHORT | {"classes": {"a": {"share": 1}, "b": {"share": 1, "lengths": {"prompt": 90, "output": 20}}}}
    agree(hard(acceptance=mixture, workload=workload), (60, 60))


def test_a_dense_model():
    agree(hard(model="qwen2-0.5b", draft={"kind": "ngram"}, policy={"kind": "goodput"}), (30, 30))


def test_blocks_of_one_token():
    record = agree(hard(workload=GROWING, block_size=1), (400, 400))
    assert record.evictions > 10


@pytest.mark.parametrize("think", [0, 0.003])
def test_closed_loop(think):
    """Random acceptance lets requests finish at times of their own."""
    workload = {
        "kind": "closed",
        "concurrency": 12,
        "think": think,
        "limit": 60,
        "lengths": {"prompt": 30, "output": 9},
    }
    agree(hard(workload=workload), (60, 60))


def test_the_clock_stops_on_the_way():
    record = agree(hard(until=0.2), (40, 40))
    assert any(np.isnan(r.first_token_s) for r in record.requests)
    assert any(r.emitted and np.isnan(r.finish_s) for r in record.requests)


@pytest.mark.parametrize(("spare", "refused"), [(0, False), (-1, True)])
def test_a_request_that_just_fits(spare, refused):
    tokens = 150 + 40 + 1 + 4
    assert (agree(hard(block_size=1), (tokens + spare, tokens + spare)) is None) == refused


@pytest.mark.parametrize("think", [0, 0.01])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_closed_loop_in_lockstep(think, replicas):
    """Requests released by one step's completions are all queued before the idle replica begins."""
    lengths = {"prompt": 10, "output": 5}
    workload = {"kind": "closed", "concurrency": 6, "think": think, "limit": 18, "lengths": lengths}
    wide = {"max_num_seqs": 8, "max_num_batched_tokens": 512}
    scenario = hard(workload=workload, replica=wide, policy="off", replicas=replicas, router="round_robin")
    record = agree(scenario, (200, 200))
    assert {r.finish_s for r in record.requests if r.id < 6} == {record.requests[0].finish_s}
    assert len({r.first_token_s for r in record.requests}) == 3


def traced(folder: Path, times: Sequence[float], prompt: int, **changes: Any) -> Scenario:
    """Return a scenario of requests that arrive at *times*."""
    lines = [json.dumps({"arrival_s": t, "prompt_tokens": prompt, "output_tokens": 5}) for t in times]
    (folder / "trace.jsonl").write_text("\n".join(lines))
    workload = {"kind": "trace", "format": "jsonl", "path": str(folder / "trace.jsonl")}
    return hard(workload=workload, policy="off", **changes)


@pytest.mark.parametrize("router", ["least_loaded", "shortest_queue"])
def test_the_router_sees_requests_in_their_first_step(tmp_path, router):
    record = agree(traced(tmp_path, [0, 0.001], 60, router=router, replicas=2), (200, 200))
    assert [r.replica for r in record.requests] == [0, 1]


# Engine at fault: section 2, "requests arrive, in order of id; then replicas begin that had nothing to do". Its clock
# goes to now + (arrival - now), which may round to just below the arrival: then the next request of the very same time
# comes after an idle replica has begun, a step late.
@pytest.mark.parametrize(("before", "then"), [(0.188, 0.862), (0.067, 0.832), (0.25, 0.75)])
def test_an_idle_replica_meets_all_requests_of_one_time(tmp_path, before, then):
    record = agree(traced(tmp_path, [0, before, then, then, then], 10), (200, 200))
    assert len({r.first_token_s for r in record.requests[2:]}) == 1


# Engine at fault: section 2, "At one and the same time, first the steps that end then, and replicas with work begin
# their next; then requests arrive". A request that arrives at the end of a step is let into the step that begins then,
# if its arrival was put on the calendar before that end.
def test_a_step_ends_before_a_request_arrives_at_the_same_time(tmp_path):
    alone, _ = run_naive(traced(tmp_path, [0], 10), (200, 200))
    ends = alone.steps[0]["start_s"] + alone.steps[0]["seconds"]
    record = agree(traced(tmp_path, [0, ends], 10), (200, 200))
    assert record.tied
    assert [s["prefill_tokens"] for s in record.steps[:3]] == [10, 0, 10]


@pytest.mark.parametrize("router", ["least_loaded", "shortest_queue", "round_robin", "power_of_two", "prefix_aware"])
def test_routers(router):
    agree(hard(router=router, replicas=3, policy=f"{AWKWARD}:Wild"), (20, 30))


AHEAD = {"engine": "vllm-0.22.1", "draft": {"kind": "eagle3"}}
"""An engine whose host works ahead under this drafter."""


@pytest.mark.parametrize("router", ["least_loaded", "shortest_queue"])
def test_a_router_counts_what_waits_for_the_choice_to_be_made(router):
    """Many requests come during one step of such an engine: they do not all go to one replica."""
    record = agree(hard(router=router, replicas=2, workload=SHORT | {"rate": 500}, **AHEAD), (200, 200))
    assert record.rules["2 queued after the choice"] > 0
    assert abs(sum(1 if r.replica else -1 for r in record.requests)) <= 2


@pytest.mark.parametrize("output", [1, 3])
def test_a_host_that_works_ahead_may_have_only_what_came_late_to_choose_from(output):
    """Requests one at a time: the next one comes while the last step of the one before runs."""
    workload = {"kind": "poisson", "rate": 30, "limit": 40, "lengths": {"prompt": 60, "output": output}}
    record = agree(hard(workload=workload, **AHEAD), (200, 200))
    assert record.rules["2 chosen from what came late"] > 0


def test_tokens_of_a_host_that_works_ahead_wait_for_the_launch_behind_them():
    """Long prompts are launched kernel by kernel: what comes meanwhile is seen, what is done is handed out late."""
    workload = {"kind": "poisson", "rate": 40, "limit": 60, "lengths": {"prompt": 700, "output": 20}}
    wide = {"max_num_seqs": 64, "max_num_batched_tokens": 2048}
    record = agree(hard(workload=workload, replica=wide, **AHEAD), (4000, 4000))
    assert record.rules["2 handed out late"] > 10
    assert record.rules["2 comes before the next choice"] > 10


def test_a_draft_models_slots_come_out_of_the_budget():
    """vLLM keeps one for each of `max_num_seqs` where it drafts with a model; ngram takes none."""
    workload = {"kind": "poisson", "rate": 50, "limit": 20, "lengths": {"prompt": 900, "output": 9}}
    wide = {"max_num_seqs": 64, "max_num_batched_tokens": 512}
    model = {"kind": "model", "model": "qwen3-0.6b"}
    for draft, most in ((model, 448), ({"kind": "ngram"}, 512)):
        scenario = hard(workload=workload, replica=wide, engine="vllm-0.22.1", draft=draft)
        record = agree(scenario, (4000, 4000))
        assert max(s["verify_tokens"] + s["prefill_tokens"] for s in record.steps) == most


def test_a_mixture_with_confidence_under_slacks():
    mixture = {"kind": "mixture", "classes": {"a": {"rate": 0.9}, "b": {"rate": 0.3, "spread": 0.1}}, "auc": 0.7}
    for policy in ("adaserve", "adaspec", "tetris"):
        agree(hard(acceptance=mixture, policy=policy, slo={"tpot": "20ms"}), (60, 60))
