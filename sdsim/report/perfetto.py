"""A run as a Chrome trace (the Trace Event Format), which ui.perfetto.dev and chrome://tracing open.

A process a replica, with one row of steps and a counter track each for what its scheduler and its drafts did. A step is
named by its draft length, and viewers colour by name. Times are whole µs, which every reader takes as they are: steps
that meet in the run meet in the trace, and none overlap.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sdsim.metrics import Columns
from sdsim.policy import FloatArray, IntArray
from sdsim.result import Result

MICROSECONDS = 1e6
COUNTERS = {
    "waiting, requests": "waiting",
    "KV cache, blocks": "kv_used_blocks",
    "drafts accepted, %": "accepted_percent",
}
"""Counters that records give at the end of a step."""
BATCH = "batch, rows"
STEP_FIGURES = ("step", "rows", "verify_tokens", "prefill_tokens", "emitted_tokens", "accepted_tokens")
NO_DRAFTS = {0: "OFF", 1: "K = 0, warm", 2: "K = 0"}
"""Name of a step that drafts nothing, by the drafter's code."""
COLOURS = ("grey", "good", "olive", "yellow", "bad", "terrible")
"""Colours of chrome://tracing by draft length, the last for all longer ones; Perfetto takes its own from the name."""


def write_trace(result: Result, path: Path) -> None:
    """Write the trace of *result* to *path*, compressed; the same run gives the same bytes."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0, compresslevel=6) as packed:
        packed.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
        for i, event in enumerate(trace_events(result)):
            packed.write((b",\n" if i else b"") + json.dumps(event, separators=(",", ":")).encode())
        packed.write(b"\n]}\n")


def trace_events(result: Result) -> Iterator[dict[str, Any]]:
    """Yield the events of every replica, in order of time on each track."""
    steps = result.steps
    for replica in np.unique(steps["replica"]).astype(int).tolist():
        mine = {name: values[steps["replica"] == replica] for name, values in steps.items()}
        yield _named(replica, "process_name", f"replica {replica}, {result.policy}")
        yield _named(replica, "thread_name", "steps")
        yield from _steps(replica, mine)
        begin, end = span_us(mine["start_s"], mine["seconds"])
        yield from _counter(replica, BATCH, *_batch(begin, end, mine["rows"]))
        for counter, column in COUNTERS.items():
            yield from _counter(replica, counter, end, counted(mine, column))


def _named(replica: int, what: str, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": replica, "tid": 1, "name": what, "args": {"name": name}}


def _steps(replica: int, steps: Columns) -> Iterator[dict[str, Any]]:
    begin, end = span_us(steps["start_s"], steps["seconds"])
    figures = np.stack([steps[name] for name in STEP_FIGURES]).T.astype(int).tolist()
    lengths = steps["draft_length"].astype(int).tolist()
    drafters = steps["drafter"].astype(int).tolist()
    for i, (at, until) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        yield {
            "ph": "X",
            "pid": replica,
            "tid": 1,
            "ts": at,
            "dur": until - at,
            "name": f"K = {lengths[i]}" if lengths[i] else NO_DRAFTS[drafters[i]],
            "cname": COLOURS[min(lengths[i], len(COLOURS) - 1)],
            "args": dict(zip(STEP_FIGURES, figures[i], strict=True)),
        }


def span_us(start_s: FloatArray, seconds: FloatArray) -> tuple[IntArray, IntArray]:
    """Return begin and end in whole µs; a step that begins when another ends does so here too."""
    begin, end = (np.rint(at * MICROSECONDS).astype(np.int64) for at in (start_s, start_s + seconds))
    return begin, end


def counted(steps: Columns, column: str) -> FloatArray:
    """Return the values of a counter, one a step; NaN where a step verified no draft, and so says nothing."""
    if column != "accepted_percent":
        return steps[column]
    drafts = steps["verify_tokens"] - steps["rows"]
    unknown = np.full(len(drafts), np.nan)
    percent: FloatArray = np.divide(100 * steps["accepted_tokens"], drafts, out=unknown, where=drafts > 0)
    return percent


def _batch(begin: IntArray, end: IntArray, rows: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return the batch from each step's begin on, and 0 from the end of a step that none follows at once."""
    idle = np.concatenate([begin[1:] > end[:-1], [True]])
    at = np.concatenate([begin, end[idle]])
    order = np.argsort(at, kind="stable")
    return at[order], np.concatenate([rows, np.zeros(int(idle.sum()))])[order]


def _counter(replica: int, name: str, at: IntArray, values: FloatArray) -> Iterator[dict[str, Any]]:
    """Yield a counter's changes: each value holds until the next."""
    told = ~np.isnan(values)
    at, values = at[told], np.round(values[told], 1)
    changed = np.concatenate([[True], values[1:] != values[:-1]]) if len(values) else told[:0]
    for us, value in zip(at[changed].tolist(), values[changed].tolist(), strict=True):
        yield {"ph": "C", "pid": replica, "tid": 0, "ts": us, "name": name, "args": {"value": value}}
