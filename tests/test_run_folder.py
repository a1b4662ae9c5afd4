"""Run folders: what was recorded comes back, and damage is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdsim.errors import ScenarioError
from sdsim.report_html import main
from sdsim.run_folder import find_runs, read_run
from sdsim.simulation import simulate
from tests.recorded_runs import POLICIES, record


def test_runs_come_back_as_they_were(tmp_path: Path) -> None:
    folder = record(tmp_path)
    run, again = read_run(folder, "tight"), simulate(read_run(folder).scenario)
    for name, values in again.steps.items():
        np.testing.assert_array_equal(run.steps[name], values)
    for name, values in again.requests.items():
        np.testing.assert_array_equal(run.requests[name], values)
    assert (run.class_names, run.scenario) == (again.class_names, again.scenario)
    assert run.summary["ttft_s"] == again.summary["ttft_s"]


def test_runs_are_found_in_the_order_of_their_summary(tmp_path: Path) -> None:
    folder = record(tmp_path, *POLICIES, "--seeds", "2", "--set", "workload.limit=5")
    names = [f"{policy}-seed-{seed}" for policy in ("off", "fixed-3", "goodput") for seed in (3, 4)]
    assert [part.name for part in find_runs(folder)] == names


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", b"{", "summary.json: line 1: .*; allowed: the file as sdsim.run wrote it"),
        ("summary.json", b"[]", "summary.json: not one JSON object"),
        ("summary.json", b"{}", "summary.json: policy: nothing"),
        ("scenario.yaml", b"\xff", "scenario.yaml: cannot be read: line 1: not UTF-8"),
        ("scenario.yaml", b"a: [", "scenario.yaml:1: not readable as YAML"),
        ("scenario.yaml", b"model: x", "gpus: missing"),
        ("steps.parquet", b"PAR1", "steps.parquet: "),
    ],
)
def test_damaged_runs_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    folder = record(tmp_path, "--set", "workload.limit=3")
    (folder / name).write_bytes(content)
    with pytest.raises(ScenarioError, match=message):
        main([str(folder)])
    assert not (folder / "report.html").exists()
