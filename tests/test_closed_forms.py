"""Queues whose answers are known in closed form, and the laws of acceptance, each inside its interval.

The intervals are those of 99.9% from batch means; seeds are the numbers of the tests, chosen before their results.
"""

from __future__ import annotations

import ciw
import numpy as np
import pytest
from scipy import stats

from tests.queues import constant, covers, geometric, poisson, pollaczek_khinchine, served, shared, stays


@pytest.mark.parametrize(("seed", "load"), [(1, 0.3), (2, 0.6), (3, 0.8)])
def test_m_d_1(seed, load):
    """One request at a time, all alike: W = load D / (2 (1 - load))."""
    result = served(poisson(load / 2, 16_000, seed), np.full(16_000, 2), 1, constant)
    covers(stays(result) - 2, load * 2 / (2 * (1 - load)))


@pytest.fixture(scope="module")
def m_m_1():
    """Return the stays of a queue of load 0.7 and a mean service of 25 s, and both."""
    count, load, mean = 8000, 0.7, 25.0
    outputs = geometric(mean, count, 4)
    return stays(served(poisson(load / mean, count, 4), outputs, 1, constant)), outputs, load, mean


def test_m_m_1_mean_wait(m_m_1):
    found, outputs, load, mean = m_m_1
    covers(found - outputs, load * mean / (1 - load), within=0.3)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_m_m_1_stays_are_exponential(m_m_1, share):
    """A share e^-((mu - lambda) t) of the requests stays longer than t."""
    found, _, load, mean = m_m_1
    covers(found > -np.log(share) * mean / (1 - load), share, within=0.5)


@pytest.fixture(scope="module")
def m_g_1():
    """Return the waits of a queue where every tenth request is twelve times as long as the others."""
    count, rate = 16_000, 0.6 / 4.2
    outputs = np.where(np.random.default_rng(5).random(count) < 0.1, 24, 2)
    arrivals = poisson(rate, count, 5)
    return stays(served(arrivals, outputs, 1, constant)) - outputs, rate


def test_m_g_1(m_g_1):
    waits, rate = m_g_1
    covers(waits, pollaczek_khinchine(rate, [2, 24], [0.9, 0.1]), within=0.3)


def test_arrivals_find_nobody_as_often_as_the_engine_rests(m_g_1):
    """PASTA: a share 1 - load does not wait."""
    covers(m_g_1[0] < 1e-9, 0.4)


def test_busy_periods_are_borels():
    """Of M/D/1's busy periods, a share e^-load serves one request alone (Borel 1942)."""
    load = 0.6
    waits = stays(served(poisson(load / 2, 16_000, 6), np.full(16_000, 2), 1, constant)) - 2
    opens = waits < 1e-9
    alone = opens[1:][opens[:-1]]
    covers(alone, np.exp(-load))


def test_requests_in_turn_are_e2_m_1():
    """Every second arrival of a Poisson stream: W = s / (mu (1 - s)), s = (2 rate / (2 rate + mu (1 - s)))^2."""
    count, mean, load = 8000, 20.0, 0.7
    rate, outputs = load / mean, geometric(mean, count, 7)
    result = served(poisson(2 * rate, count, 7), outputs, 1, constant, replicas=2, router="round_robin")
    s = 0.5
    for _ in range(200):
        s = (2 * rate / (2 * rate + (1 - s) / mean)) ** 2
    covers(stays(result) - outputs, s * mean / (1 - s), within=0.3)


def erlang_c(servers, offered):
    """Return the chance that a request waits (Erlang 1917)."""
    below = sum(offered**k / np.prod(np.arange(1.0, k + 1)) for k in range(servers))
    full = offered**servers / np.prod(np.arange(1.0, servers + 1)) / (1 - offered / servers)
    return full / (below + full)


