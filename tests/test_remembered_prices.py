"""Prices are kept, and forgotten where too many are: that must not show in what a run does."""

from __future__ import annotations

import numpy as np
import pytest

from sdsim.latency import calibrated, composition, prices, tables
from sdsim.policies import priced, verify_prices
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate

KEEPERS = (composition, prices, tables, calibrated, priced, verify_prices)
MAPPING = {
    "model": "qwen2-57b-a14b",
    "draft": {"kind": "model", "model": "qwen2-0.5b"},
    "gpus": "1 x h200",
    "workload": {"kind": "poisson", "rate": 60, "limit": 40, "lengths": {"prompt": 300, "output": 25}},
    "acceptance": {"kind": "iid", "rate": 0.7, "auc": 0.8},
    "slo": {"tpot": "40ms"},
    "seed": 4,
}


@pytest.mark.parametrize("policy", ["goodput", "auto", "marginal_experts", "slos_serve", "adaserve"])
def test_what_is_forgotten_is_priced_the_same_again(monkeypatch, policy):
    scenario = scenario_from_mapping(MAPPING | {"policy": policy})
    kept = simulate(scenario)
    for module in KEEPERS:
        monkeypatch.setattr(module, "REMEMBERED", 1)
    forgotten = simulate(scenario)
    for name, column in kept.steps.items():
        np.testing.assert_array_equal(forgotten.steps[name], column, err_msg=name)
    for name, column in kept.requests.items():
        np.testing.assert_array_equal(forgotten.requests[name], column, err_msg=name)
    assert forgotten.summary["data_quality"] == pytest.approx(kept.summary["data_quality"], rel=1e-12)
