"""Requests, tokens, KV blocks and time are conserved on random scenarios; the same seed gives the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdsim.errors import SdsimError
from sdsim.recorder import Recorder
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate
from tests.invariants import run_checked
from tests.priced import simulate_priced
from tests.random_scenarios import random_case
from tests.strategies import scenarios

RELAXED = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def conserved(result):
    requests, steps = result.requests, result.steps
    counts = result.summary["requests"]
    assert counts["offered"] == counts["finished"] + counts["unfinished"] == len(requests["request_id"])
    assert len(np.unique(requests["request_id"])) == len(requests["request_id"])
    done = ~np.isnan(requests["finish_s"])
    assert (requests["generated_tokens"][done] == requests["output_tokens"][done]).all()
    assert steps["emitted_tokens"].sum() == requests["generated_tokens"].sum()
    first, finish, arrival = (requests[k] for k in ("first_token_s", "finish_s", "arrival_s"))
    assert (first[done] > arrival[done]).all()
    assert (finish[done] >= first[done]).all()
    assert (steps["accepted_tokens"] <= steps["verify_tokens"] - steps["rows"]).all()
    for replica in np.unique(steps["replica"]):
        mine = steps["replica"] == replica
        start, end = steps["start_s"][mine], steps["start_s"][mine] + steps["seconds"][mine]
        assert (start[1:] >= end[:-1] - 1e-9).all(), "a step began before the one before it ended"


@RELAXED
@given(mapping=scenarios(), blocks=st.integers(200, 700))
def test_random_scenarios(mapping, blocks):
    scenario = scenario_from_mapping(mapping)
    try:
        result, seen = run_checked(lambda: simulate(scenario), blocks)
    except SdsimError as error:
        assert "can never fit" in str(error)  # noqa: PT017
        return
    conserved(result)
    if scenario.until is None:
        assert result.summary["requests"]["unfinished"] == 0
    assert seen["steps"] == result.summary["steps"]


@pytest.mark.parametrize("number", range(12))
def test_gaps_add_up_to_the_time_between_first_and_last_tokens(number, monkeypatch):
    """And the counts of a step's shape are those of its rows and chunks, one by one."""
    irregular = []
    kept = Recorder.irregular_gaps
    monkeypatch.setattr(Recorder, "irregular_gaps", lambda *given: irregular.append(kept(*given)) or irregular[-1])

    def seconds(shape):
        contexts = np.zeros(0) if shape.contexts is None else shape.contexts
        positions = 1 + np.broadcast_to(shape.verify_lengths, contexts.shape)
        assert (shape.verify_tokens, shape.attention_pairs) == (positions.sum(), (positions * contexts).sum())
        chunks = [(int(stored), int(tokens)) for _, stored, tokens in shape.chunks]
        assert shape.prefill_tokens == sum(tokens for _, tokens in chunks)
        assert shape.prefill_pairs == sum(sum(range(stored + 1, stored + tokens + 1)) for stored, tokens in chunks)
        return 1e-3 * (1 + shape.rows) + 1e-6 * (shape.prefill_tokens + shape.verify_tokens)

    mapping, pools = random_case(number)
    mapping |= {"engine": "ideal", "until": None, "policy": {"kind": "fixed", "length": 2} if number % 2 else "off"}
    result = simulate_priced(scenario_from_mapping(mapping), seconds, pools)
    found = (result.steps["regular_gaps"] * result.steps["seconds"]).sum() + irregular[0].sum()
    assert found == pytest.approx((result.requests["finish_s"] - result.requests["first_token_s"]).sum())


def crowded(**changes):
    mapping = {
        "model": "qwen3-30b-a3b",
        "draft": {"kind": "model", "model": "qwen2-0.5b"},
        "gpus": "1 x h200",
        "replica": {"max_num_seqs": 16, "max_num_batched_tokens": 64},
        "workload": {"kind": "poisson", "rate": 500, "limit": 60, "lengths": {"prompt": 150, "output": 80}},
        "acceptance": {"kind": "iid", "rate": 0.7},
        "policy": {"kind": "fixed", "length": 4},
        "seed": 3,
    }
    return scenario_from_mapping(mapping | changes)


def test_eviction_is_reached_and_conserves():
    result, seen = run_checked(lambda: simulate(crowded()), blocks=60)
    conserved(result)
    assert seen["evictions"] > 10
    assert result.summary["preemptions"] == seen["evictions"]


def test_rows_beyond_the_token_budget_sit_out_and_conserve():
    replica = {"max_num_seqs": 16, "max_num_batched_tokens": 18}
    workload = {"kind": "poisson", "rate": 500, "limit": 60, "lengths": {"prompt": 4, "output": 80}}
    result, seen = run_checked(lambda: simulate(crowded(replica=replica, workload=workload)))
    conserved(result)
    assert seen["left_out"] > 10


def test_every_gap_between_tokens_is_counted_once():
    """ITL counts one gap per emission after the first, also for rows that sat steps out."""
    from sdsim import metrics

    counted = []
    weighted = metrics.weighted_distribution

    def spy(values, counts):
        counted.append((counts.sum(), np.dot(values, counts)))
        return weighted(values, counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "weighted_distribution", spy)
        result, _ = run_checked(lambda: simulate(crowded()), blocks=60)
    requests = result.requests
    total = (requests["finish_s"] - requests["first_token_s"]).sum()
    assert counted[0][1] == pytest.approx(total)


def test_same_seed_same_bytes_and_other_seeds_differ():
    one, two, other = (simulate(crowded(seed=s)) for s in (3, 3, 4))
    for name, column in one.requests.items():
        assert column.tobytes() == two.requests[name].tobytes()
    for name, column in one.steps.items():
        assert column.tobytes() == two.steps[name].tobytes()
    assert one.requests["finish_s"].tobytes() != other.requests["finish_s"].tobytes()


def test_policies_meet_the_same_requests_and_coins():
    fixed = simulate(crowded(policy={"kind": "fixed", "length": 2}))
    table = simulate(crowded(policy={"kind": "batch_table", "table": [[1, 1000, 2]]}))
    assert fixed.steps["accepted_tokens"].tobytes() == table.steps["accepted_tokens"].tobytes()


def test_drafting_length_does_not_change_what_a_request_emits():
    for length in (0, 1, 4):
        result = simulate(crowded(policy={"kind": "fixed", "length": length}))
        assert result.steps["emitted_tokens"].sum() == 60 * 80
