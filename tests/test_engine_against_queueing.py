"""The engine in the limits where queueing theory has the answer."""

from __future__ import annotations

import numpy as np
import pytest

from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate


def one_at_a_time(rate, requests, **changes):
    mapping = {
        "model": "qwen3-30b-a3b",
        "gpus": "1 x h200",
        "replica": {"max_num_seqs": 1},
        "workload": {"kind": "poisson", "rate": rate, "limit": requests, "lengths": {"prompt": 100, "output": 8}},
        "seed": 5,
    }
    return simulate(scenario_from_mapping(mapping | changes))


def service_time():
    alone = one_at_a_time(0.001, 1)
    return float(alone.requests["finish_s"][0] - alone.requests["arrival_s"][0])


def test_busy_fraction_is_the_offered_load():
    service = service_time()
    result = one_at_a_time(0.5 / service, 10_000)
    busy = result.steps["seconds"].sum() / result.summary["simulated_s"]
    assert busy == pytest.approx(0.5, abs=0.02)


def test_more_load_never_improves_latency():
    service = service_time()
    means = [one_at_a_time(load / service, 2_000).summary["e2e_s"]["mean"] for load in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert all(np.diff(means) > 0)


def test_a_closed_loop_keeps_its_concurrency():
    workload = {"kind": "closed", "concurrency": 6, "limit": 120, "lengths": {"prompt": 50, "output": 20}}
    result = one_at_a_time(1, 1, workload=workload, replica={"max_num_seqs": 8})
    assert result.summary["requests"]["finished"] == 120
    assert result.steps["rows"].max() <= 6
    full = (result.steps["rows"] + (result.steps["prefill_tokens"] > 0)) >= 5
    assert full.mean() > 0.8


def test_throughput_saturates_at_the_step_rate():
    """A full batch decodes at rows / step time: arrivals beyond that only queue."""
    workload = {"kind": "poisson", "rate": 10_000, "limit": 640, "lengths": {"prompt": 1, "output": 400}}
    result = one_at_a_time(1, 1, workload=workload, replica={"max_num_seqs": 64})
    full = result.steps["rows"] == 64
    assert full.mean() > 0.9
    ideal = 64 / np.median(result.steps["seconds"][full])
    assert result.summary["output_tokens_per_s"] == pytest.approx(ideal, rel=0.05)
