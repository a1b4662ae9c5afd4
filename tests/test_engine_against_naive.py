"""The engine agrees, request by request and step by step, with a naive simulator written from SEMANTICS.md alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from sdsim.errors import SdsimError
from sdsim.policy import Observation, Outcome, Plan
from sdsim.scenario import Scenario, scenario_from_mapping
from sdsim.simulation import make_policy, make_system, simulate
from tests import naive
from tests.strategies import scenarios

REQUEST_TIMES = ("arrival_s", "first_token_s", "finish_s")
REQUEST_COUNTS = ("replica", "generated_tokens", "preemptions", "verify_steps")
STEP_TIMES = ("start_s", "seconds", "distinct_experts")
STEP_COUNTS = (
    "rows",
    "verify_tokens",
    "prefill_tokens",
    "draft_length",
    "emitted_tokens",
    "first_tokens",
    "accepted_tokens",
)


def scrambled(*numbers: int) -> int:
    """Return a number that looks random and depends on *numbers* alone."""
    state = 1
    for number in numbers:
        state = ((state ^ int(number)) * 6364136223846793005 + 1442695040888963407) % 2**64
    return state >> 33


class Custom:
    """A policy whose plan is a pure function of the step's number and rows."""

    lengths: Sequence[int] = (0, 1, 2, 4)
    salt = 0

    def learn(self, outcome: Outcome, /) -> None:
        """Let the outcomes shape the plans too."""
        self.salt = scrambled(self.salt, outcome.step, outcome.accepted.sum(), *outcome.verified, *outcome.request_ids)

    def draw(self, observation: Observation, *numbers: int) -> int:
        return scrambled(self.salt, observation.step, observation.generated.sum(), *numbers)


class Trims(Custom):
    """Verifies a part of each row's drafts, and drafts another length each step."""

    def plan(self, observation: Observation, /) -> Plan:
        length = self.lengths[self.draw(observation) % 4]
        of = zip(observation.request_ids, observation.pending, strict=True)
        verify = np.array([self.draw(observation, r) % (p + 1) for r, p in of], dtype=np.int64)
        return Plan(length, verify, drafter="on" if length else "warm")


class LimitsPrefill(Custom):
    """Lets few prompt tokens into a step, at times none."""

    def plan(self, observation: Observation, /) -> Plan:
        return Plan(2, prefill_budget=max(0, self.draw(observation, observation.prefill_tokens) % 60 - 20))


