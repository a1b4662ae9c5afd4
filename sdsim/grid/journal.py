"""The finished cells of a sweep on disk: one line each, behind its checksum, as soon as it is known.

A line that was cut short or damaged does not count, and its cell is run again. Lines are found by what their run rests
on, so that a sweep with more axes, or other policies, goes on from what is there.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sdsim.errors import ScenarioError
from sdsim.result import to_json

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


class Journal:
    """A journal that is open for more lines."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file = file
        self._path = path

    def add(self, key: str, outcome: Outcome) -> None:
        """Keep *outcome*: once this returns, the end of this process does not lose it."""
        text = to_json([key, outcome])
        try:
            self._file.write(f"{_checksum(text.encode()).decode()} {text}\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from None


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Yield the journal at *path*, new or with more to come."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="ascii")
    except OSError as error:
        raise _unwritable(path, error) from None
    with file:
        if file.tell():
            file.write("\n")
        yield Journal(file, path)


def _unwritable(path: Path, error: OSError) -> ScenarioError:
    return ScenarioError(f"{path}: cannot be written: {error}; free space or name another file with --out")
