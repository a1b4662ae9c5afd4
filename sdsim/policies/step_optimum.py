"""The best single step when the acceptances are known: what oracles share.

A step of n rows that verifies the b likeliest drafts emits n + a_1 + ... + a_b tokens in T(n + b) seconds. For every b
the best set is a prefix of each chain, so trying all b gives the optimum for any T that depends on counts alone: no
concavity is needed. The prices at hand do, experts included: they are those expected of so many tokens. (Were the very
experts of each draft known, the best set would be a minimum cut.) The draft length is the one whose drafts, so verified
in the next step, have the highest ratio.

The time of prompts has to be spent in any case. So beside them the best set is not that of the highest ratio but that
of the highest tokens - theta T, theta being the highest ratio of the same step without them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.errors import PolicyError
from sdsim.policies.lengths import draft_lengths
from sdsim.policies.plans import uniform
from sdsim.policies.selection import ranked_prefixes
from sdsim.policies.verify_prices import StepPrices, VerifyPrices
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
        alone, prices = self._prices.beside(observation, (0, observation.prefill_tokens))
        verify = np.zeros(rows, dtype=np.int64)
        if observation.pending.any():
            worth = self.pending(self.truth, observation)
            theta, verify = best_prefixes(worth, rows, alone.verify)
            if observation.prefill_tokens:
                verify = best_prefixes(worth, rows, prices.verify, theta)[1]
        length = self._longest(self.truth, observation, verify, alone, prices)
        return uniform(length)._replace(verify_lengths=verify)

    def _longest(
        self, truth: Truth, observation: Observation, verify: IntArray, alone: StepPrices, prices: StepPrices
    ) -> int:
        """Return the draft length whose drafts are worth most in the next step, which prompts join if some wait."""
        rows, ahead = observation.batch, [self.next(truth, observation, verify, k) for k in self.lengths]
        values = [best_prefixes(a, rows, alone.verify + d)[0] for a, d in zip(ahead, alone.drafting, strict=True)]
        if observation.prefill_tokens and observation.waiting:
            theta = max(values)
            values = [
                best_prefixes(a, rows, prices.verify + d, theta)[0] for a, d in zip(ahead, prices.drafting, strict=True)
            ]
        return self.lengths[int(np.argmax(values))]

    learn = learn_nothing


def best_prefixes(
    worth: FloatArray, rows: int, seconds: FloatArray, theta: float | None = None
) -> tuple[float, IntArray]:
    """Return the most tokens a second of *rows* rows, and (rows,) the drafts to verify for it.

    *worth* is (positions, rows), not rising along a row; *seconds* the price of a step by its verified positions. With
    *theta*, tokens a second, it is tokens - theta x seconds that is made the most of.
    """
    ranked = np.sort(worth, axis=None)[::-1]
    ranked = ranked[: int(np.count_nonzero(ranked))]
    tokens = np.cumsum(np.concatenate([[rows], ranked]))
    price = seconds[rows : rows + len(tokens)]
    value = tokens / price if theta is None else tokens - theta * price
    budget = int(value.argmax())
    if not budget:
        return float(value[0]), np.zeros(rows, dtype=np.int64)
    return float(value[budget]), ranked_prefixes(worth, ranked, budget)
