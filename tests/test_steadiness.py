"""Warnings about runs that are too short, or whose queue grows: they come when they are due, and only then."""

from __future__ import annotations

import numpy as np
import pytest

from sdsim.metrics import summarise
from sdsim.result import Result
from sdsim.scenario import scenario_from_mapping
from sdsim.steadiness import doubtful_runs
from tests.queues import poisson, prompts, served

LENGTHS = {"prompt": 10, "output": 10}
NO_STEPS = dict.fromkeys(
    ("start_s", "seconds", "rows", "verify_tokens", "accepted_tokens", "emitted_tokens", "first_tokens",
     "draft_length", "regular_gaps", "distinct_experts"), np.empty(0)
)  # fmt: skip


def run_of(arrivals, finishes, kind="poisson", warmup=0.0, policy="off"):
    """Return a run whose requests came and went so."""
    workload = {"poisson": {"kind": "poisson", "rate": 1}, "closed": {"kind": "closed", "concurrency": 2}}[kind]
    mapping = {"model": "qwen3-30b-a3b", "gpus": "h200", "workload": workload | {"lengths": LENGTHS, "limit": 9}}
    count = len(arrivals)
    table = {"arrival_s": arrivals, "first_token_s": finishes, "finish_s": finishes, "output_tokens": np.ones(count)}
    table |= {"preemptions": np.zeros(count), "request_class": np.zeros(count)}
    summary = {"policy": policy, "seed": 1} | summarise(table, NO_STEPS, np.empty(0), None, 1, warmup)
    return Result(scenario_from_mapping(mapping | {"warmup": warmup}), summary, table, {}, ("all",))


def queue(load, count, seed, until=np.inf, arrivals=None):
    """Return a run of M/M/1 with a mean service of 1 s, by Lindley's recursion; *until* stops the clock."""
    come = poisson(load, count, seed) if arrivals is None else arrivals
    come = come[come < until]
    work = np.random.default_rng([seed, 4]).exponential(1, len(come))
    total = np.cumsum(work)
    gone = total + np.maximum.accumulate(come - total + work)
    return run_of(come, np.where(gone < until, gone, np.nan))


def doubts(*runs):
    return doubtful_runs({"off": list(runs)})


def test_the_queue_of_these_tests_is_the_engines():
    rng = np.random.default_rng([3, 4])
    work = np.maximum(1, np.rint(1000 * rng.exponential(1, 200))).astype(np.int64)
    replica = {"max_num_seqs": 1, "max_num_batched_tokens": 100_000}
    engine = served(poisson(1.5, 200, 3), np.ones(200), 1, prompts, work, replica=replica)
    np.testing.assert_allclose(engine.requests["finish_s"], queue(1.5, 200, 3).requests["finish_s"], atol=0.2)
    assert doubts(engine) == doubts(queue(1.5, 200, 3))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_queue_that_keeps_up_is_not_said_to_grow(load):
    said = [doubts(queue(load, 4000, seed)) for seed in range(100)]
    assert sum(bool(lines) for lines in said) <= 3
    assert doubts(*(queue(load, 4000, seed) for seed in range(5))) == []


@pytest.mark.parametrize("until", [np.inf, 1500.0])
def test_a_queue_that_cannot_keep_up_is_told(until):
    for seed in range(50):
        (line,) = doubts(queue(1.3, 2500, seed, until))
        assert line.startswith("off: the requests there grow to the end, from ")
        assert "lower the rate, add replicas or lengthen the run" in line
        assert "\n" not in line


def test_a_burst_at_the_end_is_not_a_queue_that_grows():
    """Arrivals that double for the last fifth bring more requests, which are served all the same."""
    for seed in range(50):
        gaps = np.random.default_rng([seed, 5]).exponential(np.where(np.arange(12_000) < 8000, 1.0, 0.5))
        arrivals = np.cumsum(gaps)
        stays = np.random.default_rng([seed, 6]).exponential(20, len(arrivals))
        assert doubts(run_of(arrivals, arrivals + stays)) == []


def test_servers_that_fill_slowly_are_not_a_queue_that_grows():
    """Twelve stays of a system without queueing."""
    for seed in range(50):
        arrivals = poisson(4, 2400, seed)
        stays = np.random.default_rng([seed, 7]).exponential(50, len(arrivals))
        assert doubts(run_of(arrivals, arrivals + stays)) == []


@pytest.mark.parametrize(("kind", "stay", "said"), [("poisson", 30.0, 1), ("poisson", 15.0, 0), ("closed", 15.0, 0)])
def test_a_run_of_few_stays_is_short(kind, stay, said):
    arrivals = np.arange(2000) / 20
    lines = doubts(run_of(arrivals, arrivals + stay, kind))
    assert len(lines) == said
    assert all("lasts 100 s and a request stays 30 s" in line for line in lines)


def test_what_the_warm_up_leaves_may_be_short():
    arrivals = np.arange(2000) / 20
    (line,) = doubts(run_of(arrivals, arrivals + 15, warmup=50.0))
    assert "the traffic counted lasts 50 s" in line


def test_a_percentile_of_few_requests_is_told():
    (line,) = doubts(run_of(np.arange(40.0), np.arange(40.0) + 1))
    assert line.startswith("off: 40 requests finished, so p99 rests on 1 of them")


def test_nothing_finished_is_told_once():
    (line,) = doubts(run_of(np.arange(40.0), np.full(40, np.nan)))
    assert "no request that counts finished" in line
    (line,) = doubts(run_of(np.empty(0), np.empty(0)))
    assert "no request that counts finished" in line


def test_one_odd_seed_of_many_is_not_told():
    good = [queue(0.5, 4000, seed) for seed in range(4)]
    for odd in (run_of(np.arange(3.0), np.full(3, np.nan)), queue(1.5, 4000, 5), queue(0.5, 50, 6)):
        assert doubts(*good, odd) == []
        assert len(doubts(*good[:1], odd)) == 1


def test_policies_that_share_a_doubt_share_a_line():
    grows, few = queue(1.5, 3000, 1), queue(0.5, 60, 2)
    lines = doubtful_runs({"off": [few], "fixed-3": [grows], "goodput": [grows], "moesd": [queue(0.5, 3000, 3)]})
    assert [line.split(":")[0] for line in lines] == ["fixed-3", "off"]
    assert lines[0].endswith(" (likewise goodput)")
