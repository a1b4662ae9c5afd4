"""Rows of a trace, and how text becomes rows: whole blocks at once, line by line where a block has a mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sdsim.policy import FloatArray, IntArray
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.text import Lines
from sdsim.units import shown

MAX_TOKENS = 10**9
MAX_SECONDS = 1e11
"""Later than any clock in seconds since 1970, earlier than one in milliseconds."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive requests of a trace; the arrays are aligned."""

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    labels: npt.NDArray[np.str_] | None = None
    """Class of each request; None: the format has none."""
    line: IntArray | None = None
    """Line of each request in its file."""
    blocks: npt.NDArray[np.object_] | None = None
    """The ids of each prompt's prefix blocks, a tuple a request; None: the format has none."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    def keep(self, chosen: npt.NDArray[np.int64 | np.bool_] | slice) -> Rows:
        """Return the rows at *chosen*: indices, a mask or a slice."""
        return Rows(
            self.arrival_s[chosen],
            self.prompt_tokens[chosen],
            self.output_tokens[chosen],
            None if self.labels is None else self.labels[chosen],
            None if self.line is None else self.line[chosen],
            None if self.blocks is None else self.blocks[chosen],
        )


Read = Callable[[], tuple[Iterator[Rows], Mistakes]]
"""Opens a trace: its rows, in order of arrival, and the mistakes met on the way."""
Parse = Callable[[Sequence[str]], Rows]
"""Turns lines into as many rows; raises ValueError if any line is not a row of the format."""
Diagnose = Callable[[str], str]
"""Says of a line that `Parse` refuses: what was found; what is allowed; what to do."""


def parsed(lines: Iterator[Lines], parse: Parse, diagnose: Diagnose, mistakes: Mistakes) -> Iterator[Rows]:
    """Yield the rows of *lines*; note each line that is none."""
    for block in lines:
        numbers = block.first + np.arange(len(block.lines))
        try:
            yield replace(parse([line.decode() for line in block.lines]), line=numbers)
        except ValueError:
            yield from _one_by_one(block, parse, diagnose, mistakes)


def _one_by_one(block: Lines, parse: Parse, diagnose: Diagnose, mistakes: Mistakes) -> Iterator[Rows]:
    last = block.first + len(block.lines) - 1
    for number, line in enumerate(block.lines, block.first):
        try:
            yield replace(parse([line.decode()]), line=np.array([number]))
        except UnicodeDecodeError as error:
            byte = f"byte {error.start + 1} is 0x{line[error.start]:02x}, not UTF-8"
            mistakes.add(number, f"{byte}; only UTF-8 text is allowed; re-encode the file")
        except ValueError:
            cut = "cut off: " if block.cut and number == last else ""
            mistakes.add(number, cut + diagnose(line.decode()))


def in_order(rows: Iterator[Rows], quantum_s: float, mistakes: Mistakes) -> Iterator[Rows]:
    """Yield *rows* with times that never fall; note each fall by more than *quantum_s*, the file's resolution."""
    latest = -np.inf
    for block in rows:
        reached = np.maximum.accumulate(np.concatenate(([latest], block.arrival_s)))
        for i in np.flatnonzero(block.arrival_s < reached[:-1] - quantum_s):
            line = 0 if block.line is None else int(block.line[i])
            mistakes.add(
                line,
                f"arrives {reached[i] - block.arrival_s[i]:g} s before an earlier line; arrivals in order are allowed; "
                "sort the file by time",
            )
        latest = reached[-1]
        yield replace(block, arrival_s=reached[1:])


def check(rows: Rows) -> Rows:
    """Return *rows* if every time and length is finite and in range; raise ValueError otherwise."""
    if not np.all(np.abs(rows.arrival_s) <= MAX_SECONDS):
        raise ValueError("time")
    for tokens in (rows.prompt_tokens, rows.output_tokens):
        if np.any(tokens < 0) or np.any(tokens > MAX_TOKENS):
            raise ValueError("tokens")
    return rows


def not_negative(seconds: FloatArray) -> FloatArray:
    """Return *seconds* if all are 0 or more; raise ValueError otherwise."""
    if not np.all(seconds >= 0.0):
        raise ValueError("time")
    return seconds


def seconds_fault(name: str, value: object, number: float | None, unit: str = "s") -> str | None:
    """Return what is wrong with the time *value*, which reads as *number* if it is one, or None."""
    most = MAX_SECONDS * (1000.0 if unit == "ms" else 1.0)
    if number is not None and 0.0 <= number <= most:
        return None
    return f"{name} is {shown(value)}; 0 to {most:g} {unit} is allowed; correct the line or delete it"


def tokens_fault(name: str, value: object, number: float | None) -> str | None:
    """Return what is wrong with the token count *value*, which reads as *number* if it is one, or None."""
    if number is not None and 0 <= number <= MAX_TOKENS and number == int(number):
        return None
    return f"{name} is {shown(value)}; whole numbers to {MAX_TOKENS:,} are allowed; correct the line or delete it"


def text_number(text: str) -> float | None:
    """Return the number that *text* writes, or None."""
    try:
        return float(text)
    except ValueError:
        return None
