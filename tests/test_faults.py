"""What befalls a command from outside: it is killed, interrupted, or cannot write; nothing is lost or half written."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS, prepare
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
