"""The paper's equations, and its model refitted to points made from known parameters."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from sdsim.moesd import (
    Parameters,
    activated_experts,
    bounds,
    fit,
    full_activation_tokens,
    measurements,
    model_speedup,
    roofline_growth,
    sigma,
    speedup,
)

DIGITISED = Path(__file__).resolve().parent.parent.parent / "shared/data/paper/moesd_fig4_digitised.csv"
RIDGE = 312 / 2.039


def limits():
    bandwidth = 2 * 2.039e12
    return bounds(1.93e9 * 2 / bandwidth * 1e3, 770.7e6 * 2 / bandwidth * 1e3, 0.494e9 * 2 / 2.039e12 * 1e3, 2.0)


def test_sigma_is_the_geometric_sum():
    for rate, gamma in ((0.8, 4), (0.3, 2), (0.0, 3)):
        assert sigma(rate, gamma) == pytest.approx(sum(rate**j for j in range(gamma + 1)) / (gamma + 1))
    assert sigma(1.0, 5) == 1


@pytest.mark.parametrize(
    ("experts", "k", "tokens"), [(64, 8, 23), (8, 2, 11), (128, 8, 47), (256, 8, 95), (8, 8, 1), (1, 1, 1)]
)
def test_full_activation(experts, k, tokens):
    assert full_activation_tokens(experts, k) == tokens
    assert activated_experts(tokens, experts, k) >= 0.95 * experts


def test_growth_is_continuous_with_its_slope():
    below, at, above = roofline_growth([99.999, 100, 100.001], 100, 1.02)
    assert above - at == pytest.approx(at - below, rel=1e-3)


def test_speedup_is_eq_4():
    assert speedup(0.91, 4, 10.0, 12.0, 1.0, 0.5) == pytest.approx(0.91 * 5 * 10 / (4 + 12 + 0.5))


def test_fit_recovers_the_curve_it_was_made_from():
    truth = Parameters(2.0, 0.05, 0.5, 0.05, 0.4, 0.02, 0.3, 0.005, 0.5, 1.01)
    grid = [(b, g, k, 0.9, 0.0) for k in (2, 4, 8, 16) for g in (2, 4) for b in (1, 2, 4, 8, 16, 32, 64, 100)]
    blank = measurements(grid)
    made = model_speedup(truth, 64, RIDGE, blank)
    filled = measurements([(*row[:4], s) for row, s in zip(grid, made, strict=True)])
    found, error = fit(filled, 64, RIDGE, limits(), starts=6)
    assert error < 0.02
    assert model_speedup(found, 64, RIDGE, blank) == pytest.approx(made, abs=0.08)


@pytest.mark.skipif(not DIGITISED.exists(), reason="needs ../shared/data/paper")
def test_fit_of_the_papers_points():
    """The paper prints no error; a refit of its 205 readable points leaves about 0.11."""
    rows = list(csv.DictReader(DIGITISED.read_text().splitlines()))
    points = [
        (
            *(int(r[k]) for k in ("B", "gamma", "K")),
            {"2": 0.94, "4": 0.91}[r["gamma"]],
            float(r["speedup_adj_digitised"]),
        )
        for r in rows
        if r["speedup_adj_digitised"] not in ("", "None")
    ]
    found, error = fit(measurements(points), 64, RIDGE, limits(), starts=4)
    assert error < 0.115
    curve = model_speedup(found, 64, RIDGE, measurements([(b, 4, 8, 0.91, 0) for b in (1, 8, 16, 100)]))
    assert np.argmax(curve) in (1, 2)
