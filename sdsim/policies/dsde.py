"""DSDE (arXiv 2509.01083): each sequence's draft length from how far, and how unsteadily, drafter and target part.

SL = (1 - SF x WVIR) (SL_max - SL_min) + SL_min, or SL_min where the product exceeds 1; SF = exp(2 D) - 1 with D the
mean KL divergence of the sequence's last verify step, WVIR the variance of D over its last 10 steps over that of its
last 30, weights falling by 0.85 a step; then at most the batch's mean SL. SL_min is 2: speculation is never off.

The divergence is *not* observable here: it needs the target's logits. The reading: a confidence c estimates the
acceptance, which is 1 - TV(drafter, target), and KL >= 2 TV^2 (Pinsker), so D is the mean of 2 (1 - c)^2 over the
drafts verified. Where D has not varied over 30 steps WVIR counts 1. A plan drafts one length for all rows: the least
legal one that covers the longest SL, and the other rows are cut when they are verified.

Lossless at temperature: lengths depend on earlier steps only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policies.confidence import POSITIONS, confidences
from sdsim.policies.lengths import draft_length, draft_lengths
from sdsim.policies.plans import uniform
from sdsim.policies.row_history import RowHistory
from sdsim.policy import FloatArray, IntArray, Observation, Plan, learn_nothing

SHORT, LONG, DECAY = 10, 30, 0.85
LEAST_VARIANCE = 1e-12


class Dsde:
    """Shorten the drafts of sequences whose divergence is large or grows unsteady."""

    needs = frozenset({"confidence"})
    lossless_at_temperature = True

    def __init__(self, lengths: Sequence[int] = (0, 1, 2, 3, 4), least: int = 2) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "dsde"
        self._longest = self.lengths[-1]
        if draft_length(least) > self._longest:
            raise ValueError(f"least {least}; allowed: at most the longest length, {self._longest}")
        self._least = least
        self._history = RowHistory(LONG)
        weights = DECAY ** np.arange(LONG)
        self._weights = np.stack([np.where(np.arange(LONG) < w, weights, 0.0) for w in (SHORT, LONG)], axis=1)
        self._weights /= self._weights.sum(axis=0)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the lengths told by earlier steps; note this step's divergences for the next."""
        if not observation.batch:
            return self._drafting(self._longest)
        history = self._history.of(observation.request_ids)
        wanted = self._wanted(history)
        verify = np.minimum(wanted, observation.pending)
        self._history.push(_divergence(observation, verify, history[:, 0]))
        return self._drafting(int(wanted.max()))._replace(verify_lengths=verify)

    def _drafting(self, wanted: int) -> Plan:
        return uniform(next(k for k in self.lengths if k >= wanted))

    def _wanted(self, divergence: FloatArray) -> IntArray:
        """Return (rows,) draft lengths from (rows, LONG) divergences; the longest for rows without any."""
        mean = divergence @ self._weights
        variance = (divergence * divergence) @ self._weights - mean * mean
        unsteady = variance[:, 1] > LEAST_VARIANCE
        ratio = np.divide(variance[:, 0], variance[:, 1], out=np.ones(len(variance)), where=unsteady)
        product = np.expm1(2.0 * divergence[:, 0]) * np.maximum(ratio, 0.0)
        wanted = self._longest - np.minimum(product, 1.0) * (self._longest - self._least)
        cap = float(np.add.reduce(wanted)) / len(wanted)
        return np.asarray(np.rint(np.minimum(wanted, cap)), dtype=np.int64)

    learn = learn_nothing


def _divergence(observation: Observation, verify: IntArray, last: FloatArray) -> FloatArray:
    """Return each row's mean divergence over the drafts it verifies; *last* where it verifies none."""
    doubt = 1.0 - confidences(observation)
    doubt *= doubt
    doubt *= POSITIONS[: len(doubt)] < verify
    return np.where(verify > 0, 2.0 * np.add.reduce(doubt, axis=0) / np.maximum(verify, 1), last)
