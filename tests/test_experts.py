"""Distinct experts against Monte Carlo, exact formulas and the limits of each knob."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.experts import Correlated, NoExperts, Skewed, make_routing

SHAPES = [(128, 8), (64, 8), (8, 2), (256, 8), (64, 6)]


@pytest.mark.parametrize(("experts", "k"), SHAPES)
def test_uniform_against_the_formula_and_monte_carlo(experts, k):
    rng = np.random.default_rng(experts)
    law = make_routing(experts, k)
    for tokens in (1, 3, 17, 60):
        expected = experts * (1 - (1 - k / experts) ** tokens)
        assert law.distinct(np.ones(tokens)) == pytest.approx(expected)
        draws = [len(np.unique(np.argsort(rng.random((tokens, experts)), axis=1)[:, :k])) for _ in range(400)]
        assert np.mean(draws) == pytest.approx(expected, abs=4 * np.std(draws) / 20 + 0.01)


def test_skewed_against_monte_carlo():
    rng = np.random.default_rng(1)
    for alpha in (0.0, 0.8, 1.2):
        law = Skewed(128, 8, alpha)
        assert law.inclusion.sum() == pytest.approx(8)
        p = np.arange(1, 129.0) ** -alpha
        for tokens in (1, 4, 32):
            keys = np.log(rng.random((300, tokens, 128))) / p
            chosen = np.argpartition(-keys, 8, axis=2)[:, :, :8]
            mean = np.mean([len(np.unique(c)) for c in chosen])
            assert law.distinct(np.ones(tokens)) == pytest.approx(mean, rel=0.02)


def test_knobs_in_their_limits():
    law = Correlated(128, 8, within=0.7, between=0.9)
    one_knob = lambda t, r: 128 * (1 - (1 - 8 / 128) ** (1 + r * (t - 1)))  # noqa: E731
    assert law.distinct([5]) == pytest.approx(one_knob(5, 0.7))
    assert law.distinct(np.ones(9)) == pytest.approx(one_knob(9, 0.9))
    assert Correlated(128, 8).distinct([5, 5]) == pytest.approx(one_knob(10, 1.0))
    assert law.distinct([5], prefill_tokens=0, padding=3) > law.distinct([5])
    assert law.distinct([], prefill_tokens=0) == 0
    assert law.distinct([], prefill_tokens=1) == pytest.approx(8)


@given(
    rows=st.integers(1, 256), each=st.integers(1, 9), prefill=st.integers(0, 8192),
    within=st.floats(0.1, 1), between=st.floats(0.1, 1), shape=st.sampled_from(SHAPES),
)  # fmt: skip
def test_bounds_and_monotonicity(rows, each, prefill, within, between, shape):
    experts, k = shape
    law = Correlated(experts, k, within, between)
    got = law.distinct_uniform_rows(rows, rows * each, prefill)
    assert k - 1e-9 <= got <= experts + 1e-9
    assert got <= Correlated(experts, k).distinct_uniform_rows(rows, rows * each, prefill) + 1e-9
    assert law.distinct_uniform_rows(rows + 1, (rows + 1) * each, prefill) >= got - 1e-9
    assert law.distinct_uniform_rows(rows, rows * each + 1, prefill) >= got - 1e-9


def test_dense_models_and_full_activation():
    assert isinstance(make_routing(0, 0), NoExperts)
    assert make_routing(0, 0).distinct([1, 2]) == 0
    assert make_routing(8, 8).distinct([1]) == 8
