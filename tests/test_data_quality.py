"""What a run says of its prices: the shares of time that were measured, interpolated and extrapolated."""

from __future__ import annotations

import numpy as np
import pytest

from sdsim.latency.composition import ComposedLatency
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate

QUALITIES = ("measured", "interpolated", "extrapolated")


def run(monkeypatch, **changes):
    """Return the shares of a run, and the GPU seconds of its steps by quality, priced one by one with `cost`."""
    asked = {}
    seconds = ComposedLatency.seconds

    def noted(self, shape, /):
        asked.setdefault(id(self), (self, []))[1].append(shape)
        return seconds(self, shape)

    monkeypatch.setattr(ComposedLatency, "seconds", noted)
    mapping = {
        "model": "qwen3-30b-a3b",
        "draft": "eagle3",
        "gpus": "1 x h200",
        "workload": {"kind": "poisson", "rate": 40, "limit": 60, "lengths": {"prompt": 700, "output": 30}},
        "acceptance": {"kind": "iid", "rate": 0.7},
        "policy": {"kind": "fixed", "length": 2},
    }
    said = simulate(scenario_from_mapping(mapping | changes)).summary["data_quality"]
    ((model, shapes),) = asked.values()
    spent = np.zeros(3)
    for shape in shapes:
        cost = model.cost(shape)
        spent += [(sum(cost.components.values()) - cost.components["host"]) * cost.quality[q] for q in QUALITIES]
    return said, spent


LONG = {"kind": "poisson", "rate": 1, "limit": 3, "lengths": {"prompt": 30_000, "output": 20}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"workload": LONG},
        {"model": "deepseek-v2-lite", "draft": "none", "policy": "off"},
        {"model": "gpt-oss-120b"},
        {"engine": "vllm-0.22.1", "draft": {"kind": "model", "model": "qwen2-0.5b"}, "model": "qwen2-57b-a14b"},
    ],
)
def test_shares_are_those_of_the_steps_priced_one_by_one(monkeypatch, changes):
    said, spent = run(monkeypatch, **changes)
    assert [said[q] for q in QUALITIES] == pytest.approx(spent / spent.sum(), rel=1e-9)
    assert sum(said.values()) == pytest.approx(1, rel=1e-12)


def test_what_was_timed_has_no_share_extrapolated_and_a_roofline_no_other(monkeypatch):
    assert run(monkeypatch, draft="none", policy="off")[0]["extrapolated"] == 0
    monkeypatch.undo()
    assert run(monkeypatch, calibration="roofline")[0] == {"measured": 0, "interpolated": 0, "extrapolated": 1}
