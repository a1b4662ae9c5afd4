"""Request traces: a reader for each format, and their replay.

`open_trace` checks a trace and gives its requests block by block. A file is read in blocks, so that
memory does not grow with it; every malformed line is an error that names the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sdsim.errors import TraceError, unknown
from sdsim.lengths import LengthLaw
from sdsim.trace_readers import azure, burstgpt, json_rows, mooncake, servegen
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.replay import Clip, Survey, replayed, stretched, survey, usable
from sdsim.trace_readers.rows import Read, Rows

__all__ = ["BLOCK_TOKENS", "FORMATS", "LABELLED", "Clip", "Rows", "Trace", "open_trace"]

_FILES: dict[str, Callable[[Path, int, Mistakes], Iterator[Rows]]] = {
    "azure": azure.read,
    "burstgpt": burstgpt.read,
    "jsonl": json_rows.read,
    "mooncake": mooncake.read,
}
FORMATS = tuple(sorted([*_FILES, "servegen"]))
LABELLED = ("jsonl",)
"""Formats whose rows may name their class."""
BLOCK_TOKENS = mooncake.BLOCK_TOKENS
"""Tokens of a prefix block, where a format has them."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A checked trace. Iterating gives its requests, from 0 s on; each iteration gives the same."""

    class_names: tuple[str, ...]
    """Names of the classes that its rows are labelled with, sorted; empty if it has none."""
    _blocks: Callable[[], Iterator[Rows]]

    def __iter__(self) -> Iterator[Rows]:
        return self._blocks()


def open_trace(
    kind: str,
    path: str | Path,
    seed: int = 0,
    *,
    limit: int | None = None,
    rate: float | None = None,
    clip: Clip | None = None,
    lengths: LengthLaw | None = None,
) -> Trace:
    """Check the trace *path* of the format *kind* and return it, ready to replay.

    *limit*, *clip* and *rate* (requests/s) are as `sdsim.trace_readers.replay` says. *seed* places the
    requests where a format does not: inside the buckets of mooncake, inside the windows of servegen.
    *lengths* is used by servegen only, for clients whose lengths were not published.
    """
    path = Path(path)
    if kind not in FORMATS:
        raise TraceError(f"{path}: {unknown('trace format', kind, FORMATS)}")
    read = _reader(kind, path, seed, lengths)
    seen = _glance(read, limit) if kind == "servegen" and rate is None else survey(read, limit)
    span_s = stretched(seen, rate, path)

    def blocks() -> Iterator[Rows]:
        rows = iter(seen.held) if seen.held is not None else usable(read()[0], limit)
        return replayed(rows, seen, span_s, clip or Clip())

    return Trace(seen.class_names, blocks)


def _reader(kind: str, path: Path, seed: int, lengths: LengthLaw | None) -> Read:
    if kind == "servegen":
        return servegen.reader(path, seed, lengths)
    return lambda: (_FILES[kind](path, seed, mistakes := Mistakes(path)), mistakes)


def _glance(read: Read, limit: int | None) -> Survey:
    """Survey a generated trace, whose files are checked already and which may be endless in practice."""
    first_s = float(next(usable(read()[0], limit)).arrival_s[0])
    return Survey(count=1, first_s=first_s, span_s=0.0, class_names=(), held=None)
