"""Small comma-separated files that a user brings, read whole, with every mistake placed in its line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from sdsim.errors import TraceError
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.text import blocks

T = TypeVar("T")
Row = Mapping[str, str]
Header = frozenset[str]


def read_table(path: Path, wanted: str, build: Callable[[Header], Callable[[Row], T | None] | None]) -> list[T]:
    """Return what the rows of *path* become, those left out that become None.

    *build* takes the header's columns and returns what turns a row into a value, raising ValueError with a sentence,
    or None if it knows no such file; *wanted* describes one that it does. Raises TraceError.
    """
    mistakes = Mistakes(path)
    if not path.is_file():
        mistakes.stop(f"no such file; needed: {wanted}; give its path")
    lines = _lines(path, mistakes)
    first = next(lines, (1, ""))
    columns = next(csv.reader([first[1]]), [])
    make = build(frozenset(columns))
    if make is None:
        mistakes.stop(f"found the columns {', '.join(columns) or 'none'}; needed: {wanted}; correct the header", 1)
    found = [value for line, text in lines if (value := _value(line, text, columns, make, mistakes)) is not None]
    mistakes.check()
    if not found:
        raise TraceError(f"{path}: no row to use; needed: {wanted}; add rows")
    return found


def _lines(path: Path, mistakes: Mistakes) -> Iterator[tuple[int, str]]:
    for block in blocks(path, mistakes):
        for line, text in enumerate(block.lines, block.first):
            try:
                yield line, text.decode()
            except UnicodeDecodeError:
                mistakes.stop("not UTF-8 text; allowed: UTF-8; re-encode the file", line)


def _value(line: int, text: str, columns: list[str], make: Callable[[Row], T | None], mistakes: Mistakes) -> T | None:
    fields = next(csv.reader([text]), [])
    if len(fields) != len(columns):
        mistakes.add(line, f"found {len(fields)} fields; allowed: {len(columns)}, as in the header; complete the line")
        return None
    try:
        return make(dict(zip(columns, fields, strict=True)))
    except ValueError as error:
        mistakes.add(line, str(error))
        return None


def placed(column: str, row: Row, parse: Callable[[str], T]) -> T:
    """Return *parse* of the *row*'s *column*, with the column named in what it finds wrong."""
    try:
        return parse(row[column])
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None
