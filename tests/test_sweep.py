"""Sweeps: every cell is there once, and the table is the same bytes whoever ran it and however often it was ended."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdsim.sweep
from sdsim.errors import ScenarioError, SdsimError
from sdsim.grid import product
from sdsim.grid.file import read_grid
from sdsim.grid.journal import open_journal, read_journal
from sdsim.latency.calibration import load_shipped
from sdsim.scenario import load_scenario
from sdsim.simulation import simulate
from sdsim.sweep import main
from sdsim.workers import chunks, cluster_workers

ROOT = Path(__file__).resolve().parent.parent
BASE = """
model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
workload: {kind: poisson, rate: 50/s, limit: 20, lengths: {prompt: 200, output: 20}}
acceptance: {kind: iid, rate: 0.8}
slo: {ttft: 2s, tpot: 20ms}
"""
AXES = """
axes:
  workload.rate: [20/s, 40/s]
  policy: [off, {kind: fixed, length: 3}]
  seed: [1, 2]
"""
INLINE = "scenario:" + BASE.replace("\n", "\n  ").rstrip() + "\n"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Return a function that writes a sweep file and says where; the current folder is its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)

    def write(axes=AXES, scenario="scenario: base.yaml\n"):
        (tmp_path / "many.yaml").write_text(scenario + axes)
        return "many.yaml"

    return write


def table(path="runs/many.parquet"):
    return pq.read_table(path).to_pylist()


def environment():
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}."}


def test_every_combination_is_a_row_and_its_figures_are_the_runs(sweep):
    assert main([sweep(), "--jobs", "1", "--quiet"]) == 0
    rows = table()
    keys = [(row["workload.rate"], row["policy"], row["seed"]) for row in rows]
    assert keys == [(r, p, s) for r in (20, 40) for p in ("off", "fixed-3") for s in (1, 2)]
    for row in rows:
        spec = json.loads(row["policy_spec"])
        changes = [f"workload.rate={row['workload.rate']}", f"policy={json.dumps(spec)}", f"seed={row['seed']}"]
        summary = simulate(load_scenario("base.yaml", changes)).summary
        assert row["error"] is None
        assert row["ttft_s.p99"] == summary["ttft_s"]["p99"]
        assert row["speculation.acceptance_rate"] == summary["speculation"]["acceptance_rate"]
        assert row["steps"] == summary["steps"]
        assert row["requests.finished"] == 20
    assert not {"wall_s", "steps_per_wall_s"} & rows[0].keys()
    assert [p.name for p in Path("runs").iterdir()] == ["many.parquet"]


def test_the_scenarios_own_policies_engines_and_seeds_are_cells(sweep):
    axes = "axes: {seeds: [2], policy: [[off, goodput]], draft: [eagle3, mtp]}\n"
    assert main([sweep(axes, INLINE), "--jobs", "1", "--quiet"]) == 0
    keys = [(row["draft"], row["policy"], row["seed"]) for row in table()]
    assert keys == [(d, p, s) for d in ("eagle3", "mtp") for p in ("off", "goodput") for s in (0, 1)]


def test_policies_that_share_a_label_are_told_apart(sweep):
    axes = "axes: {policy: [{kind: goodput, lengths: [0, 1]}, {kind: goodput, lengths: [0, 4]}], seed: [1, 2]}\n"
    assert main([sweep(axes), "--jobs", "1", "--quiet"]) == 0
    assert [row["policy"] for row in table()] == ["goodput", "goodput", "goodput-2", "goodput-2"]


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 4), max_size=5), st.data())
def test_products_and_axes_in_step(lengths, data):
    axes = {key: [f"{key}{i}" for i in range(n)] for key, n in lengths.items()}
    pairs = [(a, b) for a in lengths for b in lengths if a < b and lengths[a] == lengths[b]]
    zipped = [list(data.draw(st.sampled_from(pairs)))] if pairs and data.draw(st.booleans()) else []
    found = list(product(axes, zipped))
    free = [n for key, n in lengths.items() if not zipped or key != zipped[0][1]]
    count = 1
    for n in free:
        count *= n
    assert len(found) == len({tuple(values.items()) for values in found}) == count
    for values in found:
        assert list(values) == list(axes)
        for a, b in zipped:
            assert values[a][1:] == values[b][1:]
    assert found == sorted(found, key=lambda values: [values[key] for key in axes])


@given(st.integers(0, 500), st.integers(1, 16))
def test_chunks_cover_everything_once_and_end_small(count, workers):
    found = list(chunks(count, workers))
    assert [i for start, stop in found for i in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size == 1 for size in sizes[-workers:])


def test_processes_and_order_leave_no_trace(sweep):
    path = sweep()
    assert main([path, "--jobs", "1", "--quiet", "--out", "one.parquet"]) == 0
    assert main([path, "--jobs", "3", "--quiet", "--out", "three.parquet"]) == 0
    assert Path("one.parquet").read_bytes() == Path("three.parquet").read_bytes()


def test_an_interrupted_sweep_keeps_its_cells_and_runs_the_others_only(sweep, monkeypatch):
    path = sweep()
    assert main([path, "--jobs", "1", "--quiet", "--out", "whole.parquet"]) == 0
    run, calls = sdsim.sweep.outcome, []

    def counted(cell):
        calls.append(cell)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(cell)

    monkeypatch.setattr("sdsim.sweep.outcome", counted)
    with pytest.raises(KeyboardInterrupt, match="3 finished cells are kept"):
        main([path, "--jobs", "1", "--quiet"])
    assert not Path("runs/many.parquet").exists()
    with pytest.raises(ScenarioError, match="add --resume to go on"):
        main([path, "--jobs", "1", "--quiet"])
    assert main([path, "--jobs", "1", "--quiet", "--resume"]) == 0
    assert len(calls) == 4 + 5
    assert Path("runs/many.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    with pytest.raises(ScenarioError, match="exists already"):
        main([path])


def test_a_finished_sweep_resumed_is_left_as_it_is(sweep, capsys):
    """It may have been killed after its last word; a table of other cells is refused."""
    path = sweep()
    assert main([path, "--jobs", "1", "--quiet"]) == 0
    written = Path("runs/many.parquet").stat().st_mtime_ns
    Path("runs/many.parquet.journal").touch()
    assert main([path, "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert Path("runs/many.parquet").stat().st_mtime_ns == written
    assert not Path("runs/many.parquet.journal").exists()
    Path("base.yaml").write_text(BASE.replace("prompt: 200", "prompt: 201"))
    with pytest.raises(ScenarioError, match="exists already"):
        main([path, "--resume"])


def test_cells_of_an_older_sweep_are_not_used_in_silence(sweep, capsys):
    Path("runs").mkdir()
    with open_journal(Path("runs/many.parquet.journal")) as keep:
        keep("another", {"error": "none of this sweep's"})
    assert main([sweep(), "--jobs", "1", "--quiet", "--resume"]) == 0
    assert "1 cells of other points, files or versions are not used" in capsys.readouterr().err
    assert [row["error"] for row in table()] == [None] * 8


def test_other_axes_and_changed_files_run_again(sweep, monkeypatch):
    keys = {one.key for one in read_grid(Path(sweep())).cells()}
    assert len(keys) == 8
    more = {one.key for one in read_grid(Path(sweep(AXES.replace("[20/s, 40/s]", "[20/s, 30/s, 40/s]")))).cells()}
    assert keys < more
    assert len(more) == 12
    Path("base.yaml").write_text(BASE.replace("prompt: 200", "prompt: 201"))
    assert not keys & {one.key for one in read_grid(Path(sweep())).cells()}


def children_of(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


LONGER = AXES.replace("[1, 2]", "[1, 2, 3, 4, 5, 6]")


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for left processes in /proc")
def test_a_killed_sweep_resumes_and_leaves_no_process(sweep):
    path = sweep(LONGER, "scenario: slow.yaml\n")
    Path("slow.yaml").write_text(BASE.replace("limit: 20", "limit: 300"))
    assert main([path, "--jobs", "1", "--quiet", "--out", "whole.parquet"]) == 0
    words = [sys.executable, "-m", "sdsim.sweep", path, "--jobs", "2", "--quiet"]
    process = subprocess.Popen(words, env=environment())
    journal = Path("runs/many.parquet.journal")
    wait_until(lambda: lines(journal) >= 4)
    workers = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers
    wait_until(lambda: not any(running(pid) for pid in workers))
    kept = lines(journal)
    assert 4 <= kept < 24
    assert len(read_journal(journal)) == kept
    assert main([path, "--jobs", "2", "--quiet", "--resume"]) == 0
    assert Path("runs/many.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    assert not journal.exists()


ENTRIES = {f"key-{i}": {"policy": "off", "ttft_s.p50": 0.1 + i, "error": None} for i in range(6)}


@given(st.data())
def test_a_damaged_journal_never_tells_an_untruth(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "journal"
    with open_journal(path) as keep:
        for key, outcome in ENTRIES.items():
            keep(key, outcome)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    elif data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    found = read_journal(path)
    assert all(ENTRIES[key] == outcome for key, outcome in found.items())
    assert len(found) >= min(len(ENTRIES) - 2, bytes(content).count(b"\n") - 2)
    with open_journal(path) as keep:
        keep("more", {"error": "late"})
    assert read_journal(path) == found | {"more": {"error": "late"}}


BREAKING = """
import os
from sdsim.policy import Plan, learn_nothing

