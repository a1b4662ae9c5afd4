"""Routers: each rule on replicas with known figures, stale reports, and the laws that every router keeps in a run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsim.request import RequestTable
from sdsim.routers import MixAware, PowerOfTwo, SloFeasible, Stale, least_loaded, make_router
from sdsim.scenario import scenario_from_mapping
from sdsim.scenario.parts import ROUTERS
from sdsim.simulation import simulate
from sdsim.workload import Requests
from tests.invariants import run_checked


class Fake:
    """A replica with given figures."""

    def __init__(self, load=0, tokens=0, waiting=0, rows=0, stored=0, cached=0, held=None):
        self.load, self.outstanding_tokens, self.waiting_tokens = load, tokens, waiting
        self.decoding, self.budget, self.cached = (rows, stored), 1000, cached
        self.held = np.zeros(load, dtype=np.int64) if held is None else np.array(held, dtype=np.int64)

    def cached_tokens(self, _request):
        return self.cached


class Linear:
    """A millisecond a row and one for ten prompt tokens."""

    def step_seconds(self, rows, draft_length, _context, prefill_tokens=0):
        return 1e-3 * rows * (1 + 0.2 * draft_length) + 1e-4 * prefill_tokens


def table(*prompts):
    found, ones = RequestTable(), np.ones(len(prompts), dtype=np.int64)
    ids = np.arange(len(prompts))
    found.add(Requests(ids, np.zeros(len(prompts)), np.array(prompts), ones, 0 * ones), 0)
    return found


def route(kind, replicas, request=0, now=0.0, targets=(None, None)):
    return make_router(kind, 7, Linear(), table(100), targets)(replicas, request, now)


def test_each_rule():
    busy, long, warm = Fake(3, 500), Fake(1, 900), Fake(2, 600, cached=150)
    assert route("least_loaded", [busy, long, warm]) == 1
    assert route("shortest_queue", [busy, long, warm]) == 0
    assert route("prefix_aware", [busy, long, warm]) == 2
    assert route("least_loaded", [Fake(1), Fake(1)]) == 0


def test_round_robin_takes_turns():
    router = make_router("round_robin", 0, Linear(), table())
    assert [router([Fake()] * 3, r, 0.0) for r in range(5)] == [0, 1, 2, 0, 1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 1000))
def test_power_of_two_takes_the_better_of_two(loads, request):
    replicas = [Fake(load) for load in loads]
    chosen = PowerOfTwo(3)(replicas, request, 0.0)
    assert chosen == PowerOfTwo(3)(replicas, request, 9.0), "the request's coins decide, not the time"
    if len(loads) > 1:
        assert loads[chosen] <= sorted(loads)[-2]


def test_power_of_two_draws_every_pair_alike():
    counts = np.bincount([PowerOfTwo(0)([Fake(), Fake(), Fake(1), Fake(2)], r, 0.0) for r in range(6000)], minlength=4)
    # of six pairs the first is the lower one of three, the second of two, the third of one
    assert counts / 6000 == pytest.approx([3 / 6, 2 / 6, 1 / 6, 0], abs=0.02)


def test_slo_feasible_packs_and_then_hurries():
    """100 tokens: 10 ms of prompt beside 1 ms a row."""
    full, half, empty = Fake(30, rows=30), Fake(15, rows=15), Fake()
    assert route("slo_feasible", [empty, half, full], targets=(0.1, 0.1)) == 2
    assert route("slo_feasible", [empty, half, full], targets=(0.1, 0.02)) == 1, "31 rows take 31 ms"
    assert route("slo_feasible", [full, empty, half], targets=(0.02, None)) == 1
    assert route("slo_feasible", [Fake(9, waiting=5000), Fake(9, waiting=3000)], targets=(0.1, None)) == 1
    cached = Fake(1, waiting=200, cached=90)
    assert route("slo_feasible", [cached, empty], targets=(0.021, None)) == 0


def test_expected_ttft_is_counted_in_steps_of_the_budget():
    router = SloFeasible(Linear(), table(100), None, None)
    assert router._expected(Fake(rows=200, waiting=1600), 100)[0] == pytest.approx(3 * (0.2 + 0.08))


def test_stale_reports_are_renewed_at_multiples():
    replicas = [Fake(5), Fake(1)]
    router = Stale(least_loaded, 1.0)
    assert router(replicas, 0, 0.5) == 1
    replicas[1].load = 9
    assert router(replicas, 1, 0.999) == 1, "it has not reported yet"
    assert router(replicas, 2, 1.0) == 0


TOKENS = np.array([[1.0, 1.3, 1.4], [1.0, 1.9, 3.2]])
"""Two classes, by draft lengths 0, 1 and 4."""


def classes_of(count):
    """Return requests 0, 1, ... whose class is their number's remainder by 2."""
    found, ids = RequestTable(), np.arange(count)
    found.add(Requests(ids, np.zeros(count), 0 * ids + 100, 0 * ids + 1, ids % 2), 0)
    return found


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 1))
def test_mix_aware_is_least_loaded_where_all_accept_alike(loads, request):
    router = MixAware(Linear(), classes_of(2), (0, 1, 4), TOKENS[[1, 1]])
    replicas = [Fake(load, held=[0] * load) for load in loads]
    assert router(replicas, request, 0.0) == least_loaded(replicas, request, 0.0)