def test_m_m_c():
    """Rows that do not slow one another are servers. Steps are in lockstep: a request waits half of one on average."""
    count, servers, mean, offered = 8000, 4, 40.0, 3.0
    outputs = geometric(mean, count, 8)
    result = served(poisson(offered / mean, count, 8), outputs, servers, constant)
    wait = erlang_c(servers, offered) * mean / (servers - offered)
    covers(stays(result) - outputs, wait + 0.5, within=0.4)


def birth_death(rate, mean, rows, seconds, most=2000):
    """Return the chance of each number of requests: n of them, at most *rows*, end at n / mean / seconds(n)."""
    n = np.minimum(np.arange(1, most), rows)
    weights = np.concatenate([[1.0], np.cumprod(rate * mean * seconds(n) / n)])
    return weights / weights.sum()


@pytest.fixture(scope="module")
def batch_service():
    """Return the stays, arrivals and law of batches whose steps take 1 + 0.3 n s."""
    count, mean, rate, rows = 8000, 40.0, 0.045, 8
    outputs = geometric(mean, count, 9)
    arrivals = poisson(rate, count, 9)
    result = served(arrivals, outputs, rows, lambda shape: 1 + 0.3 * (shape.rows + shape.prefill_rows))
    return stays(result), arrivals, birth_death(rate, mean, rows, lambda n: 1 + 0.3 * n), rate


def test_batch_service_is_a_birth_death_process(batch_service):
    """Its mean number over the rate is the mean stay (Little)."""
    found, _, law, rate = batch_service
    step = 1 + 0.3 * (np.minimum(np.arange(len(law)), 8) @ law)
    covers(found, np.arange(len(law)) @ law / rate + step / 2, within=0.2)


@pytest.mark.parametrize("number", [0, 3])
def test_arrivals_find_the_birth_death_law(batch_service, number):
    found, arrivals, law, _ = batch_service
    departures = np.sort(arrivals + found)
    present = np.arange(len(arrivals)) - np.searchsorted(departures, arrivals)
    covers(present == number, law[number], within=0.5)


@pytest.fixture(scope="module")
def processor_sharing():
    """Return stays and sizes where 1 request in 5 is long, at load 0.6."""
    count, load = 8000, 0.6
    outputs = np.where(np.random.default_rng(10).random(count) < 0.2, 80, 20)
    return stays(served(poisson(load / 32, count, 10), outputs, 1000, shared)), outputs, load


@pytest.mark.parametrize("size", [20, 80])
def test_processor_sharing(processor_sharing, size):
    """A request of size x stays x / (1 - load), whatever the law of sizes (Kleinrock 1967)."""
    found, outputs, load = processor_sharing
    covers(found[outputs == size], size / (1 - load), within=0.2)


def test_a_closed_loop_is_a_product_form():
    """N clients who think and a shared processor: R(n) = S (1 + Q(n - 1)) (mean value analysis, Reiser 1980)."""
    count, clients, mean, think = 8000, 6, 20.0, 60.0
    outputs, arrivals = geometric(mean, count, 11), np.where(np.arange(count) < clients, 0.0, np.nan)
    workload = {"kind": "closed", "concurrency": clients, "think": think, "limit": count}
    lengths = {"prompt": 1, "output": 1}
    result = served(arrivals, outputs, 100, shared, workload=workload | {"lengths": lengths})
    queue = 0.0
    for n in range(1, clients + 1):
        stay = mean * (1 + queue)
        queue = n * stay / (stay + think)
    covers(stays(result), stay, within=0.2)


def steps_law(rate, length, output):
    """Return the chance of each number of verify steps of a request: all chains of coins, enumerated."""
    accepted = np.append(rate ** np.arange(length) * (1 - rate), rate**length)
    law = np.zeros((output + 1, output + 1))
    law[1, 0] = 1.0
    for have in range(1, output):
        for emitted, chance in enumerate(accepted, 1):
            law[min(have + emitted, output), 1:] += chance * law[have, :-1]
    return law[output]


SPECULATION = {
    "draft": {"kind": "ngram"},
    "policy": {"kind": "fixed", "length": 3},
    "acceptance": {"kind": "iid", "rate": 0.7},
}