class Raising:
    lengths = (0, 2)
    label = "raising"
    learn = learn_nothing
    def plan(self, observation):
        raise KeyError("lost")

class Ending(Raising):
    label = "ending"
    def plan(self, observation):
        os._exit(3)
"""


def test_failures_are_rows_and_cost_no_other_cell(sweep, monkeypatch, capsys):
    Path("breaking.py").write_text(BREAKING)
    monkeypatch.syspath_prepend(".")
    axes = """
axes:
  workload.lengths.prompt: [200, 99999]
  acceptance.rate: [0.8, 1.5]
  policy: [off, 'breaking:Raising']
"""
    path = sweep(axes)
    with pytest.raises(ScenarioError, match="'breaking:Raising', whose module would be run; allowed with --allow-code"):
        main([path, "--jobs", "1", "--quiet"])
    assert main([path, "--jobs", "1", "--quiet", "--allow-code"]) == 0
    rows = table()
    assert len(rows) == 2 * (2 + 2)
    good, raised, *wrong = (row["error"] for row in rows[:4])
    assert good is None
    assert raised.startswith("policy: raising raised KeyError: 'lost'; at breaking.py:10, in plan of step 0")
    assert all("many.yaml:5: acceptance.rate: found 1.5" in error for error in wrong)
    assert all("can never fit" in row["error"] for row in rows[4:5])
    assert rows[4]["policy"] == "off"
    assert rows[4]["ttft_s.p50"] is None
    assert [row["acceptance.rate"] for row in rows[:4]] == [0.8, 0.8, 1.5, 1.5]
    err = capsys.readouterr().err
    assert "1 failed: policy: raising raised KeyError: 'lost'" in err
    assert main([sweep("axes: {workload.lengths.prompt: [99999]}\n"), "--quiet", "--out", "all.parquet"]) == 2
    assert table("all.parquet")[0]["error"] is not None


def test_a_worker_that_ends_keeps_what_is_finished(sweep):
    Path("breaking.py").write_text(BREAKING)
    path = sweep("axes: {seed: [1, 2, 3, 4, 5], policy: [off, 'breaking:Ending']}\n")
    words = [sys.executable, "-m", "sdsim.sweep", path, "--jobs", "2", "--quiet", "--allow-code"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("a worker process ended before its work did")
    assert "Traceback" not in done.stderr
    assert not Path("runs/many.parquet").exists()


def test_a_dry_run_counts_and_estimates_and_writes_nothing(sweep, capsys):
    path = sweep()
    before = sorted(p.name for p in Path().iterdir())
    assert main([path, "--dry-run", "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("8 cells, 0 finished, 0 that cannot be run, 8 to run\n")
    assert "of processor time a cell" in out
    assert "MB a process" in out
    assert sorted(p.name for p in Path().iterdir()) == before


def test_a_process_reads_the_calibration_once(sweep):
    load_shipped.cache_clear()
    assert main([sweep(), "--jobs", "1", "--quiet"]) == 0
    assert load_shipped.cache_info().misses == 1


BAD = {
    "an unknown key": ("axis: {}\n", "many.yaml:2: axis: unknown key 'axis'; known: axes, scenario, zip"),
    "no list": ("axes: {seed: 3}\n", "many.yaml:2: axes.seed: found 3; allowed: a list"),
    "an empty list": ("axes: {seed: []}\n", "axes.seed: found \\[\\]; allowed: a list"),
    "no axes": ("axes: [seed]\n", "axes: found \\['seed'\\]; allowed: lists by key"),
    "an unknown axis": ("axes:\n  workload.rat: [1, 2]\n", "many.yaml:3: workload.rat: unknown key 'rat'"),
    "a value that no cell takes": ("axes:\n  seed: [x]\n", "many.yaml:3: seed: found 'x'"),
    "a key below a word": ("axes:\n  gpus.count: [2]\n", "many.yaml:3: gpus.count: gpus is '1 x h200', not a mapping"),
    "zip of one": ("axes: {seed: [1]}\nzip: [[seed]]\n", "many.yaml:3: zip: found"),
    "zip of no axis": ("axes: {seed: [1]}\nzip: [[seed, sed]]\n", "unknown axis 'sed'"),
    "zip twice": ("axes: {seed: [1], until: [1]}\nzip: [[seed, until], [seed, until]]\n", "seed 2 times"),
    "zip of unequal": ("axes: {seed: [1], until: [1, 2]}\nzip: [[seed, until]]\n", "1 of seed, 2 of until"),
    "too many": ("axes: {seed: &a [1,1,1,1,1,1,1,1,1,1], seeds: *a, until: *a, replicas: *a, warmup: *a, router: *a}\n",
                 "found 1,000,000 points; allowed: 100,000"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_their_line(sweep, name):
    axes, said = BAD[name]
    with pytest.raises(ScenarioError, match=said):
        main([sweep(axes), "--quiet"])
    assert not Path("runs").exists()


def test_bad_options_are_refused(sweep):
    with pytest.raises(ScenarioError, match="no such file"):
        main(["nowhere.yaml"])
    with pytest.raises(ScenarioError, match=r"base\.yml: no such file"):
        main([sweep(AXES, "scenario: base.yml\n")])
    with pytest.raises(ScenarioError, match="scenario: missing; required"):
        main([sweep(AXES, "")])
    path = sweep()
    with pytest.raises(ScenarioError, match="1 or more processes"):
        main([path, "--jobs", "0"])
    with pytest.raises(ScenarioError, match="found with --cluster"):
        main([path, "--jobs", "2", "--cluster", "tcp://127.0.0.1:1"])
    Path("taken").write_text("")
    with pytest.raises(SdsimError, match="cannot be written"):
        main([path, "--out", "taken/x.parquet", "--quiet"])


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios/sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_sweeps_read_and_are_short(path):
    grid = read_grid(path)
    assert all(point.scenario is not None for point in grid.points)
    assert len(path.read_text().splitlines()) < 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def dask(*words):
    """Run a process of the cluster until the block ends."""
    command = [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs the extra `cluster`")
@pytest.mark.slow  # starts a scheduler and two workers, each of which imports everything: some 10 s
def test_a_cluster_that_loses_a_worker_gives_the_same_table(sweep):
    path = sweep(LONGER, "scenario: slow.yaml\n")
    Path("slow.yaml").write_text(BASE.replace("limit: 20", "limit: 300"))
    address = f"tcp://127.0.0.1:{(port := free_port())}"
    worker = ("dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    with dask("dask_scheduler", "--port", str(port), "--no-dashboard"), dask(*worker) as doomed, dask(*worker):
        words = [sys.executable, "-m", "sdsim.sweep", path, "--quiet", "--cluster", address]
        process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
        journal = Path("runs/many.parquet.journal")
        wait_until(lambda: lines(journal) >= 8, 60)
        doomed.kill()
        assert lines(journal) < 24
        _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert main([path, "--jobs", "1", "--quiet", "--out", "whole.parquet"]) == 0
    assert Path("runs/many.parquet").read_bytes() == Path("whole.parquet").read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs the extra `cluster`")
@pytest.mark.slow  # starts a scheduler and a worker, each of which imports everything: some 10 s
@pytest.mark.parametrize(("lost", "said"), [
    ("scheduler", "the cluster's scheduler ended before the work did; start it again"),
    ("worker", "--cluster: tcp://127.0.0.1:\\d+ has no workers; allowed: one or more; start dask worker"),
])  # fmt: skip
def test_a_cluster_that_loses_its_last_worker_or_its_scheduler_keeps_what_is_finished(sweep, lost, said):
    path = sweep(LONGER, "scenario: slow.yaml\n")
    Path("slow.yaml").write_text(BASE.replace("limit: 20", "limit: 300"))
    address = f"tcp://127.0.0.1:{(port := free_port())}"
    worker = ("dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    impatient = "import sdsim.workers, sdsim.sweep as s; sdsim.workers.CHECK_S = 1; s.run_command(s.main)"
    with dask("dask_scheduler", "--port", str(port), "--no-dashboard") as scheduler, dask(*worker) as alone:
        words = [sys.executable, "-c", impatient, path, "--quiet", "--cluster", address]
        process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
        journal = Path("runs/many.parquet.journal")
        wait_until(lambda: lines(journal) >= 4, 60)
        {"scheduler": scheduler, "worker": alone}[lost].kill()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2, error
    assert "Traceback" not in error
    assert re.search(f"^{said}.*\n\\d+ finished cells are kept in runs/many.parquet.journal", error, re.MULTILINE)
    assert main([path, "--jobs", "1", "--quiet", "--resume"]) == 0
    assert len(table()) == 24


def test_a_cluster_that_is_not_there_is_said(monkeypatch):
    if importlib.util.find_spec("distributed") is None:
        said = "needs dask.distributed; install it"
    else:
        said = "no scheduler answers at 'tcp://127.0.0.1:1'"
        monkeypatch.setattr("sdsim.workers.CONNECT_S", 0.3)
    with pytest.raises(ScenarioError, match=said), cluster_workers("tcp://127.0.0.1:1"):
        pass
