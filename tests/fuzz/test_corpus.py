"""Every kept input, those of past faults among them, is answered or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.readers import survives

CORPUS = sorted(Path(__file__).with_name("corpus").glob("*/*"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_kept_inputs(path: Path) -> None:
    survives(path.parent.name, path.read_bytes())
