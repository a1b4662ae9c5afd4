"""From a drafter's confidences to the chance that each draft survives, arrays of (positions, rows).

A confidence is read as the chance that the target accepts a draft, told from the draft's *distribution* (its largest
probability, or an estimate made from it), not from the token drawn. A rule that drops draft j then leaves sampled
output unbiased if it looks at nothing drawn at j or later: at the confidences up to j of that row, at other rows and
at earlier steps. A rule that looks further, or at the drawn token's own probability, prunes what it has already
sampled, and is lossless for greedy drafts only (DSpark, arXiv 2607.05147, appendix A).
"""

from __future__ import annotations

import numpy as np

from sdsim.policies.lengths import LONGEST
from sdsim.policy import FloatArray, IntArray, Observation

PRIOR = 0.7
"""What each draft is believed to be worth where the drafter tells nothing."""
POSITIONS = np.arange(LONGEST)[:, None]
EDGE = 1e-6
"""A confidence is kept this far from 0 and 1, so that survival falls strictly along a chain."""


def confidences(observation: Observation) -> FloatArray:
    """Return a new (positions, rows) array of what the drafter believes of each pending draft."""
    told = observation.confidence
    if told is None:
        return np.full((int(observation.pending.max(initial=0)), observation.batch), PRIOR)
    believed = np.array(told.T, dtype=np.float64, order="C")
    return believed.clip(EDGE, 1.0 - EDGE, out=believed)


def survival(conditional: FloatArray, pending: IntArray, drafts: int) -> FloatArray:
    """Turn (positions, rows) chances into those of a draft and all before it, in place, and return them.

    Entries beyond a row's *pending* drafts, *drafts* in all, become 0.
    """
    for position in range(1, len(conditional)):
        np.multiply(conditional[position], conditional[position - 1], out=conditional[position])
    if drafts != conditional.size:
        conditional *= POSITIONS[: len(conditional)] < pending
    return conditional


def tokens_of(survival: FloatArray) -> FloatArray:
    """Return (positions + 1, rows) tokens that a row is expected to emit when it verifies 0, 1, ... drafts."""
    tokens = np.ones((len(survival) + 1, survival.shape[1]))
    for position, chance in enumerate(survival):
        np.add(tokens[position], chance, out=tokens[position + 1])
    return tokens
