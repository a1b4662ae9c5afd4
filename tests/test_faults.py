"""What befalls a command from outside: it is killed, interrupted, or cannot write; nothing is lost or half written."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from sdsim.latency.calibration import load_calibration
from tests.faults.commands import COMMANDS, SCENARIO, full_disk, prepare, unprivileged
from tests.faults.fake_gpu import MIDDLE, POINTS
from tests.faults.kills import Killer

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read."""
    folder = tmp_path_factory.mktemp("faults")
    prepare(folder)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_kills_leave_it_whole_or_absent(name: str, given: Path) -> None:
    """A sample; `python -m tests.faults --kills 200` is the long run."""
    killer = Killer(given, seed=1)
    killer.learn(name)
    assert killer.kill(name, 3)["kills"] == 3


LONG = {"run": ("--set", "workload.limit=100000"), "sweep": (), "profile": ()}
BEGUN = {"sweep": "many.parquet.journal", "profile": "h200.json.part"}


@pytest.mark.parametrize("times", [1, 30])
@pytest.mark.parametrize("name", LONG)
def test_an_interrupt_ends_all_processes_with_one_line(name: str, times: int, tmp_path: Path) -> None:
    prepare(tmp_path)
    killer = Killer(tmp_path, seed=1)
    process = killer.start(name, *LONG[name])
    begun, until = tmp_path / BEGUN.get(name, f"{name}.err"), time.monotonic() + 30
    while not (begun.exists() and (begun.stat().st_size or name not in BEGUN)) and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(0 if name in BEGUN else 0.5)
    assert process.pid is not None
    for _ in range(times):  # the impatient press it again
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.join(0.01)
    process.join(20)
    said = killer.said(name)
    process.kill()
    assert process.exitcode == 130, said
    assert said.splitlines()[-1].startswith("interrupted; ")
    assert "Traceback" not in said
    assert not (tmp_path / COMMANDS[name].out).exists()


KEPT = {"sweep": r"\d+ finished cells are kept in", "profile": r"\d+ measured points are kept in"}


def said_of_failure(killer: Killer, process: BaseProcess, name: str) -> list[str]:
    """Return the last lines that *process* wrote, which ended with 2 and left nothing half written."""
    process.join(60)
    lines = killer.said(name).splitlines()
    assert process.exitcode == 2, lines
    assert not any("Traceback" in line for line in lines)
    folder, out = killer.folder, COMMANDS[name].out
    assert not [*folder.glob(out), *folder.glob(f".{out}*")]
    return lines[-2 if name in KEPT else -1 :]


@pytest.mark.skipif(sys.gettrace() is not None, reason="what traces the lines writes files too")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_said_and_what_is_finished_kept(name: str, given: Path) -> None:
    killer = Killer(given, seed=1)
    killer.learn(name)
    first, *kept = said_of_failure(killer, killer.start(name, under=full_disk), name)
    assert re.search(rf"{COMMANDS[name].out}.*: cannot be written: .*File too large; free space or name another", first)
    assert [re.match(KEPT[name], line) is not None for line in kept] == [True] * (name in KEPT)
    killer.complete(name, lost=1)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_folder_is_said(name: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / f"{name}.err").touch()
    tmp_path.chmod(0o555)
    killer = Killer(tmp_path, seed=1)
    process = killer.start(name, under=unprivileged)
    process.join(60)
    tmp_path.chmod(0o755)
    said = said_of_failure(killer, process, name)[-1]
    assert re.search(rf"^{COMMANDS[name].out}.*: cannot be written: .*; .*name another", said)


def test_a_run_is_not_begun_whose_folder_cannot_be_made(tmp_path: Path) -> None:
    """A day's work that nothing can be done with."""
    prepare(tmp_path)
    (tmp_path / "run.err").touch()
    tmp_path.chmod(0o555)
    killer = Killer(tmp_path, seed=1)
    process = killer.start("run", "--set", "workload.limit=100000000", under=unprivileged)
    process.join(20)
    tmp_path.chmod(0o755)
    assert "nothing may be made in" in said_of_failure(killer, process, "run")[-1]


def test_a_worker_that_is_killed_costs_no_finished_cell(tmp_path: Path) -> None:
    prepare(tmp_path, SCENARIO.replace("limit: 60", "limit: 1500"))
    killer = Killer(tmp_path, seed=1)
    killer.learn("sweep")
    process, journal, until = killer.start("sweep"), tmp_path / BEGUN["sweep"], time.monotonic() + 30
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < until:
        time.sleep(0.005)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[0]), signal.SIGKILL)
    first, kept = said_of_failure(killer, process, "sweep")
    assert first.startswith("a worker process ended before its work did")
    assert re.match(KEPT["sweep"], kept)
    killer.complete("sweep")


@pytest.mark.parametrize(("fault", "at"), [("ceilings", "ceilings"), ("point", MIDDLE.key)])
def test_a_gpu_that_fails_is_said_and_its_rows_kept(fault: str, at: str, given: Path) -> None:
    killer = Killer(given, seed=1)
    killer.learn("profile")
    process = killer.start("profile", "--fault", fault)
    said = said_of_failure(killer, process, "profile")
    failed = f"{at}: the GPU failed: RuntimeError: CUDA error: an illegal memory access was encountered; "
    assert said[-1 if fault == "ceilings" else 0].startswith(failed)
    assert fault == "ceilings" or said[1].startswith(
        f"{POINTS.index(MIDDLE)} measured points are kept in h200.json.part"
    )
    killer.complete("profile")


def test_a_gpu_without_room_for_a_point_measures_the_others(given: Path) -> None:
    killer = Killer(given, seed=1)
    process = killer.start("profile", "--fault", "memory")
    process.join(60)
    assert process.exitcode == 0, killer.said("profile")
    rows = {row["key"]: row for row in json.loads((given / "h200.json").read_text())["rows"]}
    assert rows.keys() == {point.key for point in POINTS}
    assert [key for key, row in rows.items() if "error" in row] == [MIDDLE.key]
    assert f"{MIDDLE.key} " in killer.said("profile")
    read = load_calibration(given / "h200.json", "h200")
    assert read is not None
