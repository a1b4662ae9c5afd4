"""The best table from batch and mean context to draft length, found by search on the scenario that it then serves.

The strongest form of the tables that engines ship (`batch_table`, `batch_context_table`): it is tuned in hindsight, on
the very requests and coins that it is judged by, so it says what a table can reach at most, not what a user's would.

The ranges are quantiles of what the best constant length visits, weighed by the time that requests spend there. From
that length everywhere, entries are changed to the next length, up and down, one after another, and a change that raises
the mean figure over all seeds is kept, until none does or `ROUNDS` are over. A change that the first seed shows to be
worse by `HOPELESS` is not tried on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from sdsim.policy import FloatArray
from sdsim.result import Result
from sdsim.scenario import PolicySpec, Scenario
from sdsim.simulation import make_system, simulate
from sdsim.standings import headline, score

LENGTHS = (0, 1, 2, 3, 4, 5, 6)
BATCHES, CONTEXTS = 8, 2
"""Ranges of each, fewer where quantiles fall together."""
ROUNDS = 4
HOPELESS = 0.02
EVERYTHING = 10**9
"""The end of the last range."""


class Cell(NamedTuple):
    """Where an entry holds: batch and context, ends included."""

    batch_first: int
    batch_last: int
    context_first: int
    context_last: int


class TableSearch:
    """Tables of one scenario, the scores of each remembered."""

    def __init__(self, scenario: Scenario, lengths: Sequence[int] = LENGTHS) -> None:
        self.lengths = tuple(lengths)
        self.runs = 0
        self._scenario, self._figure, self._system = scenario, headline(scenario), make_system(scenario)
        self._seeds = range(scenario.seed, scenario.seed + scenario.seeds)
        self._scores: dict[tuple[int, ...], list[float]] = {}
        self._cells: list[Cell] = [Cell(1, EVERYTHING, 0, EVERYTHING)]

    def best(self) -> PolicySpec:
        """Return the best table found."""
        best = max(self.lengths, key=lambda k: float(np.mean(self._score((k,)))))
        scores = self._score((best,))
        self._cells = cells(self._run((best,), self._seeds[0]), self._scenario.block_size)
        self._scores.clear()
        entries = (best,) * len(self._cells)
        for _ in range(ROUNDS):
            before = entries
            for place in range(len(entries)):
                entries, scores = self._changed(entries, scores, place)
            if entries == before:
                break
        return self._table(entries)

    def _changed(
        self, entries: tuple[int, ...], scores: list[float], place: int
    ) -> tuple[tuple[int, ...], list[float]]:
        """Return *entries* with the one at *place* changed for as long as that raises *scores*, and the scores."""
        for way in (1, -1):
            start = entries
            while 0 <= (at := self.lengths.index(entries[place]) + way) < len(self.lengths):
                tried = (*entries[:place], self.lengths[at], *entries[place + 1 :])
                found = self._score(tried, scores[0] * (1.0 - HOPELESS))
                if len(found) < len(scores) or np.mean(found) <= np.mean(scores):
                    break
                entries, scores = tried, found
            if entries != start:
                break
        return entries, scores

    def _score(self, entries: tuple[int, ...], least: float = 0.0) -> list[float]:
        """Return the scores by seed of the table with *entries*: of the first seed alone if it is below *least*."""
        known = self._scores.setdefault(entries, [])
        for seed in self._seeds[len(known) :]:
            if known and known[0] < least:
                break
            known.append(score(self._figure, self._run(entries, seed).summary))
        return known

    def _run(self, entries: tuple[int, ...], seed: int) -> Result:
        self.runs += 1
        return simulate(self._scenario, self._table(entries), seed, system=self._system)

    def _table(self, entries: tuple[int, ...]) -> PolicySpec:
        rows = [[*cell, k] for cell, k in zip(self._cells, entries, strict=True)]
        return PolicySpec(kind="batch_context_table", parameters={"table": rows})


def cells(result: Result, block_size: int) -> list[Cell]:
    """Return the ranges of batch and mean context that the rows of *result* spend equal times in."""
    steps = result.steps
    busy = steps["rows"] > 0
    rows, seconds = steps["rows"][busy], steps["seconds"][busy]
    context = steps["kv_used_blocks"][busy] * block_size / rows
    found = []
    for first, last in _ranges(rows, rows * seconds, BATCHES, 1):
        here = (rows >= first) & (rows <= last)
        found += [Cell(first, last, *span) for span in _ranges(context[here], (rows * seconds)[here], CONTEXTS, 0)]
    return found


def _ranges(values: FloatArray, weights: FloatArray, parts: int, start: int) -> list[tuple[int, int]]:
    """Return at most *parts* ranges of integers, from *start* on, that hold equal shares of the *weights*."""
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    edges = [values[order][np.searchsorted(share, part / parts)] for part in range(1, parts)]
    firsts = sorted({start, *(round(float(edge)) + 1 for edge in edges if edge < values.max())})
    return [(first, after - 1) for first, after in pairwise([*firsts, EVERYTHING + 1])]
