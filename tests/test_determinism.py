"""One scenario and seed give one result: in every process, however many share the work, compiled or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdsim.experiment import cells, run_cells
from sdsim.scenario import scenario_from_mapping
from tests.figures import figures
from tests.random_scenarios import random_case

ROOT = Path(__file__).parent.parent
KEPT = json.loads((ROOT / "tests/records/figures.json").read_text())


def elsewhere(**environment: str) -> str:
    """Return the digest of the figures that a process of its own finds."""
    words = [sys.executable, "-W", "error", "-m", "tests.figures"]
    known = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment}
    found = subprocess.run(words, cwd=ROOT, env=known, capture_output=True, text=True, check=True)
    return str(json.loads(found.stdout)["digest"])


@pytest.fixture(scope="module")
def here():
    return figures()


def test_the_figures_are_those_of_every_environment(here):
    """Python 3.11 to 3.13 and numpy 2.4 and 2.5 gave the same bytes; elsewhere a last digit may differ."""
    assert here["sums"] == pytest.approx(KEPT["sums"], rel=1e-9, abs=1e-12)


def test_other_processes_and_uncompiled_rules_give_the_same_bytes(here):
    assert elsewhere(PYTHONHASHSEED="1", NUMBA_DISABLE_JIT="1") == here["digest"]


def test_workers_give_what_one_process_gives():
    mapping, _ = random_case(2)
    scenario = scenario_from_mapping(mapping | {"policy": ["goodput", "off"], "seeds": 3, "until": None})
    todo = cells(scenario)
    serial, shared = run_cells(todo, jobs=1), run_cells(todo, jobs=3)
    for one, other in zip(serial, shared, strict=True):
        assert one.policy == other.policy
        for ours, theirs in ((one.requests, other.requests), (one.steps, other.steps)):
            assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}
