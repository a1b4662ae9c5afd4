"""What befalls a command from outside: it is killed, interrupted, or cannot write; nothing is lost or half written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS, prepare
from tests.faults.fake_gpu import profile
from tests.faults.kills import Killer

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read."""
    folder = tmp_path_factory.mktemp("faults")
    prepare(folder)
    return folder


@pytest.fixture
def fake_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`profile` in a folder of its own; what it puts for the GPU's modules goes again."""
    monkeypatch.chdir(tmp_path)
    for name in ("suite", "ceilings", "shapes"):
        monkeypatch.setitem(sys.modules, f"kernels.{name}", None)
        monkeypatch.setattr(f"kernels.{name}", None, raising=False)
    for name in ("shape", "provenance"):
        monkeypatch.setitem(sys.modules, f"sdsim.hardware.{name}", None)
    return profile


@pytest.mark.parametrize("name", COMMANDS)
def test_kills_leave_it_whole_or_absent(name: str, given: Path) -> None:
    """A sample; `python -m tests.faults --kills 200` is the long run."""
    killer = Killer(given, seed=1)
    killer.learn(name)
    assert killer.kill(name, 3)["kills"] == 3
