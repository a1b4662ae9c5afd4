"""Requests of a workload: when they arrive, how long they are, and which class they belong to.

Arrivals, prompts, outputs and classes are drawn from streams of their own, so that a change of one
leaves the others as they were, and in blocks of a fixed size, so that a seed gives the same requests
however they are asked for. Memory does not grow with the number of requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sdsim import sessions
from sdsim.arrivals import BLOCK, arrivals
from sdsim.errors import ScenarioError
from sdsim.lengths import LengthLaw, length_law
from sdsim.policy import FloatArray, IntArray
from sdsim.streams import stream
from sdsim.trace_readers import BLOCK_TOKENS, LABELLED, Clip, Trace, open_trace

DEFAULT_CLASS = "default"


class Blocks(NamedTuple):
    """The prefix blocks of requests: *ids* holds a sequence of whole numbers each, equal ids are equal prefixes."""

    tokens: int
    """Tokens of a block."""
    ids: np.ndarray[Any, np.dtype[np.object_]]


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Consecutive requests; the arrays are aligned and in order of arrival."""

    ids: IntArray
    """Numbers of the requests, from 0."""
    arrival_s: FloatArray
    """Arrival times; NaN: released by a completion, `think` seconds after it."""
    prompt_tokens: IntArray
    output_tokens: IntArray
    request_class: IntArray
    """Index into `class_names`."""
    class_names: tuple[str, ...] = (DEFAULT_CLASS,)
    blocks: Blocks | None = None
    """None: nothing is known of the prompts' prefixes."""
    think_s: FloatArray | None = None
    """How long after the answer before it a session's turn arrives, s; NaN: the request begins a session."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Requests:
        """Return the requests from *start* up to *stop*, counted within these."""
        rows = slice(start, stop)
        return Requests(
            self.ids[rows],
            self.arrival_s[rows],
            self.prompt_tokens[rows],
            self.output_tokens[rows],
            self.request_class[rows],
            self.class_names,
            None if self.blocks is None else Blocks(self.blocks.tokens, self.blocks.ids[rows]),
            None if self.think_s is None else self.think_s[rows],
        )


def requests(workload: Any, seed: int, until: float | None = None, chunk: int = BLOCK) -> Iterator[Requests]:
    """Return the requests of *workload* that arrive before *until* s, at most *chunk* at a time.

    *workload* has `kind` and that kind's attributes in s, 1/s and tokens:

    * poisson: rate; bursty: rate, peak, period, duty; mmpp: rate, peak, mean_low, mean_high;
      diurnal: rate, peak, period; see `sdsim.arrivals`.
    * closed: concurrency, think. The first `concurrency` requests arrive at 0, each other one when a
      request finishes, and `think` later; its arrival is NaN here, and *until* does not apply to it.
    * sessions: rate of sessions, turns (their mean), think (its mean), context (or None); prompts add to what was said.
      Turns after a session's first have no arrival; `think_s` after the answer before them, they come.
    * trace: format, path, rate, limit, clip; see `sdsim.trace_readers`. The trace is checked here and now.

    The synthetic kinds also have `lengths` (see `length_law`), `limit` (a number of requests, or None)
    and `classes`, a mapping of a name to its share and to lengths of its own or None; shares are
    relative to their sum. Without `limit` and *until* they would not end: that is an error.
    """
    if workload.kind == "sessions":
        return _cut(_sessions(workload, seed, until), None, max(1, chunk))
    blocks = _numbered(_opened(workload, seed)) if workload.kind == "trace" else _synthetic(workload, seed, until)
    return _cut(blocks, until, max(1, chunk))


def class_names(workload: Any) -> tuple[str, ...]:
    """Return the classes of the requests of *workload*, in the order of their indices."""
    if workload.kind != "trace":
        return tuple(getattr(workload, "classes", None) or (DEFAULT_CLASS,))
    named = workload.format in LABELLED and _opened(workload, seed=0).class_names
    return named or (DEFAULT_CLASS,)


def _cut(blocks: Iterator[Requests], until: float | None, chunk: int) -> Iterator[Requests]:
    for block in blocks:
        count = len(block)
        if until is not None:
            count -= int(np.count_nonzero(block.arrival_s >= until))
        for start in range(0, count, chunk):
            yield block.part(start, min(start + chunk, count))
        if count < len(block):
            return


def _synthetic(workload: Any, seed: int, until: float | None) -> Iterator[Requests]:
    limit = getattr(workload, "limit", None)
    closed = workload.kind == "closed"
    if limit is None and (until is None or (closed and until == math.inf)):
        raise ScenarioError(f"workload: {workload.kind} without end; set limit (requests) or until (s)")
    times = _released(workload.concurrency) if closed else arrivals(workload, seed)
    return _drawn(times, _Sampler(workload, seed), limit)


def _sessions(workload: Any, seed: int, until: float | None) -> Iterator[Requests]:
    """Yield the turns of sessions that begin before *until*; a session ends before a turn longer than `context`."""
    sampler, left = _Sampler(workload, seed), math.inf if workload.limit is None else workload.limit
    count, longest = 0, math.inf if workload.context is None else workload.context
    starts = _until(arrivals(workload, seed), math.inf if until is None else until)
    for found in sessions.turns(starts, seed, workload.turns, workload.think):
        added, answers, _ = sampler.draw(len(found.session))
        prompts = sessions.whole_prompts(found.session, added, answers)
        kept = np.flatnonzero((prompts + answers <= longest) | np.isnan(found.think_s))[: int(min(left, len(prompts)))]
        session, arrival_s, think_s = found.session[kept], found.arrival_s[kept], found.think_s[kept]
        blocks = Blocks(sessions.BLOCK_TOKENS, sessions.block_ids(session, (prompts + answers)[kept]))
        ids, index = np.arange(count, count + len(kept)), np.zeros(len(kept), dtype=np.int64)
        yield Requests(ids, arrival_s, prompts[kept], answers[kept], index, blocks=blocks, think_s=think_s)
        count, left = count + len(kept), left - len(kept)
        if left <= 0:
            return


def _until(times: Iterator[FloatArray], end: float) -> Iterator[FloatArray]:
    """Yield *times* before *end*."""
    for block in times:
        yield block[block < end]
        if len(block) and block[-1] >= end:
            return


def _released(concurrency: int) -> Iterator[FloatArray]:
    """Yield the arrivals of a closed loop: *concurrency* at 0, then NaN."""
    start = 0
    while True:
        yield np.where(np.arange(start, start + BLOCK) < concurrency, 0.0, np.nan)
        start += BLOCK


def _drawn(times: Iterator[FloatArray], sampler: _Sampler, limit: int | None) -> Iterator[Requests]:
    count = 0
    for block in times:
        arrival_s = block if limit is None else block[: limit - count]
        ids = np.arange(count, count + len(arrival_s))
        prompt, output, index = sampler.draw(len(arrival_s))
        yield Requests(ids, arrival_s, prompt, output, index, sampler.names)
        count += len(arrival_s)
        if count == limit:
            return


class _Sampler:
    """Draws lengths and classes, request after request."""

    def __init__(self, workload: Any, seed: int) -> None:
        shares, own = _classes(getattr(workload, "classes", None) or {})
        law = length_law(workload.lengths) if None in own.values() else None
        laws: list[LengthLaw | None] = [law if lengths is None else length_law(lengths) for lengths in own.values()]
        self.laws = [one for one in laws if one is not None]
        self.names = tuple(own)
        self.reached = np.cumsum(shares)[:-1] / sum(shares)
        self.prompts, self.outputs, self.classes = (stream(seed, name) for name in ("prompts", "outputs", "classes"))

    def draw(self, count: int) -> tuple[IntArray, IntArray, IntArray]:
        """Return (prompt tokens, output tokens, class) of the next *count* requests."""
        scores = self.prompts.standard_normal(count), self.outputs.standard_normal(count)
        index = np.zeros(count, dtype=np.int64)
        if len(self.laws) == 1:
            return *self.laws[0](*scores), index
        index[:] = np.searchsorted(self.reached, self.classes.random(count), side="right")
        prompt, output = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        for number, law in enumerate(self.laws):
            members = np.flatnonzero(index == number)
            prompt[members], output[members] = law(scores[0][members], scores[1][members])
        return prompt, output, index


def _classes(classes: Mapping[str, Any]) -> tuple[list[float], dict[str, object]]:
    """Return the shares of *classes* and, by name, their own lengths or None."""
    if not classes:
        return [1.0], {DEFAULT_CLASS: None}
    pairs = {name: one if isinstance(one, tuple) else (one.share, one.lengths) for name, one in classes.items()}
    shares = [float(share) for share, _ in pairs.values()]
    if min(shares) < 0.0 or not 0.0 < sum(shares) < math.inf:
        raise ScenarioError(f"workload.classes: shares {shares}; 0 or more are allowed, one over 0; correct them")
    return shares, {name: lengths for name, (_, lengths) in pairs.items()}


def _opened(workload: Any, seed: int) -> Trace:
    clip, lengths = getattr(workload, "clip", None), getattr(workload, "lengths", None)
    return open_trace(
        workload.format,
        workload.path,
        seed,
        limit=getattr(workload, "limit", None),
        rate=getattr(workload, "rate", None),
        clip=None if clip is None else Clip(clip.prompt, clip.output),
        lengths=None if lengths is None else length_law(lengths),
    )


def _numbered(trace: Trace) -> Iterator[Requests]:
    count = 0
    names = trace.class_names or (DEFAULT_CLASS,)
    for rows in trace:
        ids = np.arange(count, count + len(rows))
        index = np.zeros(len(rows), dtype=np.int64) if rows.labels is None else np.searchsorted(names, rows.labels)
        blocks = None if rows.blocks is None else Blocks(BLOCK_TOKENS, rows.blocks)
        yield Requests(ids, rows.arrival_s, rows.prompt_tokens, rows.output_tokens, index, names, blocks)
        count += len(rows)
