"""A trace as a workload: the usable requests, cut, clipped and stretched, in this order.

1. Usable requests have a prompt and an output over 0; `limit` takes the first N of them.
2. `clip` shortens prompts and outputs; it drops none.
3. `rate` rescales the gaps of those N so that they span N / rate seconds.
The first request arrives at 0 in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdsim.policy import IntArray
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.rows import Read, Rows

HELD_ROWS = 2**20
"""Usable rows kept in memory (32 MB); a longer trace is read a second time instead."""
MAX_CLASSES = 256


@dataclass(frozen=True, slots=True)
class Clip:
    """The longest prompt and output, in tokens; None leaves them."""

    prompt: int | None = None
    output: int | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What has to be known of a trace before its first request can be given."""

    count: int
    first_s: float
    span_s: float
    class_names: tuple[str, ...]
    held: tuple[Rows, ...] | None
    """The usable rows, if they are few enough."""


def usable(rows: Iterator[Rows], limit: int | None) -> Iterator[Rows]:
    """Yield the first *limit* usable rows of *rows*, and read no further than needed."""
    left = np.inf if limit is None else limit
    while left > 0 and (block := next(rows, None)) is not None:
        good = (block.prompt_tokens > 0) & (block.output_tokens > 0)
        kept = block if good.all() else block.keep(good)
        if len(kept) > left:
            kept = kept.keep(slice(int(left)))
        left -= len(kept)
        if len(kept):
            yield kept


def survey(read: Read, limit: int | None) -> Survey:
    """Read the trace once, raise all its mistakes, and return what was seen.

    With a *limit* the file is checked as far as it is read: to the block of the last request used.
    """
    rows, mistakes = read()
    count, first_s, last_s = 0, 0.0, 0.0
    names: set[str] = set()
    held: list[Rows] | None = []
    for block in usable(rows, limit):
        first_s = float(block.arrival_s[0]) if count == 0 else first_s
        count, last_s = count + len(block), float(block.arrival_s[-1])
        if block.labels is not None:
            names.update(np.unique(block.labels).tolist())
            _check_classes(names, mistakes)
        held = [*held, block] if held is not None and count <= HELD_ROWS else None
    mistakes.check()
    if count == 0:
        mistakes.stop("no usable request; lines with prompt and output over 0 are needed; give another trace")
    return Survey(count, first_s, last_s - first_s, tuple(sorted(names)), None if held is None else tuple(held))


def stretched(seen: Survey, rate: float | None, path: Path) -> float:
    """Return the s that the requests shall span: as many as they do, or count / *rate* (requests/s)."""
    if rate is None or seen.count == 1:
        return seen.span_s
    if seen.span_s <= 0.0:
        Mistakes(path).stop(f"all {seen.count} requests arrive at once; rate needs gaps; drop rate or raise limit")
    return seen.count / rate


def replayed(rows: Iterator[Rows], seen: Survey, span_s: float, clip: Clip) -> Iterator[Rows]:
    """Yield *rows* from 0 on with their gaps stretched to *span_s* in all, and their lengths clipped."""
    for block in rows:
        arrival_s = block.arrival_s - seen.first_s
        yield Rows(
            arrival_s if span_s == seen.span_s else arrival_s / seen.span_s * span_s,
            _clipped(block.prompt_tokens, clip.prompt),
            _clipped(block.output_tokens, clip.output),
            block.labels,
            blocks=block.blocks,
        )


def _clipped(tokens: IntArray, most: int | None) -> IntArray:
    return tokens if most is None else np.minimum(tokens, most)


def _check_classes(names: set[str], mistakes: Mistakes) -> None:
    if len(names) > MAX_CLASSES:
        mistakes.stop(f"more than {MAX_CLASSES} classes; fewer are allowed; is class an identifier?")
