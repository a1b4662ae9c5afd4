"""The Chrome trace of a run: what a viewer needs, and the laws of time."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdsim.errors import ScenarioError
from sdsim.report.perfetto import COUNTERS, trace_events, write_trace
from sdsim.result import Result
from sdsim.run import main
from sdsim.run_folder import read_run
from tests.recorded_runs import TIGHT, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("perfetto"), "--trace")


@pytest.fixture(scope="module")
def run(folder: Path) -> Result:
    return read_run(folder)


@pytest.fixture(scope="module")
def events(folder: Path) -> list[dict[str, Any]]:
    with gzip.open(folder / "trace.json.gz", "rt") as file:
        return json.load(file)["traceEvents"]


def tracks(events: list[dict[str, Any]], phase: str) -> dict[Any, list[dict[str, Any]]]:
    found = defaultdict(list)
    for event in events:
        if event["ph"] == phase:
            found[event["pid"], event["name"] if phase == "C" else event["tid"]].append(event)
    return found


def test_every_step_is_one_event_on_its_replicas_track(events: list[dict[str, Any]], run: Result) -> None:
    found = tracks(events, "X")
    for (replica, _), steps in found.items():
        mine = run.steps["replica"] == replica
        assert [e["args"]["step"] for e in steps] == run.steps["step"][mine].tolist()
        assert [e["args"]["accepted_tokens"] for e in steps] == run.steps["accepted_tokens"][mine].tolist()
    assert sum(map(len, found.values())) == len(run.steps["step"])
    named = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert named == {0: "replica 0, goodput", 1: "replica 1, goodput"}


def test_steps_of_a_track_do_not_overlap(events: list[dict[str, Any]]) -> None:
    for steps in tracks(events, "X").values():
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(steps))
        assert all(e["dur"] > 0 for e in steps)


def test_steps_that_meet_in_the_run_meet_in_the_trace(events: list[dict[str, Any]], run: Result) -> None:
    for (replica, _), steps in tracks(events, "X").items():
        mine = {k: v[run.steps["replica"] == replica] for k, v in run.steps.items()}
        meet = (mine["start_s"] + mine["seconds"])[:-1] == mine["start_s"][1:]
        gaps = np.array([b["ts"] - a["ts"] - a["dur"] for a, b in pairwise(steps)])
        assert (gaps[meet] == 0).all()
        assert meet.sum() > 100


def test_durations_sum_to_the_records(events: list[dict[str, Any]], run: Result) -> None:
    total_us = sum(e["dur"] for e in events if e["ph"] == "X")
    assert total_us == pytest.approx(1e6 * run.steps["seconds"].sum(), abs=len(run.steps["step"]))


def test_times_are_whole_and_never_fall_on_a_track(events: list[dict[str, Any]]) -> None:
    for phase in "XC":
        for track in tracks(events, phase).values():
            times = [e["ts"] for e in track]
            assert all(isinstance(t, int) for t in times)
            assert times == sorted(times)


def test_steps_are_named_and_coloured_by_their_draft_length(run: Result) -> None:
    looks = defaultdict(set)
    for event in trace_events(run):
        if event["ph"] == "X":
            looks[event["name"]].add(event["cname"])
    lengths = {int(k) for k in run.steps["draft_length"]}
    assert set(looks) == {f"K = {k}" for k in lengths}
    assert all(len(colours) == 1 for colours in looks.values())
    assert len(set.union(*looks.values())) == len(lengths)


def test_counters_hold_the_records_at_every_step(events: list[dict[str, Any]], run: Result) -> None:
    found = tracks(events, "C")
    assert {name for _, name in found} == {"batch, rows", *COUNTERS}
    for replica in (0, 1):
        mine = {k: v[run.steps["replica"] == replica] for k, v in run.steps.items()}
        end = np.rint(1e6 * (mine["start_s"] + mine["seconds"]))
        assert (held(found[replica, "batch, rows"], np.rint(1e6 * mine["start_s"])) == mine["rows"]).all()
        assert (held(found[replica, "waiting, requests"], end) == mine["waiting"]).all()
        assert (held(found[replica, "KV cache, blocks"], end) == mine["kv_used_blocks"]).all()
        drafts = mine["verify_tokens"] - mine["rows"]
        share = 100 * mine["accepted_tokens"][drafts > 0] / drafts[drafts > 0]
        np.testing.assert_allclose(held(found[replica, "drafts accepted, %"], end[drafts > 0]), share, atol=0.051)


def held(track: list[dict[str, Any]], at: Any) -> Any:
    """Return the counter's value at times *at*, µs."""
    times = np.array([e["ts"] for e in track])
    return np.array([e["args"]["value"] for e in track])[np.searchsorted(times, at, side="right") - 1]


def test_an_idle_replica_has_no_batch(events: list[dict[str, Any]]) -> None:
    last = {pid: track[-1] for (pid, name), track in tracks(events, "C").items() if name == "batch, rows"}
    ends = {pid: max(e["ts"] + e["dur"] for e in steps) for (pid, _), steps in tracks(events, "X").items()}
    assert {pid: (e["ts"], e["args"]["value"]) for pid, e in last.items()} == {pid: (t, 0.0) for pid, t in ends.items()}


def test_the_same_run_gives_the_same_bytes(folder: Path, run: Result, tmp_path: Path) -> None:
    write_trace(run, tmp_path / "again.json.gz")
    assert (tmp_path / "again.json.gz").read_bytes() == (folder / "trace.json.gz").read_bytes()


def test_several_runs_have_a_trace_each(tmp_path: Path) -> None:
    folder = record(tmp_path, "--trace", "--policy", "off", "--policy", "goodput", "--set", "workload.limit=10")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("trace*")) == [
        "goodput/trace.json.gz",
        "off/trace.json.gz",
    ]


def test_a_run_without_steps_is_an_empty_trace(tmp_path: Path) -> None:
    folder = record(tmp_path, "--trace", "--set", "until=1us")
    with gzip.open(folder / "trace.json.gz", "rt") as file:
        assert json.load(file)["traceEvents"] == []


def test_a_trace_needs_a_folder(tmp_path: Path) -> None:
    scenario = tmp_path / "x.yaml"
    scenario.write_text(TIGHT)
    with pytest.raises(ScenarioError, match="--trace: --json alone writes no folder; allowed: with --out"):
        main([str(scenario), "--json", "--trace"])
