"""Requests of synthetic workloads: arrival laws against their closed forms, and what must not move."""

from __future__ import annotations

import math
import time
import tracemalloc
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdsim.errors import ScenarioError
from sdsim.workload import Requests, class_names, requests


@dataclass(frozen=True)
class Mean:
    prompt: float = 500
    output: float = 200
    prompt_sigma: float = 0.0
    output_sigma: float = 0.0


@dataclass(frozen=True)
class Share:
    share: float
    lengths: object = None


@dataclass(frozen=True)
class Load:
    """A workload as the scenario gives it; each kind reads what it needs."""

    kind: str = "poisson"
    rate: float = 12.0
    peak: float = 24.0
    period: float = 300.0
    duty: float = 0.2
    mean_low: float = 40.0
    mean_high: float = 10.0
    concurrency: int = 4
    think: float = 1.0
    limit: int | None = None
    lengths: object = field(default_factory=Mean)
    classes: Any = None


def gather(load: Load, seed: int = 7, until: float | None = None, chunk: int = 8192) -> Requests:
    parts = list(requests(load, seed, until, chunk))
    assert all(0 < len(part) <= chunk for part in parts)
    names = ("ids", "arrival_s", "prompt_tokens", "output_tokens", "request_class")
    columns = [np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0)]) for name in names]
    return Requests(*columns, class_names=parts[0].class_names if parts else ())


def same(first: Requests, second: Requests) -> bool:
    names = ("ids", "arrival_s", "prompt_tokens", "output_tokens", "request_class")
    return all(np.array_equal(getattr(first, n), getattr(second, n), equal_nan=True) for n in names)


def idc(times: np.ndarray, window_s: float, end_s: float) -> float:
    counts = np.histogram(times, np.arange(0.0, end_s, window_s))[0]
    return float(counts.var() / counts.mean())


KINDS = ("poisson", "bursty", "mmpp", "diurnal")


@pytest.mark.parametrize("kind", [*KINDS, "closed"])
def test_the_same_seed_gives_the_same_requests_in_any_chunks(kind: str) -> None:
    load = Load(kind, limit=20_000, lengths="azure-conv", classes={"a": (1, None), "b": (2, "azure-code")})
    whole = gather(load, chunk=10**9)
    assert len(whole) == 20_000
    assert np.array_equal(whole.ids, np.arange(20_000))
    for chunk in (1000, 8192, 8193):
        assert same(gather(load, chunk=chunk), whole)
    assert not same(gather(load, seed=8), whole)


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**64), limit=st.integers(1, 300), chunk=st.integers(1, 400))
@settings(max_examples=40)
def test_a_shorter_run_is_the_start_of_a_longer_one(kind: str, seed: int, limit: int, chunk: int) -> None:
    longer = gather(Load(kind, limit=400), seed)
    assert same(gather(Load(kind, limit=limit), seed, chunk=chunk), longer.part(0, limit))
    assert np.all(np.diff(longer.arrival_s) >= 0.0)
    assert np.all(longer.arrival_s >= 0.0)
    until = float(longer.arrival_s[limit])
    assert same(gather(Load(kind), seed, until, chunk), longer.part(0, limit))


def test_lengths_and_arrivals_do_not_move_each_other() -> None:
    base = gather(Load(limit=5000, lengths="azure-conv"))
    assert np.array_equal(gather(Load(limit=5000)).arrival_s, base.arrival_s)
    bursty = gather(Load("bursty", rate=90, limit=5000, lengths="azure-conv"))
    assert np.array_equal(bursty.prompt_tokens, base.prompt_tokens)
    faster = gather(Load(rate=24.0, limit=5000))
    assert np.allclose(faster.arrival_s * 2.0, base.arrival_s)


def test_poisson_gaps_are_exponential() -> None:
    times = gather(Load(rate=80.0, limit=200_000)).arrival_s
    gaps = np.diff(times, prepend=0.0)
    assert stats.kstest(gaps * 80.0, "expon").pvalue > 0.01
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.01
    for window_s in (0.1, 1.0, 10.0):
        assert idc(times, window_s, times[-1]) == pytest.approx(1.0, abs=0.15)


def test_bursty_doubles_in_the_middle_minute_of_five() -> None:
    times = gather(Load("bursty"), until=300.0 * 400).arrival_s
    phase = times % 300.0
    burst = (phase >= 120.0) & (phase < 180.0)
    assert (~burst).sum() / (400 * 240.0) == pytest.approx(12.0, rel=0.01)
    assert burst.sum() / (400 * 60.0) == pytest.approx(24.0, rel=0.01)
    for start, end in ((0.0, 120.0), (120.0, 180.0), (180.0, 300.0)):
        part = phase[(phase >= start) & (phase < end)]
        assert stats.kstest((part - start) / (end - start), "uniform").pvalue > 0.01, (start, end)