@pytest.fixture(scope="module")
def speculation():
    """Return a run of requests of 24 tokens, one at a time, load 0.7; the law of their steps; their rate."""
    count, law = 10_000, steps_law(0.7, 3, 24)
    rate = 0.7 / (1 + np.arange(25) @ law)
    return served(poisson(rate, count, 12), np.full(count, 24), 1, constant, **SPECULATION), law, rate


def test_steps_of_a_request_are_the_enumerated_ones(speculation):
    result, law, _ = speculation
    seen = np.bincount(result.requests["verify_steps"].astype(int), minlength=25)
    likely = law * len(result.requests["arrival_s"]) > 5
    counts, expected = seen[likely], law[likely] * seen.sum()
    rest = seen.sum() - counts.sum(), seen.sum() - expected.sum()
    assert stats.chisquare([*counts, rest[0]], [*expected, rest[1]]).pvalue > 0.001
    covers(result.requests["verify_steps"], np.arange(25) @ law, within=0.01)


def test_a_verify_step_emits_what_leviathan_says():
    """(1 - a^(K + 1)) / (1 - a) tokens, for long requests (Leviathan 2023, eq. 1)."""
    count = 40
    result = served(np.arange(count) * 1e5, np.full(count, 4000), 1, constant, **SPECULATION)
    covers(3999 / result.requests["verify_steps"], (1 - 0.7**4) / 0.3, within=0.02)


def test_speculation_is_m_g_1(speculation):
    """A service of 1 + N steps, N from the enumeration."""
    result, law, rate = speculation
    services = 1 + np.arange(25)
    waits = stays(result) - 1 - result.requests["verify_steps"][np.argsort(result.requests["request_id"])]
    covers(waits, pollaczek_khinchine(rate, services, law), within=0.3)


def test_littles_law_on_any_queue(batch_service):
    """Mean number there = rate x mean stay, exactly, on the paths themselves."""
    found, arrivals, _, _ = batch_service
    events = np.sort(np.concatenate([arrivals, arrivals + found]))
    present = np.searchsorted(arrivals, events, "right") - np.searchsorted(np.sort(arrivals + found), events, "right")
    mean = present[:-1] @ np.diff(events) / (events[-1] - events[0])
    assert mean == pytest.approx(len(found) / (events[-1] - events[0]) * found.mean(), rel=1e-9)


def test_lindleys_recursion():
    """One at a time, each waits max(0, wait + service of the one before - gap), to the last digit but rounding."""
    arrivals, outputs = poisson(0.08, 3000, 13), geometric(10, 3000, 13)
    waits = [0.0]
    for gap, service in zip(np.diff(arrivals), outputs, strict=False):
        waits.append(max(0.0, waits[-1] + service - gap))
    np.testing.assert_allclose(stays(served(arrivals, outputs, 1, constant)) - outputs, waits, atol=1e-6)


@pytest.mark.parametrize("servers", [1, 3])
def test_ciw_serves_the_same_requests(servers):
    """The same arrivals and services: one at a time to the last digit; side by side but for the lockstep of steps."""
    count, mean = 1500, 60.0
    arrivals, outputs = poisson(0.8 * servers / mean, count, 14), geometric(mean, count, 14)
    gaps = np.diff(arrivals, prepend=0.0).tolist()
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*gaps, float("inf")])],
        service_distributions=[ciw.dists.Sequential(outputs.astype(float).tolist())],
        number_of_servers=[servers],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(count, method="Finish")
    records = sorted(simulation.get_all_records(), key=lambda r: r.arrival_date)
    theirs = np.array([r.exit_date - r.arrival_date for r in records])
    ours = stays(served(arrivals, outputs, servers, constant))
    if servers == 1:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    else:
        assert 0 <= (ours - theirs).mean() <= 1.5
        assert np.corrcoef(ours, theirs)[0, 1] > 0.999
