"""Capacity against closed forms of queues, brackets and fronts against their definitions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from sdsim.capacity import main
from sdsim.errors import ScenarioError
from sdsim.load import at_rate, mean_rate
from sdsim.scenario import scenario_from_mapping
from sdsim.search import WIDEST, Bracket, Capacity, capacity, front, operating_points
from sdsim.simulation import simulate
from sdsim.workers import local_workers
from sdsim.workload import requests

TOLERANCE = 0.005


def one_at_a_time(**changes):
    """Return a server of one request at a time, whose service takes the same time for each: D."""
    mapping = {
        "model": "qwen3-30b-a3b",
        "gpus": "1 x h200",
        "replica": {"max_num_seqs": 1},
        "workload": {"kind": "poisson", "rate": 0.001, "limit": 1, "lengths": {"prompt": 100, "output": 1}},
    }
    return scenario_from_mapping(mapping | changes)


def alone():
    """Return (time to first token, service time) of a request that nobody delays, s."""
    record = simulate(one_at_a_time()).requests
    arrival, first, finish = (float(record[name][0]) for name in ("arrival_s", "first_token_s", "finish_s"))
    return first - arrival, finish - arrival


@given(st.floats(1e-2, 1e2), st.floats(1e-3, 1e3), st.floats(0.001, 1))
def test_a_bracket_closes_on_the_threshold(start, threshold, tolerance):
    bracket, tries = Bracket(start, tolerance), 0
    while (rate := bracket.next_rate) is not None:
        bracket.tell(rate, rate <= threshold)
        tries += 1
    assert tries <= 40
    if start / WIDEST < threshold < start * WIDEST:
        assert bracket.low <= threshold < bracket.high <= bracket.low * (1 + tolerance)


@pytest.mark.parametrize(("met", "rate"), [(False, 0.0), (True, math.inf)])
def test_a_bracket_without_a_threshold_ends(met, rate):
    bracket, tried = Bracket(3.0, 0.01), []
    while (following := bracket.next_rate) is not None:
        tried.append(following)
        bracket.tell(following, met)
    assert bracket.rate == rate
    assert len(tried) == 11
    assert max(tried) / min(tried) == WIDEST


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_capacity_of_even_arrivals_is_exact(share, tmp_path):
    """Request i of N waits i (D - gap): share x of them is in time up to gap = D - slack / (ceil(x N) - 1)."""
    count, slack = 200, 0.01
    path = tmp_path / "even.jsonl"
    path.write_text("".join(f'{{"arrival_s": {i}, "prompt_tokens": 100, "output_tokens": 1}}\n' for i in range(count)))
    first, service = alone()
    workload = {"kind": "trace", "format": "jsonl", "path": str(path)}
    scenario = one_at_a_time(workload=workload, slo={"ttft": first + slack})
    (found,) = capacity(scenario, share, TOLERANCE)
    gap = service - slack / (math.ceil(share * count) - 1)
    # a trace at rate r spans N / r seconds with N - 1 gaps
    expected = count / (count - 1) / gap
    (bracket,) = found.brackets
    assert bracket.low <= expected * (1 + 1e-9)
    assert bracket.high >= expected * (1 - 1e-9)
    assert found.rate == pytest.approx(expected, rel=TOLERANCE)
    assert found.ci95 is None


def waits_at_most(wait, rate, service):
    """Return P(W <= wait) of an M/D/1 queue (Erlang 1909; Crommelin 1932)."""
    total = 0.0
    for k in range(int(wait / service) + 1):
        x = rate * (k * service - wait)
        total += x**k / math.factorial(k) * math.exp(-x)
    return (1 - rate * service) * total


def test_capacity_of_poisson_arrivals_is_that_of_m_d_1():
    first, service = alone()
    slack = 3.5 * service
    expected = brentq(lambda rate: waits_at_most(slack, rate, service) - 0.9, 0.1 / service, 0.99 / service)
    workload = {"kind": "poisson", "rate": 0.5 / service, "limit": 4000, "lengths": {"prompt": 100, "output": 1}}
    scenario = one_at_a_time(workload=workload, slo={"ttft": first + slack}, seeds=5)
    with local_workers(2) as workers:
        (found,) = capacity(scenario, 0.9, 0.01, workers)
    low, high = found.ci95
    assert low < expected < high
    assert high - low < 0.1 * expected
    assert found.rate == pytest.approx(expected, rel=0.03)
    assert found.runs >= 5 * 7


def test_capacities_do_not_depend_on_the_workers():
    workload = {"kind": "poisson", "rate": 10, "limit": 60, "lengths": {"prompt": 200, "output": 20}}
    changes = {"draft": "eagle3", "acceptance": {"kind": "iid", "rate": 0.7}, "policy": ["off", "goodput"], "seeds": 2}
    scenario = one_at_a_time(workload=workload, slo={"e2e": "0.5s"}, **changes)
    with local_workers(3) as workers:
        shared = capacity(scenario, 0.8, 0.1, workers)
    assert shared == capacity(scenario, 0.8, 0.1)
    assert [(one.policy, one.seeds) for one in shared] == [("off", (0, 1)), ("goodput", (0, 1))]
    assert shared[0].rate < shared[1].rate


def test_the_interval_spans_seeds_and_brackets():
    def found(*pairs):
        brackets = tuple(Bracket(1.0, 0.1, low, high) for low, high in pairs)
        return Capacity("off", "ideal", tuple(range(len(pairs))), brackets, 0)

    low, high = found((9, 10), (9, 10)).ci95
    assert (low, high) == (9, 10)
    low, high = found((9, 10), (10, 11), (11, 12)).ci95
    half = 4.302652729911275 / math.sqrt(3)
    assert (low, high) == pytest.approx((10 - half, 11 + half))
    assert found((9, 10), (0, 1)).ci95 is None
    assert found((9, 10), (9, math.inf)).rate == math.inf


LENGTHS = {"prompt": 10, "output": 10}
TRAFFIC = {
    "poisson": {"rate": 20},
    "bursty": {"rate": 10, "peak": 60, "period": 20, "duty": 0.3},
    "mmpp": {"rate": 5, "peak": 50, "mean_low": 2, "mean_high": 1},
    "diurnal": {"rate": 10, "peak": 30, "period": 50},
}


@pytest.mark.parametrize("kind", TRAFFIC)
def test_traffic_arrives_at_the_mean_rate_in_its_shape(kind):
    scenario = one_at_a_time(workload={"kind": kind, "limit": 60_000, "lengths": LENGTHS, **TRAFFIC[kind]})
    for rate in (mean_rate(scenario), 7.0):
        moved = at_rate(scenario, rate)
        blocks = list(requests(moved.workload, 3))
        assert mean_rate(moved) == pytest.approx(rate)
        assert 60_000 / blocks[-1].arrival_s[-1] == pytest.approx(rate, rel=0.03)
        if kind != "poisson":
            assert moved.workload.peak / moved.workload.rate == pytest.approx(
                TRAFFIC[kind]["peak"] / TRAFFIC[kind]["rate"]
            )


def test_a_seed_keeps_its_requests_at_every_rate():
    scenario = one_at_a_time(workload={"kind": "poisson", "rate": 4, "limit": 500, "lengths": "azure-conv"})
    (slow,), (fast,) = (list(requests(at_rate(scenario, rate).workload, 3)) for rate in (4, 8))
    assert np.array_equal(slow.prompt_tokens, fast.prompt_tokens)
    assert np.allclose(slow.arrival_s, 2 * fast.arrival_s)


def test_a_closed_loop_has_no_rate():
    scenario = one_at_a_time(workload={"kind": "closed", "concurrency": 4, "limit": 8, "lengths": LENGTHS})
    with pytest.raises(ScenarioError, match="no arrival rate; allowed: poisson"):
        mean_rate(scenario)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_what_nothing_beats(points):
    def beats(a, b):
        return a != b and a[0] >= b[0] and a[1] >= b[1]

    best = front([*points, (None, 9.0), (9.0, None)])
    for i, point in enumerate(points):
        assert (i in best) != any(beats(points[j], point) for j in best)
    assert best <= set(range(len(points)))


def test_operating_points_are_the_runs_figures():
    workload = {"kind": "poisson", "rate": 10, "limit": 40, "lengths": {"prompt": 200, "output": 20}}
    scenario = one_at_a_time(workload=workload, replica={"max_num_seqs": 64}, seeds=2)
    points = operating_points(scenario, [5.0, 50.0])
    for point, rate in zip(points, [5.0, 50.0], strict=True):
        runs = [simulate(at_rate(scenario, rate), seed=seed).summary for seed in (0, 1)]
        tpot = np.mean([run["tpot_s"]["p50"] for run in runs])
        assert point["rate_rps"] == rate
        assert point["output_tokens_per_user_s"] == pytest.approx(1 / tpot)
        assert point["output_tokens_per_gpu_s"] == np.mean([run["output_tokens_per_gpu_s"] for run in runs])
        assert point["on_front"]
    assert points[0]["output_tokens_per_user_s"] > points[1]["output_tokens_per_user_s"]


SMALL = """
model: qwen3-30b-a3b
gpus: 1 x h200
draft: {kind: eagle3}
acceptance: {kind: iid, rate: 0.8}
policy: [off, {kind: fixed, length: 2}]
workload: {kind: poisson, rate: 40/s, limit: 60, lengths: {prompt: 200, output: 20}}
slo: {ttft: 1s, tpot: 10ms}
seeds: 2
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def test_the_command_answers(small, capsys):
    assert main([small, "--json", "--tolerance", "0.1"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["slo_attainment"] == 0.9
    off, fixed = answer["runs"]
    assert 0 < off["capacity_rps"] < fixed["capacity_rps"]
    assert fixed["to_best"] is None
    low, high = off["to_best_ci95"]
    assert low <= off["to_best"] <= high
    assert off["capacity_rps"] == pytest.approx(np.mean(list(off["seeds"].values())))
    assert main([small, "--tolerance", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "fixed-2 *" in out
    assert "± half a 95% interval" in out


def test_the_command_draws_a_front(small, capsys):
    assert main([small, "--json", "--front", "20/s,80/s"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert [(p["policy"], p["rate_rps"]) for p in points] == [
        ("off", 20),
        ("fixed-2", 20),
        ("off", 80),
        ("fixed-2", 80),
    ]
    assert {True} <= {p["on_front"] for p in points}
    assert main([small, "--front", "20/s"]) == 0
    assert "tok/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said", "rate"),
    [("slo.tpot=1us", "at no rate down to", 0.0), ("slo={e2e: 1h}", "1024 times the scenario's rate", None)],
)
def test_no_crossing_is_said(small, capsys, change, said, rate):
    assert main([small, "--json", "--set", change, "--policy", "off"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["runs"][0]["capacity_rps"] == rate
    assert answer["runs"][0]["ci95"] is None
    assert said in answer["notes"][0]


BAD = {
    "no slo": (["--set", "slo=null"], "slo: missing"),
    "no share": (["--slo-attainment", "1.5"], "share over 0, up to 1"),
    "no tolerance": (["--tolerance", "nan"], "share from 0.001 to 1"),
    "no rate": (["--front", "3 bananas"], "--front: found '3 bananas'"),
    "no process": (["--jobs", "0"], "1 or more processes"),
    "a closed loop": (
        ["--set", "workload={kind: closed, concurrency: 2, limit: 9, lengths: azure-conv}"],
        "no arrival",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(small, name):
    words, said = BAD[name]
    with pytest.raises(ScenarioError, match=said):
        main([small, "--json", *words])
