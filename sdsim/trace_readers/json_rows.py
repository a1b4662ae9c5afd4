"""Rows of a trace with one JSON object a line.

The jsonl format of sdsim is {"arrival_s": 1.25, "prompt_tokens": 374, "output_tokens": 44} with an
optional "class"; it also takes the names timestamp, input_length and output_length, and arrival, prompt
and output, in seconds and tokens. Other keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdsim.policy import FloatArray, IntArray
from sdsim.trace_readers.kinds import looks_like, wrong_format
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.rows import Rows, check, in_order, not_negative, parsed, seconds_fault, tokens_fault
from sdsim.trace_readers.text import blocks
from sdsim.units import shown

DEFAULT_CLASS = "default"
MAX_LABEL = 64
QUANTUM_S = 1e-6


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """A format of JSON lines: the names that it gives to the three numbers, the first that is there counts."""

    name: str
    times: tuple[str, ...]
    prompts: tuple[str, ...]
    outputs: tuple[str, ...]
    unit: str = "s"
    label: str | None = None
    blocks: str | None = None
    """The key of the ids of a prompt's prefix blocks."""

    def read(self, path: Path, mistakes: Mistakes) -> Iterator[Rows]:
        """Yield the rows of the file *path*."""
        lines = blocks(path, mistakes)
        first = next(lines, None)
        if first is None:
            mistakes.stop(f"an empty file; a trace has lines such as {self.example}; give a {self.name} trace")
        text = first.lines[0].decode(errors="replace")
        if not text.lstrip().startswith("{") and looks_like(text):
            mistakes.stop(wrong_format(text, self.name, self.example), 1)
        return parsed(chain([first], lines), self.parse, self.diagnose, mistakes)

    @property
    def example(self) -> str:
        """A line of the format."""
        return f'{{"{self.times[0]}": 0, "{self.prompts[0]}": 374, "{self.outputs[0]}": 44}}'

    def parse(self, lines: Sequence[str]) -> Rows:
        """Return the rows of *lines*; raise ValueError if any is malformed."""
        try:
            records: list[dict[str, Any]] = [json.loads(line) for line in lines]
            names = [next(name for name in names if name in records[0]) for names in self._columns()]
            times, prompts, outputs = ([record[name] for record in records] for name in names)
            found = _seconds(times, self.unit), _tokens(prompts), _tokens(outputs), self._labels(records)
            return check(Rows(*found, blocks=self._blocks(records)))
        except (TypeError, KeyError, StopIteration, RecursionError, OverflowError) as error:
            raise ValueError(str(error)) from None

    def diagnose(self, line: str) -> str:
        """Return what is wrong with *line*."""
        remedy = f"one object such as {self.example} is allowed; complete the line or delete it"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return f"{shown(line) if line.strip() else 'an empty line'} is no JSON; {remedy}"
        if not isinstance(record, dict):
            return f"{shown(line)} is no object; {remedy}"
        missing = next((names for names in self._columns() if not any(name in record for name in names)), None)
        if missing:
            return f"no {' or '.join(missing)} in {shown(line)}; {remedy}"
        time, prompt, output = (next(n for n in names if n in record) for names in self._columns())
        faults = (
            seconds_fault(time, record[time], _number(record[time]), self.unit),
            *(tokens_fault(name, record[name], _number(record[name])) for name in (prompt, output)),
        )
        if self.blocks is not None and not _are_ids(record.get(self.blocks, [])):
            ids = f"{self.blocks} is {shown(record[self.blocks])}; a list of whole numbers is allowed; correct it"
            return next(filter(None, faults), ids)
        label = f"class is {shown(record.get('class'))}; 1 to {MAX_LABEL} characters are allowed; rename it"
        return next(filter(None, faults), label)

    def _columns(self) -> tuple[tuple[str, ...], ...]:
        return self.times, self.prompts, self.outputs

    def _labels(self, records: list[dict[str, Any]]) -> npt.NDArray[np.str_] | None:
        if self.label is None:
            return None
        labels = [record.get(self.label, DEFAULT_CLASS) for record in records]
        if not all(isinstance(label, str) and 0 < len(label) <= MAX_LABEL for label in set(labels)):
            raise ValueError("class")
        return np.array(labels)

    def _blocks(self, records: list[dict[str, Any]]) -> npt.NDArray[np.object_] | None:
        if self.blocks is None or not any(self.blocks in record for record in records):
            return None
        found = np.empty(len(records), dtype=object)
        for i, record in enumerate(records):
            ids = record.get(self.blocks, [])
            if not _are_ids(ids):
                raise ValueError(self.blocks)
            found[i] = tuple(ids)
        return found


JSONL = JsonFormat(
    name="jsonl",
    times=("arrival_s", "timestamp", "arrival"),
    prompts=("prompt_tokens", "input_length", "prompt"),
    outputs=("output_tokens", "output_length", "output"),
    label="class",
)


def read(path: Path, _seed: int, mistakes: Mistakes) -> Iterator[Rows]:
    """Yield the rows of the jsonl trace *path*."""
    return in_order(JSONL.read(path, mistakes), QUANTUM_S, mistakes)


def _seconds(times: list[Any], unit: str) -> FloatArray:
    if not set(map(type, times)) <= {int, float}:
        raise ValueError("time")
    seconds = np.array(times, dtype=np.float64)
    return not_negative(seconds / 1000.0 if unit == "ms" else seconds)


def _tokens(tokens: list[Any]) -> IntArray:
    kinds = set(map(type, tokens))
    if kinds == {int}:
        return np.array(tokens, dtype=np.int64)
    if not kinds <= {int, float} or not all(float(value).is_integer() for value in tokens):
        raise ValueError("tokens")
    return np.array([int(value) for value in tokens], dtype=np.int64)


def _are_ids(ids: object) -> bool:
    return isinstance(ids, list) and set(map(type, ids)) <= {int}


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None
