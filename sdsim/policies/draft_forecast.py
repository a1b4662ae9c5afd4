"""What the next drafts will be worth, from those of the steps before."""

from __future__ import annotations

import math

import numpy as np

from sdsim.policies.confidence import PRIOR
from sdsim.policies.lengths import LONGEST
from sdsim.policy import FloatArray

MEMORY_ROWS = 256.0
"""Rows after which what was seen before counts 1 / e."""


class DraftForecast:
    """The running mean over rows of the chance that a draft survives, by position; PRIOR for each draft at first."""

    def __init__(self) -> None:
        self._survival = PRIOR ** np.arange(LONGEST + 1.0)
        self.tokens = np.cumsum(self._survival)
        """(LONGEST + 1,) tokens that a row is expected to emit when it verifies 0, 1, ... drafts, bonus included."""

    def see(self, survival: FloatArray) -> None:
        """Take in a step's (positions, rows) survival; positions beyond keep their ratio to the one before."""
        deep, rows = survival.shape
        mean, weight = self._survival, -math.expm1(-rows / MEMORY_ROWS)
        last = float(mean[deep])
        mean[1 : deep + 1] += weight * (np.add.reduce(survival, axis=1) / rows - mean[1 : deep + 1])
        mean[deep + 1 :] *= mean[deep] / last
        np.cumsum(mean, out=self.tokens)