@given(st.lists(st.lists(st.integers(0, 1), max_size=12), min_size=1, max_size=4), st.integers(0, 1))
def test_mix_aware_adds_least_to_the_sum_of_tpot(held, request):
    cost, lengths = Linear(), (0, 1, 4)

    def total(batch):
        sums = [sum(cost.step_seconds(len(batch), k, 0) / TOKENS[c, i] for c in batch) for i, k in enumerate(lengths)]
        return min(sums)

    chosen = MixAware(cost, classes_of(2), lengths, TOKENS)([Fake(held=h) for h in held], request, 0.0)
    added = [total([*batch, request]) - total(batch) for batch in held]
    assert added[chosen] == pytest.approx(min(added))


def test_mix_aware_ends_requests_of_unlike_classes_sooner():
    traffic = {"kind": "poisson", "rate": 24, "limit": 300, "lengths": {"prompt": 200, "output": 150}}
    keys = {
        "draft": {"kind": "model", "model": "qwen2-0.5b"},
        "policy": {"kind": "moesd", "lengths": [0, 1, 2, 4, 6]},
        "workload": traffic | {"classes": {"chat": {"share": 1}, "code": {"share": 1}}},
        "acceptance": {"kind": "mixture", "classes": {"chat": {"rate": 0.3}, "code": {"rate": 0.92}}},
    }
    mixed, apart = (simulate(crowd(router=kind, **keys)).summary for kind in ("least_loaded", "mix_aware"))
    assert apart["e2e_s"]["mean"] < 0.97 * mixed["e2e_s"]["mean"]


def crowd(**keys):
    base = {
        "model": "qwen3-30b-a3b",
        "gpus": "1 x h200",
        "replicas": 4,
        "replica": {"max_num_seqs": 16},
        "workload": {"kind": "poisson", "rate": 60, "limit": 200, "lengths": {"prompt": 400, "output": 60}},
        "slo": {"ttft": "1s", "tpot": "20ms"},
    }
    return scenario_from_mapping(base | keys)


@pytest.mark.parametrize("refresh", ["0s", "500ms"])
@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_serves_everyone(router, refresh):
    scenario = crowd(router={"kind": router, "refresh": refresh})
    result, _ = run_checked(lambda: simulate(scenario))
    assert result.summary["requests"] == {"offered": 200, "finished": 200, "unfinished": 0}
    again = simulate(scenario)
    assert result.requests["replica"].tobytes() == again.requests["replica"].tobytes()


def test_better_information_waits_less():
    """At high load: the fewest requests beat two choices, two beat turns; news beat old reports."""

    def wait(**keys):
        lengths = {"prompt": {"mean": 800, "sigma": 1.0}, "output": {"mean": 150, "sigma": 1.0}}
        traffic = {"kind": "poisson", "rate": 32, "limit": 1500, "lengths": lengths}
        return simulate(crowd(workload=traffic, **keys)).summary["ttft_s"]["mean"]

    least, two, turns = (wait(router=kind) for kind in ("least_loaded", "power_of_two", "round_robin"))
    assert least < two < turns
    assert least < wait(router={"kind": "least_loaded", "refresh": "5s"})