def test_two_states_have_the_closed_form_of_fischer_and_meier_hellstern() -> None:
    """Mean rate and index of dispersion of counts of a two-state Markov-modulated Poisson process (1993)."""
    load = Load("mmpp", rate=4.0, peak=40.0, mean_low=4.0, mean_high=1.0)
    times = gather(load, until=60_000.0).arrival_s
    leave_low, leave_high = 1 / 4.0, 1 / 1.0
    total = leave_low + leave_high
    mean = (4.0 * leave_high + 40.0 * leave_low) / total
    assert len(times) / 60_000.0 == pytest.approx(mean, rel=0.02)
    for window_s in (0.5, 2.0, 10.0, 60.0):
        spread = 2 * 36.0**2 * leave_low * leave_high / (total**2 * (4.0 * leave_high + 40.0 * leave_low))
        expected = 1 + spread * (1 - (1 - math.exp(-total * window_s)) / (total * window_s))
        assert idc(times, window_s, 60_000.0) == pytest.approx(expected, rel=0.12)


def test_two_states_begin_as_they_go_on() -> None:
    load = Load("mmpp", rate=0.0, peak=20.0, mean_low=30.0, mean_high=10.0)
    early = [len(gather(load, seed, until=2.0)) for seed in range(600)]
    assert np.mean(early) == pytest.approx(2.0 * 5.0, rel=0.2)


def test_diurnal_follows_its_sinusoid() -> None:
    load = Load("diurnal", rate=2.0, peak=18.0, period=100.0)
    times = gather(load, until=100.0 * 300).arrival_s
    edges = np.linspace(0.0, 100.0, 21)
    seen = np.histogram(times % 100.0, edges)[0]
    area = 10.0 * edges - 8.0 * 100.0 / (2 * math.pi) * np.sin(2 * math.pi * edges / 100.0)
    expected = np.diff(area) * 300
    assert stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 0.01
    assert len(times) == pytest.approx(300 * 1000, rel=0.01)


def test_a_closed_loop_waits_for_completions() -> None:
    load = Load("closed", concurrency=3, limit=10)
    arrival_s = gather(load, until=5.0).arrival_s
    assert arrival_s[:3].tolist() == [0.0] * 3
    assert np.isnan(arrival_s[3:]).all()
    assert len(arrival_s) == 10
    endless = requests(replace(load, limit=None), 7, until=5.0)
    assert [len(next(endless)) for _ in range(3)] == [8192] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_workload_without_end_is_refused(kind: str) -> None:
    with pytest.raises(ScenarioError, match="set limit"):
        requests(Load(kind), 7)


def test_wrong_rates_and_shares_are_refused() -> None:
    with pytest.raises(ScenarioError, match="rates"):
        requests(Load(rate=0.0, limit=1), 7)
    with pytest.raises(ScenarioError, match="rates"):
        requests(Load("bursty", peak=math.nan, limit=1), 7)
    with pytest.raises(ScenarioError, match=r"poison.*did you mean poisson"):
        requests(Load("poison", limit=1), 7)
    with pytest.raises(ScenarioError, match="shares"):
        requests(Load(limit=1, classes={"a": (-1, None), "b": (2, None)}), 7)
    with pytest.raises(ScenarioError, match=r"azure-con.*did you mean azure-conv"):
        requests(Load(limit=1, lengths="azure-con"), 7)
    with pytest.raises(ScenarioError, match="give one"):
        requests(Load(limit=1, lengths=3), 7)


def test_an_idle_base_has_arrivals_in_bursts_only() -> None:
    phase = gather(Load("bursty", rate=0.0), until=3000.0).arrival_s % 300.0
    assert len(phase) > 10_000
    assert phase.min() >= 120.0 - 1e-9
    assert phase.max() <= 180.0 + 1e-9


def test_classes_share_the_requests_and_may_have_their_own_lengths() -> None:
    load = Load(limit=50_000, classes={"chat": Share(3), "code": Share(1, Mean(2000, 30))})
    got = gather(load)
    assert got.class_names == class_names(load) == ("chat", "code")
    assert (got.request_class == 1).mean() == pytest.approx(0.25, abs=0.01)
    assert set(got.prompt_tokens[got.request_class == 0]) == {500}
    assert set(got.output_tokens[got.request_class == 1]) == {30}
    assert class_names(Load()) == ("default",)


def test_a_million_requests_take_a_second_and_no_memory() -> None:
    load = Load(rate=900.0, limit=10**6, lengths="azure-conv")
    start = time.process_time()
    assert sum(len(part) for part in requests(load, 7)) == 10**6
    assert time.process_time() - start < 4.0
    tracemalloc.start()
    assert sum(len(part) for part in requests(replace(load, limit=200_000), 7)) == 200_000
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
