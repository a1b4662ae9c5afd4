"""What was measured on real engines and GPUs, as JSON lines: steady steps and replayed requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from sdsim.measurements.record import faults
from sdsim.measurements.replay import Replay, RequestRecord, grouped
from sdsim.measurements.steps import StepMeasurement, StepRecord, with_limits
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.text import blocks
from sdsim.units import shown

__all__ = ["Measurements", "Replay", "RequestRecord", "StepMeasurement", "StepRecord", "read_measurements"]

REPLAY_KEYS = frozenset({"arrival", "first", "finish"})
FORMATS = "allowed: steps (with step_ms_median) and requests (with arrival, first and finish)"


@dataclass(frozen=True, slots=True)
class Measurements:
    """The records of one file."""

    folder: Path
    """Where relative paths in the records start."""
    steps: tuple[StepMeasurement, ...]
    replays: tuple[Replay, ...]


def read_measurements(path: Path) -> Measurements:
    """Return the records in *path*, steps and replays told apart by their keys.

    Raises TraceError with a line for each mistake, the first five in full.
    """
    mistakes = Mistakes(path)
    if not path.is_file():
        mistakes.stop(f"no such file; {FORMATS}; give the path of a file that a recorder wrote")
    steps: list[StepRecord] = []
    requests: list[RequestRecord] = []
    seen: dict[object, int] = {}
    for line, found in _objects(path, mistakes):
        record = _record(line, found, mistakes)
        if isinstance(record, StepRecord):
            steps.append(record)
        elif record is not None:
            _once(line, record, seen, mistakes)
            requests.append(record)
    mistakes.check()
    if not steps and not requests:
        mistakes.stop(f"no measurement in it; {FORMATS}; give a file that a recorder wrote")
    return Measurements(path.absolute().parent, tuple(with_limits(steps)), tuple(grouped(requests)))


def _objects(path: Path, mistakes: Mistakes) -> Iterator[tuple[int, dict[str, Any]]]:
    for block in blocks(path, mistakes):
        for line, text in enumerate(block.lines, block.first):
            try:
                found = json.loads(text, parse_constant=_no_number)
            except (ValueError, RecursionError) as error:
                mistakes.add(line, f"no JSON: {error}; {FORMATS}; complete the line or delete it")
                continue
            if isinstance(found, dict):
                yield line, found
            else:
                mistakes.add(line, f"found {shown(found)}; {FORMATS}, one object a line; delete the line")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no measurement")


def _record(line: int, found: dict[str, Any], mistakes: Mistakes) -> StepRecord | RequestRecord | None:
    kind: type[StepRecord | RequestRecord] | None = None
    if "step_ms_median" in found:
        kind = StepRecord
    elif found.keys() >= REPLAY_KEYS or "arrival" in found:
        kind = RequestRecord
    if kind is None:
        mistakes.add(line, f"keys {shown(sorted(found))}; {FORMATS}; delete the line")
        return None
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        for fault in faults(error):
            mistakes.add(line, fault)
        return None


def _once(line: int, r: RequestRecord, seen: dict[object, int], mistakes: Mistakes) -> None:
    key = (r.model, r.draft, r.draft_length, r.alpha, r.engine, r.gpu, r.rate, r.number)
    before = seen.setdefault(key, line)
    if before != line:
        again = f"request {r.number} at rate {r.rate:g} again, after line {before}"
        mistakes.add(line, f"{again}; allowed: once; put runs into files of their own")
