"""Every kept input, those of past faults among them, is answered or refused, in little time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.limits import limited
from tests.fuzz.readers import READERS, survives

CORPUS = sorted(Path(__file__).with_name("corpus").glob("*/*"))
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read in /proc")


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """Load what the readers load once."""
    for name in READERS:
        survives(name, b"")


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_kept_inputs(path: Path) -> None:
    with limited():
        survives(path.parent.name, path.read_bytes())
