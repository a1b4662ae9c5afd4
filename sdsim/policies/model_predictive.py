"""Model-predictive control: the drafter is dropped or loaded for the batch that is coming, not for the one at hand.

`kv_priced` decides by the rows of this step. Before a burst it keeps a drafter that the crowd will have no memory or
no use for, and in it it pays the reload for a lull that is about to end. Here, every `PERIOD` steps, three paths are
followed for `horizon` seconds in slots of `SLOT`: stay as it is; change now; change now, and back half-way. Each holds
n(t) rows, at most as many as its memory has room for, and a queue; requests come at the rate of late (a running mean
over `MEMORY` s), and rows leave at the pace of the best draft length, or of none. The path that holds the fewest
requests on average is begun, and reconsidered PERIOD steps later (receding horizon). Loading costs the pass over all
stored tokens, in which nothing is emitted.

With `horizon: 0` this is `kv_priced`, and with `room: 1` besides `goodput`. It has no threshold of free blocks and no
least stay, which Nightjar (arXiv 2512.22420) sets by hand.

Null result: against `kv_priced` it gained 0.0% (suite's bursts and kv_pressure), -0.3% (loose_slo, -0.8 to 0.3) and, at
an acceptance of 0.3, 0.3% (-3.0 to 3.6) and 0.7% (0.2 to 1.2) in the first two. Without memory that couples rows and
drafter no law gains more than the price of myopia, 0.3% at most in the suite (`sdsim.regret`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sdsim.policies.kv_priced import KvPriced
from sdsim.policies.lengths import not_negative
from sdsim.policies.priced import Priced, price_lengths
from sdsim.policy import FloatArray, IntArray, Observation, StepCosts

PERIOD = 16
SLOT = 0.2
MEMORY = 4.0


class Arrivals:
    """The rate of late at which requests come, from what is seen of rows and queue now and then."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._ids: IntArray = np.empty(0, dtype=np.int64)
        self._queued, self._now = 0, 0.0

    def see(self, observation: Observation) -> None:
        """Take in the requests at hand; those that came and went since the last look are missed."""
        ids, queued = observation.request_ids, observation.waiting + observation.prefill_requests
        came = len(np.setdiff1d(ids, self._ids, assume_unique=True)) + queued - self._queued
        span = observation.now - self._now
        if span > 0.0:
            self.rate += -math.expm1(-span / MEMORY) * (max(came, 0) / span - self.rate)
        self._ids, self._queued, self._now = ids.copy(), queued, observation.now


class Mode(NamedTuple):
    """A replica with its drafter, or without."""

    tokens: float
    """What a row emits in a step."""
    seconds: tuple[float, float]
    """A step of the rows at hand and of twice as many, s."""
    room: float
    """Rows that memory holds."""


class Fluid(NamedTuple):
    """What a path starts from."""

    held: float
    """Requests, waiting or running."""
    rows: float
    rate: float
    """Arrivals, 1/s."""
    output: float
    """Tokens that a row has still to emit in the mean."""
    reload_s: float


def held_on_paths(start: Fluid, off: Mode, on: Mode, loaded: bool, paths: FloatArray) -> FloatArray:
    """Return (paths,) the requests held on average along each of (paths, slots) *paths*, 1 where the drafter is loaded.

    Steps take a time that is linear in the rows. A path that loads the drafter emits nothing for `reload_s`.
    """
    count, slots = paths.shape
    held, total, busy = np.full(count, start.held), np.zeros(count), np.zeros(count)
    before = np.full(count, float(loaded))
    first, more = (np.array([mode.seconds[i] for mode in (off, on)]) for i in (0, 1))
    slope = (more - first) / start.rows
    fixed, room, tokens = first - slope * start.rows, np.array([off.room, on.room]), np.array([off.tokens, on.tokens])
    for slot in range(slots):
        now = paths[:, slot].astype(np.int64)
        busy += start.reload_s * (now > before)
        rows = np.minimum(held, room[now])
        working = np.clip(SLOT - busy, 0.0, SLOT)
        busy = np.maximum(busy - SLOT, 0.0)
        ended = rows * tokens[now] / (fixed[now] + slope[now] * rows) * working / start.output
        held = np.maximum(held + start.rate * SLOT - ended, 0.0)
        total += held
        before = now
    return np.asarray(total / slots)


class ModelPredictive(KvPriced):
    """Keep the drafter or not by the requests that each choice would hold over the next seconds."""

    def __init__(
        self,
        cost: StepCosts,
        lengths: Sequence[int] = (0, 1, 2, 3, 4),
        prior: float = 0.7,
        room: float = 1.15,
        block_size: int = 16,
        horizon: float = 4.0,
    ) -> None:
        super().__init__(cost, lengths, prior, room, block_size)
        self.label = "model-predictive"
        self._slots = round(not_negative("horizon", horizon) / SLOT)
        price = price_lengths(cost, self.lengths)
        self._doubled = Priced(lambda rows, context: price(2 * rows, context))
        self._off_doubled = Priced(lambda rows, context: cost.off_seconds(2 * rows, context))
        self._arrivals, self._steps = Arrivals(), 0

    def _drops(self, observation: Observation, index: int) -> bool:
        """Return whether the path begun has no drafter."""
        if not self._slots:
            return super()._drops(observation, index)
        self._steps += 1
        if self._steps % PERIOD:
            return self._dropped
        self._arrivals.see(observation)
        stay, change = np.full(self._slots, float(not self._dropped)), np.full(self._slots, float(self._dropped))
        back = np.where(np.arange(self._slots) < self._slots // 2, change, stay)
        held = held_on_paths(*self._model(observation, index), np.array([stay, change, back]))
        return self._dropped if held[0] <= held[1:].min() else not self._dropped

    def _model(self, observation: Observation, index: int) -> tuple[Fluid, Mode, Mode, bool]:
        """Return where the paths start from, the two modes, and which of them is the present one."""
        rows, loaded = observation.batch, not self._dropped
        fits = rows + observation.kv_free * self._block * rows / max(observation.stored_tokens, 1)
        wide, narrow = (fits * self._room, fits) if loaded else (fits, fits / self._room)
        off = Mode(1.0, (self._off.of(observation), self._off_doubled.of(observation)), wide)
        tokens = float(self._acceptance.tokens(self.lengths)[index])
        seconds = float(self._seconds.of(observation)[index]), float(self._doubled.of(observation)[index])
        output = max(float(np.add.reduce(observation.generated)) / rows, 1.0)
        held = float(rows + observation.waiting)
        start = Fluid(held, rows, self._arrivals.rate, output, self._reload.of(observation))
        return start, off, Mode(tokens, seconds, narrow), loaded
