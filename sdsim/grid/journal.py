"""The finished cells of a sweep on disk: one line each, behind its checksum, as soon as it is known.

A line that was cut short or damaged does not count, and its cell is run again. Lines are found by what their run rests
on, so that a sweep with more axes, or other policies, goes on from what is there.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdsim.errors import ScenarioError
from sdsim.result import to_json
from sdsim.whole import kept_lines

Outcome = dict[str, Any]


def read_journal(path: Path) -> dict[str, Outcome]:
    """Return the outcomes in the journal at *path* by their cells' keys; nothing if there is no journal."""
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error}; a sweep's journal is needed; check it") from None
    return dict(entry for line in lines if (entry := _entry(line)) is not None)


def _entry(line: bytes) -> tuple[str, Outcome] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != _checksum(text):
        return None
    key, outcome = json.loads(text)
    return key, outcome


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


@contextmanager
def open_journal(path: Path) -> Iterator[Callable[[str, Outcome], None]]:
    """Yield what keeps an outcome under its cell's key in the journal at *path*, new or with more to come."""
    with kept_lines(path) as keep:

        def add(key: str, outcome: Outcome) -> None:
            text = to_json([key, outcome])
            keep(f"{_checksum(text.encode()).decode()} {text}")

        yield add
