"""What the report draws: quantiles, intervals, bins and axes against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.report.html.bands import batch_edges, mean_and_interval, means_by_bin, quantiles
from sdsim.report.html.chart import Look, band, numbers, seconds_axis
from sdsim.report.html.pareto import Point, front
from sdsim.statistics import interval


@given(st.lists(st.floats(0, 1e3) | st.just(np.inf), min_size=1, max_size=60), st.integers(1, 99))
def test_quantiles_are_those_of_the_sample(values: list[float], percent: int) -> None:
    found = quantiles(np.array(values), shares=np.array([percent / 100]))[0]
    assert found == np.percentile(values, percent, method="inverted_cdf")


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 5)), min_size=1, max_size=30))
def test_weights_repeat_values(pairs: list[tuple[float, int]]) -> None:
    values, weights = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    repeated = np.repeat(values, weights.astype(int))
    found = quantiles(values, weights)
    assert np.isnan(found).all() if not len(repeated) else (found == quantiles(repeated)).all()


def test_intervals_are_those_of_the_statistics() -> None:
    sample = np.random.default_rng(1).normal(5, 1, (4, 7))
    mean, low, high = mean_and_interval(sample)
    for i in range(7):
        assert (low[i], high[i]) == pytest.approx(interval(sample[:, i]))
    np.testing.assert_allclose(mean, sample.mean(axis=0))
    assert all(np.array_equal(side, sample[0]) for side in mean_and_interval(sample[:1]))
    sample[2, 3] = np.inf
    assert np.isnan(mean_and_interval(sample)[0]).tolist() == [i == 3 for i in range(7)]


@given(st.integers(1, 10_000))
def test_batch_bins_hold_every_batch_once(most: int) -> None:
    edges = batch_edges(most)
    assert (np.diff(edges) > 0).all()
    counts, _ = np.histogram(np.arange(1, most + 1), edges)
    assert counts.sum() == most


def test_means_by_bin_are_weighted() -> None:
    x, values, weights = np.array([1.0, 1.0, 3.0]), np.array([2.0, 4.0, 9.0]), np.array([3.0, 1.0, 2.0])
    np.testing.assert_allclose(means_by_bin(x, values, weights, np.array([0.5, 1.5, 2.5, 3.5])), [2.5, np.nan, 9.0])


def test_bands_leave_out_what_is_unknown() -> None:
    x, low, high = np.arange(3.0), np.array([0.0, np.nan, 2.0]), np.array([1.0, np.nan, 3.0])
    trace = band((x, x), (low, high), Look("--run-0", run=2))
    assert (trace["x"], trace["y"]) == ([0, 2, 2, 0], [0, 2, 3, 1])
    assert (trace["fillcolor"], trace["meta"]) == ("--run-0-band", {"run": 2})


@given(st.floats(1e-6, 1e3), st.floats(1.1, 1e5))
def test_axes_of_time_have_a_few_ticks_within_reach(low: float, ratio: float) -> None:
    axis = seconds_axis("TTFT", low, low * ratio)
    shown = [t for t in axis["tickvals"] if axis["range"][0] <= np.log10(t) <= axis["range"][1]]
    assert len(shown) <= 8
    assert len(shown) >= (ratio > 2)


def test_numbers_keep_five_digits_and_no_infinity() -> None:
    assert numbers(np.array([1.23456789, np.inf, np.nan, 1e-9])) == [1.2346, None, None, 1e-9]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_front_holds_whom_no_other_beats(rates: list[tuple[int, int]]) -> None:
    points = [Point(None, user, gpu) for user, gpu in rates]  # type: ignore[arg-type]
    best = {(p.per_user, p.per_gpu) for p in front(points)}
    beaten = {a for a in rates if any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in rates)}
    assert best == set(rates) - beaten
