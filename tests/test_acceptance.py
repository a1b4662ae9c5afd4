"""Acceptance against Leviathan's formula, exact chains, and the confidence model's stated AUC."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sdsim.acceptance import (
    MAX_DRAFT_LENGTH,
    Acceptance,
    Component,
    conditional_rates,
    make_acceptance,
    profile_names,
    profile_rates,
)
from sdsim.errors import ScenarioError
from sdsim.streams import coins

IDS = np.arange(3000)
OUT = np.full(3000, 60)
NONE = np.zeros(3000, dtype=np.int64)


def mean_emitted(law: Acceptance, length: int, plane: int = 0) -> float:
    depths, offsets = law.depths(IDS, OUT, NONE)
    starts = (offsets[:-1, None] + np.arange(0, 60, length + 1)).ravel()
    return float(np.minimum(depths[plane][starts], length).mean() + 1)


@pytest.mark.parametrize("length", [1, 2, 4, 8])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 1.0])
def test_iid_against_leviathan(rate, length):
    law = Acceptance(7, (Component("all", 1, rate),))
    expected = length + 1 if rate == 1 else (1 - rate ** (length + 1)) / (1 - rate)
    assert mean_emitted(law, length) == pytest.approx(expected, rel=0.01)
    assert law.tokens_per_step(length) == pytest.approx(expected)


def test_depths_are_runs_of_the_requests_own_coins():
    law = Acceptance(3, (Component("all", 1, 0.6),))
    depths, offsets = law.depths(np.array([5, 9]), np.array([10, 3]), np.array([0, 0]))
    for request, start, width in ((5, 0, 10), (9, offsets[1], 3)):
        won = (
            coins(3, "acceptance", np.full(width + MAX_DRAFT_LENGTH, request), np.arange(width + MAX_DRAFT_LENGTH))
            < 0.6
        )
        for p in range(width):
            run = 0
            while p + run < len(won) and won[p + run]:
                run += 1
            assert min(depths[0][start + p], MAX_DRAFT_LENGTH) == min(run, MAX_DRAFT_LENGTH)


def test_positions_are_unconditional_and_converted():
    rates = np.array([0.73, 0.521, 0.355])
    assert np.cumprod(conditional_rates(rates)) == pytest.approx(rates)
    law = make_acceptance(SimpleNamespace(kind="positions", rates=rates.tolist(), auc=None), 1)
    for length in (1, 2, 3):
        assert mean_emitted(law, length) == pytest.approx(1 + rates[:length].sum(), rel=0.01)
    assert law.longest == 3


@pytest.mark.parametrize("name", profile_names())
def test_profiles_hold_at_each_length(name):
    law = make_acceptance(SimpleNamespace(kind="profile", name=name, auc=None), 1)
    lengths = [law.tokens_per_step(k) for k in range(1, law.longest + 1)]
    from sdsim.acceptance import _profiles

    assert lengths == pytest.approx(_profiles()[name], rel=0.01)
    for k in (1, 4, 8):
        assert mean_emitted(law, k, plane=k - 1) == pytest.approx(lengths[k - 1], rel=0.02)


def test_profile_rates_are_probabilities():
    for name in profile_names():
        law = make_acceptance(SimpleNamespace(kind="profile", name=name, auc=None), 1)
        assert law.positions is not None
        assert ((law.positions >= 0) & (law.positions <= 1)).all()
    assert profile_rates([1.5, 1.8]).shape == (2, 2)


def mixture(**classes):
    parts = {n: SimpleNamespace(weight=w, rate=r, spread=s) for n, (w, r, s) in classes.items()}
    return SimpleNamespace(kind="mixture", classes=parts, auc=None)


def test_mixture_draws_a_level_per_request():
    law = make_acceptance(mixture(code=(1, 0.9, 0.05), chat=(3, 0.6, 0.1)), 5)
    rates = law.request_rates(IDS, NONE)
    assert rates.mean() == pytest.approx(0.675, abs=0.01)
    assert law.mean_rate == pytest.approx(0.675)
    chat = rates[rates < 0.75]
    assert chat.std() == pytest.approx(0.1, abs=0.015)
    assert mean_emitted(law, 3) == pytest.approx(law.tokens_per_step(3), rel=0.015)


def test_a_requests_rate_is_its_own_whoever_is_asked_for_with_it():
    law = make_acceptance(mixture(code=(1, 0.9, 0.05), chat=(3, 0.6, 0.1)), 5)
    assert law.request_rates(IDS, NONE)[::3].tolist() == law.request_rates(IDS[::3], NONE[::3]).tolist()


@pytest.mark.parametrize("auc", [None, 0.6])
def test_runs_of_any_length_are_longer_than_any_draft(auc):
    """600 drafts in a row are accepted: depths are bytes, and must not wrap round."""
    law = Acceptance(1, (Component("all", 1, 1.0),), auc=auc)
    depths, _ = law.depths(np.array([0]), np.array([600]), np.array([0]))
    assert depths[0][:600].min() >= MAX_DRAFT_LENGTH


def test_mixture_follows_the_workloads_classes():
    law = make_acceptance(mixture(code=(1, 0.9, 0), chat=(1, 0.5, 0)), 5, ("chat", "code"))
    assert law.request_rates(np.array([1, 2]), np.array([0, 1])).tolist() == [0.5, 0.9]
    with pytest.raises(ScenarioError, match="no rate for workload class code"):
        make_acceptance(mixture(chat=(1, 0.5, 0)), 5, ("chat", "code"))
    with pytest.raises(ScenarioError, match="too wide"):
        make_acceptance(mixture(chat=(1, 0.5, 0.6)), 5)


@pytest.mark.parametrize("auc", [0.6, 0.75])
@pytest.mark.parametrize("rate", [0.5, 0.8])
def test_confidence_has_the_stated_auc_and_leaves_acceptance_alone(auc, rate):
    law = Acceptance(11, (Component("all", 1, rate),), auc=auc)
    for length in (1, 4):
        assert mean_emitted(law, length) == pytest.approx((1 - rate ** (length + 1)) / (1 - rate), rel=0.012)
    depths, offsets = law.depths(IDS, OUT, NONE)
    believed = law.confidence(IDS, NONE, NONE, 1)[:, 0]
    won = depths[0][offsets[:-1]] > 0
    a, b = believed[won], believed[~won]
    measured = (a[:, None] > b[None, :]).mean()
    assert measured == pytest.approx(auc, abs=0.03)


def test_an_auc_out_of_reach_is_refused():
    with pytest.raises(ScenarioError, match="out of reach"):
        Acceptance(1, (Component("all", 1, 0.8),), auc=0.999)


def test_the_same_coins_whatever_the_grouping():
    law = Acceptance(2, (Component("all", 1, 0.7, 0.1),))
    together, offsets = law.depths(IDS[:50], OUT[:50], NONE[:50])
    alone, _ = law.depths(IDS[20:21], OUT[20:21], NONE[20:21])
    mine = together[0][offsets[20] : offsets[21]]
    assert (np.minimum(mine, 16)[:60] == np.minimum(alone[0], 16)[:60]).all()


def test_confidence_follows_the_positions_of_the_chain_that_is_pending():
    law = Acceptance(3, positions=np.array([[0.9, 0.0], [0.2, 0.6]]), auc=0.7)
    alone, pair = (law.confidence(IDS, NONE, NONE, length).mean(axis=0) for length in (1, 2))
    assert alone[0] > 0.75
    assert pair[0] < 0.4 < 0.5 < pair[1]
