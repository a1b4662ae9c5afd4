"""Mooncake traces (github.com/kvcache-ai/Mooncake, Apache-2.0; Qin et al., FAST 2025).

One JSON object a line: timestamp in ms, input_length, output_length, hash_ids. The conversation and
tool traces give the time of a 3 s bucket only, and their counts are those of a Poisson process, so
requests that share a timestamp are spread uniformly over the 3 s after it, or up to the next timestamp
where that is nearer; they keep the file's order. `hash_ids` name the prompt's blocks of BLOCK_TOKENS
tokens; equal ids are equal prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdsim.policy import FloatArray
from sdsim.streams import coins
from sdsim.trace_readers.json_rows import JsonFormat
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.rows import Rows, in_order

BUCKET_S = 3.0
BLOCK_TOKENS = 512

FORMAT = JsonFormat("mooncake", ("timestamp",), ("input_length",), ("output_length",), unit="ms", blocks="hash_ids")


def read(path: Path, seed: int, mistakes: Mistakes) -> Iterator[Rows]:
    """Yield the rows of the trace *path*, spread inside their buckets by *seed*."""
    return spread(in_order(FORMAT.read(path, mistakes), BUCKET_S, mistakes), seed)


def spread(rows: Iterator[Rows], seed: int) -> Iterator[Rows]:
    """Yield *rows* with those that share a time spread over what follows it."""
    number = 0
    held: Rows | None = None
    for block in rows:
        joined = block if held is None else _joined(held, block)
        whole = int(np.searchsorted(joined.arrival_s, joined.arrival_s[-1]))
        if whole:
            yield _spread(joined.keep(slice(whole)), float(joined.arrival_s[-1]), number, seed)
        held, number = joined.keep(slice(whole, None)), number + whole
    if held is not None:
        yield _spread(held, np.inf, number, seed)


def _spread(rows: Rows, following_s: float, number: int, seed: int) -> Rows:
    times, group, count = np.unique(rows.arrival_s, return_inverse=True, return_counts=True)
    width = np.minimum(BUCKET_S, np.diff(times, append=following_s))
    width[count == 1] = 0.0
    places = _sorted_within(coins(seed, "mooncake-jitter", number + np.arange(len(rows)), 0), group)
    return replace(rows, arrival_s=rows.arrival_s + width[group] * places)


def _sorted_within(values: FloatArray, group: np.ndarray[tuple[int], np.dtype[np.intp]]) -> FloatArray:
    return values[np.lexsort((values, group))]


def _joined(first: Rows, second: Rows) -> Rows:
    lines = None if first.line is None or second.line is None else np.concatenate((first.line, second.line))
    return Rows(
        np.concatenate((first.arrival_s, second.arrival_s)),
        np.concatenate((first.prompt_tokens, second.prompt_tokens)),
        np.concatenate((first.output_tokens, second.output_tokens)),
        line=lines,
        blocks=_joined_blocks(first, second),
    )


def _joined_blocks(first: Rows, second: Rows) -> npt.NDArray[np.object_] | None:
    """Return the blocks of both; requests of a part without any have none."""
    if first.blocks is None and second.blocks is None:
        return None
    parts = []
    for rows in (first, second):
        none = np.empty(len(rows), dtype=object)
        none.fill(())
        parts.append(none if rows.blocks is None else rows.blocks)
    return np.concatenate(parts)