class Drops(Custom):
    """Unloads the drafter for some steps, keeps it warm for some, and drafts in the others."""

    period = 4

    def plan(self, observation: Observation, /) -> Plan:
        mode = scrambled(observation.step // self.period) % 4
        if mode == 0:
            return Plan(0, drafter="dropped")
        return Plan(0, drafter="warm") if mode == 1 else Plan(4)


class DropsOften(Drops):
    """The same, with another state nearly every step."""

    period = 1


class Wild(Custom):
    """Trims, limits and drops at once."""

    def plan(self, observation: Observation, /) -> Plan:
        draw = self.draw(observation, observation.kv_free, observation.waiting, observation.prefill_requests)
        plan = Trims.plan(self, observation)  # type: ignore[arg-type]
        if draw % 3 == 0:
            plan = plan._replace(draft_length=0, drafter="dropped")
        if draw % 2 == 0:
            plan = plan._replace(prefill_budget=draw // 8 % 50)
        return plan


CUSTOM = [f"{__name__}:{one.__name__}" for one in (Trims, LimitsPrefill, Drops, DropsOften, Wild)]


class Spy:
    """A policy that notes what it is shown."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.counts: list[tuple[Any, ...]] = []
        self.floats: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def note(self, shown: Observation | Outcome) -> None:
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in shown._asdict().items()}
        self.floats += [plain.pop(k) or 0.0 for k in ("now", "seconds", "distinct_experts") if k in plain]
        self.counts.append(tuple(plain.items()))

    def plan(self, observation: Observation, /) -> Plan:
        self.note(observation)
        return self.policy.plan(observation)

    def learn(self, outcome: Outcome, /) -> None:
        self.note(outcome)
        self.policy.learn(outcome)


class Spies:
    """Makes policies that note what they are shown."""

    def __init__(self) -> None:
        self.made: list[Spy] = []

    def __call__(self, *args: Any) -> Spy:
        self.made.append(Spy(make_policy(*args)))
        return self.made[-1]

    def asked(self) -> list[Spy]:
        return [spy for spy in self.made if spy.counts]


def run_engine(scenario: Scenario, pools: tuple[int, int]) -> tuple[Any, Spies]:
    spies = Spies()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdsim.pools.kv_blocks", lambda target, draft, *_: pools[draft is None])
        patch.setattr("sdsim.simulation.make_policy", spies)
        return simulate(scenario), spies


def run_naive(scenario: Scenario, pools: tuple[int, int]) -> tuple[naive.Record, Spies]:
    spies, system = Spies(), make_system(scenario)
    latency = system.latency() if callable(system.latency) else system.latency
    return naive.run(scenario, system, lambda: spies(scenario.policies[0], system), pools, latency.seconds), spies


def same_requests(result: Any, record: naive.Record) -> None:
    table = result.requests
    order = np.argsort(table["request_id"])
    mine = sorted(record.requests, key=lambda r: r.id)
    assert table["request_id"][order].tolist() == [r.id for r in mine]
    for name in REQUEST_TIMES:
        ours = np.array([getattr(r, name) for r in mine])
        np.testing.assert_allclose(table[name][order], ours, rtol=1e-9, atol=0, err_msg=name)
    for name in REQUEST_COUNTS:
        ours = np.array([len(r.emitted) if name == "generated_tokens" else getattr(r, name) for r in mine])
        known = np.array([name != "verify_steps" or not np.isnan(r.finish_s) for r in mine], dtype=bool)
        np.testing.assert_array_equal(table[name][order][known], ours[known], err_msg=name)


def same_steps(result: Any, record: naive.Record) -> None:
    table = result.steps
    order = np.lexsort((table["step"], table["replica"]))
    mine = sorted(record.steps, key=lambda s: (s["replica"], s["step"]))
    for name in ("replica", "step"):
        assert table[name][order].tolist() == [s[name] for s in mine]
    for name in STEP_COUNTS:
        np.testing.assert_array_equal(table[name][order], [s[name] for s in mine], err_msg=name)
    for name in STEP_TIMES:
        np.testing.assert_allclose(table[name][order], [s[name] for s in mine], rtol=1e-9, err_msg=name)


def agree(scenario: Scenario, pools: tuple[int, int], ties: bool = True) -> naive.Record | None:
    """Compare both simulators on *scenario*; return the naive one's record, or None if both refuse to run.

    Without *ties*, a scenario in which events are as near as rounding errors is rejected.
    """
    try:
        record, shown = run_naive(scenario, pools)
    except naive.Refused:
        with pytest.raises(SdsimError, match="can never fit"):
            run_engine(scenario, pools)
        return None
    if record.tied and not ties:
        raise UnsatisfiedAssumption
    result, seen = run_engine(scenario, pools)
    same_steps(result, record)
    same_requests(result, record)
    for one, other in zip(seen.asked(), shown.asked(), strict=True):
        assert one.counts == other.counts
        np.testing.assert_allclose(one.floats, other.floats, rtol=1e-9)
    return record


@st.composite
def crowded(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return a random scenario and pools of blocks that hold few of its requests at a time."""
    mapping, size = draw(scenarios()), draw(st.sampled_from([1, 7, 16]))
    seqs, prompt, output = draw(st.integers(2, 12)), draw(st.integers(1, 200)), draw(st.integers(1, 80))
    lengths = {"prompt": prompt, "output": output}
    workload = {"limit": draw(st.integers(2, 30)), "lengths": lengths}
    if draw(st.booleans()):
        workload |= {
            "kind": "closed",
            "concurrency": draw(st.integers(1, 16)),
            "think": draw(st.sampled_from([0, 0.01])),
        }
    else:
        workload |= {"kind": "poisson", "rate": draw(st.sampled_from([100, 1000]))}
    if draw(st.booleans()):
        other = {"prompt": draw(st.integers(1, prompt)), "output": draw(st.integers(1, output))}
        workload["classes"] = {"a": {"share": 1}, "b": {"share": 2, "lengths": other}}
    budget = draw(st.integers(max(8, seqs), 50) | st.integers(50, 600))
    replica = {"max_num_seqs": seqs, "max_num_batched_tokens": budget}
    mapping |= {"workload": workload, "replica": replica, "block_size": size}
    least = -(-(prompt + output + 6) // size)
    blocks = draw(st.integers(least, 3 * least))
    return mapping, (blocks, blocks + draw(st.integers(0, least)))


def many(examples: int) -> settings:
    return settings(max_examples=examples, suppress_health_check=list(HealthCheck))


POLICIES = st.none() | st.sampled_from(CUSTOM)


@pytest.mark.slow  # 150 scenarios of up to a hundred thousand tokens, counted one by one
@many(150)
@given(mapping=scenarios(), custom=POLICIES, blocks=st.integers(60, 700), more=st.integers(0, 60))
def test_random_scenarios(mapping, custom, blocks, more):
    if custom is not None:
        mapping = mapping | {"policy": custom}
    agree(scenario_from_mapping(mapping), (blocks, blocks + more), ties=False)


@many(60)
@given(case=crowded(), custom=POLICIES)
def test_random_crowded_scenarios(case, custom):
    mapping, pools = case
    if custom is not None:
        mapping = mapping | {"policy": custom}
    assert agree(scenario_from_mapping(mapping), pools, ties=False) is not None


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
    assert record.left_out > 100


def test_rows_sit_out_and_are_evicted():
    record = agree(hard(replica=NARROW, workload=SHORT, policy=f"{__name__}:Wild"), (12, 20))
    assert record.left_out > 30
    assert record.evictions > 10


def test_heavy_eviction():
    record = agree(hard(), (20, 20))
    assert record.evictions > 30


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
    profile = {"kind": "profile", "name": "glm-5.2-mtp"}
    for replica in ({"max_num_seqs": 16, "max_num_batched_tokens": 300}, NARROW):
        agree(hard(policy=policy, feedback_lag=lag, replica=replica, acceptance=profile), (40, 60))


def test_loading_the_drafter_again_overdraws_the_pool():
    """The pool of 30 blocks is half the one without a drafter, so each return of the drafter evicts."""
    record = agree(hard(policy=f"{__name__}:Drops"), (30, 60))
    assert record.evictions > 10


def test_a_mixture_goes_by_class():
    mixture = {"kind": "mixture", "classes": {"a": {"rate": 0.9}, "b": {"rate": 0.3, "spread": 0.1}}}
    workload = SHORT | {"classes": {"a": {"share": 1}, "b": {"share": 1, "lengths": {"prompt": 90, "output": 20}}}}
    agree(hard(acceptance=mixture, workload=workload), (60, 60))


def test_a_dense_model():
    agree(hard(model="qwen2-0.5b", draft={"kind": "ngram"}, policy={"kind": "goodput"}), (30, 30))


def test_blocks_of_one_token():
    record = agree(hard(block_size=1), (400, 400))
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
    agree(hard(router=router, replicas=3, policy=f"{__name__}:Wild"), (20, 30))
