"""Rows of a comma-separated trace, whose header says which column is which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdsim.policy import FloatArray
from sdsim.trace_readers.kinds import wrong_format
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.rows import Rows, check, parsed, text_number, tokens_fault
from sdsim.trace_readers.text import Lines, blocks
from sdsim.units import shown


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """A comma-separated format: its columns, and how it writes the time."""

    name: str
    header: str
    """A header of the format, for messages."""
    time: str
    prompt: str
    output: str
    time_dtype: str
    seconds: Callable[[npt.NDArray[Any]], FloatArray]
    """Times as the file writes them -> seconds; raises ValueError if any is malformed."""
    time_fault: Callable[[str, str], str | None]

    def read(self, path: Path, mistakes: Mistakes) -> Iterator[Rows]:
        """Yield the rows of the file *path*."""
        lines = blocks(path, mistakes)
        first = next(lines, None)
        if first is None:
            mistakes.stop(f"an empty file; a trace starts with {self.header}; give a {self.name} trace")
        columns = self._columns(first.lines[0], mistakes)
        table = _Table(self, columns)
        return parsed(_rest(first, lines), table.parse, table.diagnose, mistakes)

    def _columns(self, line: bytes, mistakes: Mistakes) -> list[str]:
        text = line.decode(errors="replace")
        columns = [name.strip() for name in text.split(",")]
        if not {self.time, self.prompt, self.output} <= set(columns):
            mistakes.stop(wrong_format(text, self.name, self.header), 1)
        return columns


@dataclass(frozen=True, slots=True)
class _Table:
    format: CsvFormat
    columns: list[str]

    def parse(self, lines: Sequence[str]) -> Rows:
        kinds = {self.format.time: self.format.time_dtype, self.format.prompt: "f8", self.format.output: "f8"}
        dtype = [(f"f{i}", kinds.get(name, "S1")) for i, name in enumerate(self.columns)]
        if not all(map(str.strip, lines)):
            raise ValueError("an empty line, which NumPy passes over")
        values = np.loadtxt(lines, dtype=dtype, delimiter=",", comments=None, ndmin=1)
        if len(values) != len(lines):
            raise ValueError("a line that NumPy passes over")
        wanted = (self.format.time, self.format.prompt, self.format.output)
        time, prompt, output = (values[f"f{self.columns.index(name)}"] for name in wanted)
        return check(Rows(self.format.seconds(time), _whole(prompt), _whole(output)))

    def diagnose(self, line: str) -> str:
        fields = line.split(",")
        if len(fields) != len(self.columns):
            found = f"{shown(line)}, {len(fields)} columns" if line.strip() else "an empty line"
            return f"{found}; {len(self.columns)} are allowed ({self.format.header}); complete the line or delete it"
        row = dict(zip(self.columns, fields, strict=True))
        faults = (
            self.format.time_fault(self.format.time, row[self.format.time]),
            *(tokens_fault(n, row[n], text_number(row[n])) for n in (self.format.prompt, self.format.output)),
        )
        return next(filter(None, faults), f"{shown(line)}; plain numbers are allowed; correct the line or delete it")


def _whole(tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    if not np.all(np.isfinite(tokens)) or np.any(tokens != np.rint(tokens)) or np.any(np.abs(tokens) > 2.0**53):
        raise ValueError("tokens")
    return tokens.astype(np.int64)


def _rest(first: Lines, lines: Iterator[Lines]) -> Iterator[Lines]:
    if len(first.lines) > 1:
        yield Lines(first.first + 1, first.lines[1:], first.cut)
    yield from lines
