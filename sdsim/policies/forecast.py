"""What drafts will be worth before they are drawn: the chance of each position, those before it being accepted."""

from __future__ import annotations

import math

import numpy as np

from sdsim.policies.lengths import LONGEST, share
from sdsim.policy import FloatArray, IntArray

MEMORY_ROWS = 256.0
"""Rows after which what was seen before counts 1 / e."""
WEIGHT = 20.0
"""Rows that the position before counts for in the chance of a position, and the prior at first in that of the first."""


class Forecast:
    """Running means of survival over rows, by position; a position that no row has reached counts as the one before."""

    def __init__(self, prior: float = 0.7) -> None:
        self._reached, self._survived = np.zeros(LONGEST), np.zeros(LONGEST)
        self._reached[0], self._survived[0] = WEIGHT, WEIGHT * share("prior", prior)
        self.tokens = np.empty(LONGEST + 1)
        """(LONGEST + 1,) tokens that a row is expected to emit when it verifies 0, 1, ... drafts, bonus included."""
        self._extrapolate()

    def see(self, survival: FloatArray, pending: IntArray) -> None:
        """Take in a step's (positions, rows) survival of *pending* drafts a row."""
        deep = len(survival)
        keep = math.exp(-len(pending) / MEMORY_ROWS)
        self._reached *= keep
        self._survived *= keep
        self._survived[:deep] += np.add.reduce(survival, axis=1)
        for position in range(deep):
            before = survival[position - 1] if position else 1.0
            self._reached[position] += np.add.reduce(before * (pending > position))
        self._extrapolate()

    def _extrapolate(self) -> None:
        chance = reached = self._survived[0] / self._reached[0]
        self.tokens[:2] = 1.0, 1.0 + reached
        for position in range(1, LONGEST):
            chance = (self._survived[position] + WEIGHT * chance) / (self._reached[position] + WEIGHT)
            reached *= chance
            self.tokens[position + 1] = self.tokens[position] + reached
