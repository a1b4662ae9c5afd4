"""Steps on the GPU: what a latency model prices, run and timed.

A step is up to three captured graphs, target, rejection and draft, replayed one after another between CUDA events. Its
seconds are the GPU's, from the first kernel to the last; the host's work before them (block tables, lengths, expert
ids) is timed apart. Acceptance is not decided here: the replica's coins decide it, as in a simulation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from kernels.timing import check_written, poison
from sdsim.hardware.graphs import Graphs, Timer
from sdsim.hardware.layout import Arranged, arrange
from sdsim.hardware.model import Pair, Sizes
from sdsim.hardware.routes import Routes, Tally
from sdsim.hardware.work import Inputs, Work
from sdsim.policy import IntArray
from sdsim.step import StepShape

WARM_STEPS = 2
"""Steps of a point that are run before those that count: clocks rise."""


class StepTime(NamedTuple):
    """One step, s."""

    target_s: float
    rejection_s: float
    draft_s: float
    host_s: float
    """The host, until it had launched everything; capturing left out."""
    distinct_experts: IntArray
    """(layers,) counted; empty for a dense target."""

    @property
    def seconds(self) -> float:
        """The GPU, from the first kernel to the last."""
        return self.target_s + self.rejection_s + self.draft_s


class Quantiles(NamedTuple):
    """Of repeated measurements."""

    p10: float
    p50: float
    p90: float


class PointTime(NamedTuple):
    """A step of even rows, repeated with fresh expert ids. Times in s."""

    step_s: Quantiles
    target_s: Quantiles
    rejection_s: Quantiles
    draft_s: Quantiles
    host_s: Quantiles
    """See `StepTime`."""
    distinct_experts: float
    """Mean over layers and repeats; 0 for a dense target."""
    distinct_experts_se: float


class Executor:
    """Runs the steps of one target and its draft, of any number of replicas in turn: it keeps nothing between steps."""

    def __init__(self, pair: Pair, sizes: Sizes, seed: int = 0, capture_after: int = 1) -> None:
        self.pair, self.sizes = pair, sizes
        self.graphs = Graphs(pair.device, capture_after)
        self._timed = Timer(pair.device)
        self._inputs = Inputs(pair, sizes, seed)
        self._work = Work(pair, self._inputs)
        shape = pair.target.shape
        self._routes = Routes(shape, sizes.tokens, seed, pair.device) if shape.experts else None
        if self._routes is not None:
            for layer, ids in zip(pair.target.layers, self._routes.ids, strict=True):
                layer.expert_ids = ids

    def run(self, shape: StepShape) -> float:
        """Run a step; return its GPU seconds. The `execute` of a replica."""
        return self.step(shape).seconds

    def step(self, shape: StepShape) -> StepTime:
        """Run a step; return its times. Raises CapacityError for one that needs more KV pages than there are."""
        started, captured = time.perf_counter(), self.graphs.seconds
        arranged = arrange(shape)
        tokens = arranged.layout.tokens
        self._inputs.fill(arranged)
        if self._routes is not None:
            self._routes.draw(tokens)
        parts = list(self._parts(shape, arranged))
        seconds, launched = self._timed([call for _, call in parts])
        host_s = launched - started - (self.graphs.seconds - captured)
        spent = {"target": 0.0, "rejection": 0.0, "draft": 0.0}
        for (name, _), s in zip(parts, seconds, strict=True):
            spent[name] += s
        experts = np.zeros(0, dtype=np.int64) if self._routes is None else self._routes.distinct(tokens)
        return StepTime(spent["target"], spent["rejection"], spent["draft"], host_s, experts)

    def _parts(self, shape: StepShape, arranged: Arranged) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the step's graphs in order."""
        layout, get, work = arranged.layout, self.graphs.get, self._work
        yield "target", get(("target", layout), lambda: work.target(layout))
        sampled = layout._replace(chunks=(), bound=0)
        if layout.verify_tokens + layout.first_tokens:
            yield "rejection", get(("rejection", sampled), lambda: work.rejection(sampled))
        if shape.drafter == "dropped" or self.pair.draft is None:
            return
        for pieces in self._unseen(shape, arranged):
            yield "draft", get(("catch-up", tuple(pieces)), partial(work.catch_up, pieces))
        length = shape.draft_length
        yield "draft", get(("draft", layout, length), lambda: work.draft(layout, length))

    def _unseen(self, shape: StepShape, arranged: Arranged) -> list[list[tuple[int, int, int]]]:
        """Return passes, of (row, tokens stored, new tokens), over what a drafter just loaded has to catch up.

        The rows of the step are caught up, each as a prompt; a running request that sits this step out is not.
        """
        if not shape.catch_up_tokens:
            return []
        rows = arranged.layout.rows
        unseen = [int(n) - 1 for n in arranged.stored[:rows]] + [stored for stored, _ in arranged.layout.chunks]
        passes: list[list[tuple[int, int, int]]] = []
        room = 0
        for row, tokens in enumerate(unseen):
            done = 0
            while done < tokens:
                if not room:
                    passes.append([])
                    room = self.sizes.tokens
                chunk = min(tokens - done, room)
                passes[-1].append((row, done, chunk))
                done, room = done + chunk, room - chunk
        return passes

    def time_point(self, rows: int, draft_length: int, context: int, repeats: int = 10, chunk: int = 0) -> PointTime:
        """Time a step of *rows* rows that hold *context* tokens each, verify *draft_length* drafts and draft as many.

        Beside them run the first *chunk* tokens of a prompt that goes on. Length 0 is OFF: no drafter. Every repeat
        draws its own expert ids. Logits are poisoned before a warm step and checked after it, so that a graph that
        computes nothing cannot look fast: RuntimeError.
        """
        shape = even_shape(rows, draft_length, context, chunk)
        logits = self._inputs.logits[: shape.verify_tokens]
        poison([logits])
        for _ in range(WARM_STEPS):
            self.step(shape)
        check_written([logits])
        times, seen = [self.step(shape) for _ in range(repeats)], Tally()
        for found in times:
            seen.add(found.distinct_experts)
        return PointTime(
            _quantiles([t.seconds for t in times]),
            _quantiles([t.target_s for t in times]),
            _quantiles([t.rejection_s for t in times]),
            _quantiles([t.draft_s for t in times]),
            _quantiles([t.host_s for t in times]),
            *seen.mean(),
        )


def _quantiles(seconds: list[float]) -> Quantiles:
    return Quantiles(*np.quantile(seconds, (0.1, 0.5, 0.9)).tolist())


def even_shape(rows: int, draft_length: int, context: int, chunk: int = 0) -> StepShape:
    """Return the step of `Executor.time_point`."""
    tokens = rows * (1 + draft_length)
    return StepShape(
        rows=rows,
        verify_tokens=tokens,
        context_tokens=rows * context,
        attention_pairs=tokens * context,
        prefill_tokens=chunk,
        prefill_rows=int(chunk > 0),
        prefill_pairs=chunk * (chunk + 1) // 2,
        draft_length=draft_length,
        draft_rows=rows if draft_length else 0,
        drafter="on" if draft_length else "dropped",
        contexts=np.full(rows, context, dtype=np.int64),
        verify_lengths=draft_length,
        chunks=((rows, 0, chunk),) if chunk else (),
    )


def device_name(device: str) -> str:
    """Return what the device calls itself."""
    return str(torch.cuda.get_device_name(0)) if device == "cuda" else "Triton interpreter"
