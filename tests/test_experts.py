"""Distinct experts against Monte Carlo, exact formulas and the limits of each knob."""

from __future__ import annotations

from itertools import combinations, permutations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.experts import Correlated, NoExperts, Skewed, busiest_rank, make_routing, other_ranks_reached

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


def chosen_sets(weights, k):
    """Return every set of *k* experts, and its chance when they are drawn in proportion to *weights*, none twice."""
    found = {}
    for order in permutations(range(len(weights)), k):
        chance, left = 1.0, sum(weights)
        for expert in order:
            chance, left = chance * weights[expert] / left, left - weights[expert]
        found[frozenset(order)] = found.get(frozenset(order), 0.0) + chance
    return found


def mean_union(sets, tokens):
    """Return the mean number of experts that *tokens* tokens choose together, every outcome counted."""
    return sum(
        float(np.prod([sets[one] for one in chosen])) * len(frozenset().union(*chosen))
        for chosen in product(sets, repeat=tokens)
    )


@pytest.mark.parametrize(("experts", "k", "tokens"), [(5, 2, 1), (5, 2, 3), (6, 3, 2), (4, 1, 4), (6, 2, 3)])
def test_uniform_against_every_outcome_and_inclusion_exclusion(experts, k, tokens):
    """The chance that exactly m experts are touched is a sum over the subsets that are missed."""
    law = make_routing(experts, k)
    chances = {
        m: comb(experts, m)
        * sum((-1) ** (m - j) * comb(m, j) * (comb(j, k) / comb(experts, k)) ** tokens for j in range(k, m + 1))
        for m in range(k, experts + 1)
    }
    assert sum(chances.values()) == pytest.approx(1)
    found = law.distinct_uniform_rows(1, tokens)
    assert found == pytest.approx(sum(m * chance for m, chance in chances.items()))
    assert found == pytest.approx(mean_union(chosen_sets([1.0] * experts, k), tokens))


@pytest.mark.parametrize("alpha", [0.5, 1.2])
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_skewed_is_near_every_outcome(alpha, tokens):
    """Its independent choices stand for draws without replacement: within 4% even of six experts."""
    exact = mean_union(chosen_sets([(r + 1.0) ** -alpha for r in range(6)], 2), tokens)
    assert Skewed(6, 2, alpha).distinct_uniform_rows(1, tokens) == pytest.approx(exact, rel=0.04)


@pytest.mark.parametrize(("experts", "k", "ranks"), [(8, 2, 2), (8, 3, 4), (6, 2, 3), (8, 8, 4)])
def test_ranks_reached_against_every_choice(experts, k, ranks):
    each = experts // ranks
    reached = [len({expert // each for expert in chosen} - {0}) for chosen in combinations(range(experts), k)]
    assert other_ranks_reached(experts, k, ranks) == pytest.approx(np.mean(reached))


@pytest.mark.parametrize("kind", [{"kind": "uniform"}, {"kind": "skewed", "alpha": 1.2}])
def test_padding_tokens_are_all_alike(kind):
    """They choose one set of experts, however many they are: as one token more."""
    law = make_routing(64, 8, **kind)
    assert law.distinct([3], padding=9) == law.distinct([3], padding=1) == law.distinct([4])


def test_a_single_expert_is_loaded_whole_by_the_busiest_rank():
    assert busiest_rank(64, 1, 1, 1.0, 64) == (1, 1.0)
