"""The table search: against every table there is, on scenarios small enough to try them all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sdsim.scenario import PolicySpec, scenario_from_mapping
from sdsim.simulation import simulate
from sdsim.standings import headline, score
from sdsim.tuning import EVERYTHING, TableSearch, cells

LENGTHS = (0, 2, 4)


def small(workload, **more):
    common = {"model": "qwen3-30b-a3b", "draft": {"kind": "model", "model": "qwen2-0.5b"}, "gpus": "1 x h200"}
    return scenario_from_mapping(common | {"workload": workload, "seeds": 2} | more)


BURST = {"kind": "bursty", "rate": 2, "peak": 150, "period": 2.0, "limit": 60, "lengths": {"prompt": 60, "output": 60}}
CLOSED = {"kind": "closed", "concurrency": 6, "limit": 24, "lengths": {"prompt": 60, "output": 50}}


def value(scenario, spec):
    seeds = range(scenario.seed, scenario.seed + scenario.seeds)
    return np.mean([score(headline(scenario), simulate(scenario, spec, seed).summary) for seed in seeds])


@pytest.mark.parametrize("workload", [BURST, CLOSED])
def test_it_finds_the_best_of_all_tables(workload, monkeypatch):
    monkeypatch.setattr("sdsim.tuning.BATCHES", 2)
    monkeypatch.setattr("sdsim.tuning.CONTEXTS", 1)
    scenario = small(workload, acceptance={"kind": "iid", "rate": 0.6})
    found = TableSearch(scenario, LENGTHS).best()
    ranges = [row[:4] for row in found.parameters["table"]]
    assert len(ranges) == (1 if workload["kind"] == "closed" else 2)
    best = 0.0
    for entries in itertools.product(LENGTHS, repeat=len(ranges)):
        table = [[*span, k] for span, k in zip(ranges, entries, strict=True)]
        best = max(best, value(scenario, PolicySpec(kind="batch_context_table", parameters={"table": table})))
    assert value(scenario, found) == pytest.approx(best)


def test_ranges_cover_everything_and_are_what_the_table_policy_takes():
    scenario = small(BURST, acceptance={"kind": "iid", "rate": 0.6})
    found = cells(simulate(scenario, PolicySpec(kind="fixed", parameters={"length": 2})), scenario.block_size)
    assert found[0][:1] == (1,)
    assert {cell.batch_last for cell in found if cell.context_last == EVERYTHING} == {c.batch_last for c in found}
    assert max(cell.batch_last for cell in found) == EVERYTHING
    PolicySpec(kind="batch_context_table", parameters={"table": [[*cell, 1] for cell in found]})


def test_no_constant_length_is_better_than_the_table():
    scenario = small(BURST, acceptance={"kind": "iid", "rate": 0.4})
    search = TableSearch(scenario, LENGTHS)
    found = value(scenario, search.best())
    assert search.runs < 200
    for k in LENGTHS:
        assert found >= value(scenario, PolicySpec(kind="fixed", parameters={"length": k})) * (1 - 1e-12)
