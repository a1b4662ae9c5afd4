"""The best single step when the acceptances are known: what oracles share.

A step of n rows that verifies the b likeliest drafts emits n + a_1 + ... + a_b tokens in T(n + b) seconds. For every b
the best set is a prefix of each chain, so trying all b gives the optimum for any T that depends on counts alone: no
concavity is needed. The draft length is the one whose drafts, so verified in the next step, have the highest ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.errors import PolicyError
from sdsim.policies.lengths import draft_lengths
from sdsim.policies.plans import uniform
from sdsim.policies.selection import ranked_prefixes
from sdsim.policies.verify_prices import VerifyPrices
from sdsim.policy import FloatArray, IntArray, Observation, Plan, StepCosts, Truth, learn_nothing


class StepOptimum:
    """Maximise tokens a second of each step by what `pending` and `next` say of its drafts and of the next step's."""

    needs = frozenset({"truth"})
    lossless_at_temperature = False
    truth: Truth | None = None

    def __init__(self, cost: StepCosts, lengths: Sequence[int], name: str) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = name
        self._prices = VerifyPrices(cost, self.lengths)

    def pending(self, truth: Truth, observation: Observation) -> FloatArray:
        """Return (positions, rows) the worth of each pending draft in tokens, not rising along a row."""
        raise NotImplementedError

    def next(self, truth: Truth, observation: Observation, verify: IntArray, length: int) -> FloatArray:
        """Return (length, rows) the same of drafts for the next step, once *verify* drafts a row are verified now."""
        raise NotImplementedError

    def plan(self, observation: Observation, /) -> Plan:
        """Return the best lengths to verify and to draft."""
        if self.truth is None:
            raise PolicyError(f"policy {self.label} plans by the truth, which only a simulation knows; use another")
        rows = observation.batch
        if not rows:
            return uniform(self.lengths[-1])
        prices = self._prices.at(observation)
        verify = np.zeros(rows, dtype=np.int64)
        choice = 0
        if observation.pending.any():
            worth = self.pending(self.truth, observation)
            verify = best_prefixes(worth, rows, prices.verify)[1]
        ratios = [
            best_prefixes(self.next(self.truth, observation, verify, k), rows, prices.verify + drafting)[0]
            for k, drafting in zip(self.lengths, prices.drafting, strict=True)
        ]
        choice = int(np.argmax(ratios))
        return uniform(self.lengths[choice])._replace(verify_lengths=verify)

    learn = learn_nothing


def best_prefixes(worth: FloatArray, rows: int, seconds: FloatArray) -> tuple[float, IntArray]:
    """Return the most tokens a second of *rows* rows, and (rows,) the drafts to verify for it.

    *worth* is (positions, rows), not rising along a row; *seconds* the price of a step by its verified positions.
    """
    ranked = np.sort(worth, axis=None)[::-1]
    ranked = ranked[: int(np.count_nonzero(ranked))]
    tokens = np.cumsum(np.concatenate([[rows], ranked]))
    ratio = tokens / seconds[rows : rows + len(tokens)]
    budget = int(ratio.argmax())
    if not budget:
        return float(ratio[0]), np.zeros(rows, dtype=np.int64)
    return float(ratio[budget]), ranked_prefixes(worth, ranked, budget)
