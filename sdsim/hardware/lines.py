"""JSON lines of measurements: a first line that says of what and where, then one a point; whole or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdsim.errors import ScenarioError, gpu_failure

Line = dict[str, Any]


def whole_list(option: str, text: str, low: int, high: int) -> list[int]:
    """Return the whole numbers of a comma-separated option, from *low* to *high*, in order and each once."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and low <= int(word) <= high for word in words):
        raise ScenarioError(f"{option}: {text!r}; allowed: whole numbers from {low} to {high}, comma-separated")
    return sorted({int(word) for word in words})


def say(text: str) -> None:
    """Print a line for the person who waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def json_lines(path: Path, head: Line) -> Iterator[Callable[[Line], None]]:
    """Yield what appends a line to *path*, whose first line is *head*; until the end they stand in PATH.part."""
    if not path.absolute().parent.is_dir():
        raise ScenarioError(f"--out: {path}: no such folder; make it first")
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:

        def append(line: Line) -> None:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()

        append(head)
        try:
            yield append
        except RuntimeError as error:
            raise ScenarioError(gpu_failure(f"--out: {path}", error), f"what was measured is kept in {part}") from None
    part.replace(path)
