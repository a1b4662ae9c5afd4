"""The step that gets the most for its seconds: draft length, verify lengths and prompt tokens, chosen together.

Decoding alone, n rows that draft and verify K tokens each emit tokens(K) in T(n, K): the best of these ratios, theta,
is what a second is worth in tokens. A step that verifies the b likeliest drafts beside c prompt tokens and drafts K is
worth tokens - theta T(n, b, c, K), and the best b and K are those of the highest worth. Without prompts that is the
highest ratio, as in DSpark and SmartSpec. Beside prompts it is not: their time has to be spent in any case, so a ratio
that counts it would take draft tokens for cheaper than they are.

The best b is found for drafts as they are expected to be, and its slope theta dT/db is the price of a draft: each one
at hand whose survival reaches it is verified. No more are than fit the captured size that b is within. So the number
follows what was drawn, but whether a draft is taken rests on the past and on its row's confidences up to it.

Prompts: the chunk as scheduled costs T(c) - T(0), so a prompt token is bought at omega = theta (T(c) - T(0)) / c. The
chunk taken is argmax (tokens + omega c') / T(c') over c' <= c. A smaller one wins where prompt tokens grow dearer with
the chunk: where kernels pass their knee, or where the first few ride on experts that the decode rows load anyway. It
is left as scheduled while requests wait beyond it, or if the gain is within `PATIENCE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sdsim.policies.lengths import LONGEST
from sdsim.policies.selection import top_prefixes
from sdsim.policies.verify_prices import TokenPrices, VerifyPrices
from sdsim.policy import FloatArray, IntArray, Observation, Plan, StepCosts

DEPTHS = np.arange(LONGEST + 1.0)
BUDGETS = 128
"""Numbers of drafts at which the best is sought."""
SLOPE = 16
"""The slope at a number of drafts is taken over a reach of this share of them on either side."""
TINY = 1e-12
PATIENCE = 0.02
"""Gain for which a prompt is not kept waiting."""


class Choice(NamedTuple):
    """A step, and what is expected of it."""

    length: int
    """Tokens to draft."""
    verify: IntArray | None
    """(rows,) drafts to verify; None: all."""
    chunk: int | None
    """Prompt tokens; None: as scheduled."""
    tokens: float
    """Tokens that the decode rows emit."""
    seconds: float
    """The step's price."""
    promised: float
    """Tokens a row that the drafts of `length` are expected to emit when they are verified."""
    drafted: float
    """The price of such a step."""
    plain: float
    """The price of this step if it verified and drafted nothing, the drafter warm."""
    alone: float
    """The same without prompts."""

    @property
    def plan(self) -> Plan:
        """The step as a plan."""
        return Plan(self.length, self.verify, "on" if self.length else "warm", self.chunk)


class StepRule:
    """Chooses among *lengths* at the prices of *cost*."""

    def __init__(
        self, cost: StepCosts, lengths: Sequence[int], rides: bool = True, captured: Sequence[int] = ()
    ) -> None:
        self._lengths = np.array(lengths, dtype=np.int64)
        self._prices, self._prompts = VerifyPrices(cost, lengths, captured), TokenPrices(cost, lengths)
        self._rides, self._last = rides, len(lengths) - 1
        self._captured = sorted(captured)

    def choose(self, observation: Observation, expected: FloatArray, survival: FloatArray | None) -> Choice:
        """Return the best step of *observation*, which has rows.

        *expected* holds the tokens that a row emits when it verifies 0, 1, ... drafts not drawn yet; *survival*,
        (positions, rows), what the drafts at hand are worth, None if there are none.
        """
        rows, drafts = len(observation.request_ids), int(np.add.reduce(observation.pending))
        cuts = self._rides and observation.prefill_tokens and not observation.waiting
        chunk = self._chunk(observation, drafts) if cuts else None
        carried = observation.prefill_tokens if chunk is None else chunk
        decoding, prices = self._prices.beside(observation, (0, carried))
        alone = decoding.even(rows)
        prompts_follow = carried and (chunk is not None or observation.waiting)
        emitted = expected[self._lengths]
        theta = float((emitted / alone).max()) * rows
        best = int((rows * emitted - theta * (prices.even(rows) if prompts_follow else alone)).argmax())
        self._last, length, drafting = best, int(self._lengths[best]), float(prices.drafting[best])
        budget, verify, tokens = 0, None, float(rows)
        if survival is not None:
            price = theta * prices.verify[rows : rows + drafts + 1]
            cutoff, most = self._cutoff(rows, expected, price)
            budget, verify, tokens = _verified(survival, drafts, cutoff, most)
        return Choice(
            length,
            verify,
            chunk,
            tokens,
            float(prices.verify[rows + budget]) + drafting,
            float(emitted[best]),
            float(prices.verify[rows + rows * length]) + drafting,
            float(prices.verify[rows] + prices.drafting[0]),
            float(alone[0]),
        )

    def _chunk(self, observation: Observation, drafts: int) -> int | None:
        """Return the prompt tokens to carry, or None to leave them as scheduled."""
        scheduled, grid = observation.prefill_tokens, self._prompts.tokens
        seconds = self._prompts.at(observation)[self._last]
        least = drafts + scheduled // max(observation.prefill_requests, 1)
        first, last = np.searchsorted(grid, (least, drafts + scheduled))
        above = np.append(grid[first:last], drafts + scheduled)
        price = np.interp(above, grid, seconds)
        alone = float(np.interp(drafts, grid, seconds))
        chunks = above - drafts
        efficiency = (alone + chunks * ((price[-1] - alone) / scheduled)) / price
        best = int(efficiency.argmax())
        return int(chunks[best]) if efficiency[best] > 1.0 + PATIENCE else None

    def _cutoff(self, rows: int, expected: FloatArray, price: FloatArray) -> tuple[float, int]:
        """Return the survival that pays for a draft, and the most drafts to verify, at a *price* of 0, 1, ... drafts.

        *expected* holds the tokens that a row emits when it verifies 0, 1, ... drafts: the best number is sought for
        rows of which each expects that.
        """
        drafts = len(price) - 1
        counts = np.arange(0, drafts + 1, 1 + drafts // BUDGETS)
        best = int(counts[(rows * np.interp(counts / rows, DEPTHS, expected) - price[counts]).argmax()])
        edges = [size - rows for size in self._captured]
        above = min((edge for edge in edges if best <= edge < drafts), default=drafts)
        below = max((edge + 1 for edge in edges if 0 <= edge < best), default=0)
        reach = 1 + drafts // SLOPE
        low, high = max(best - reach, below), min(best + reach, above)
        if low == high:
            return 0.0 if best else np.inf, above
        return float(price[high] - price[low]) / (high - low), above


def _verified(survival: FloatArray, drafts: int, cutoff: float, most: int) -> tuple[int, IntArray | None, float]:
    """Return how many drafts reach *cutoff* and are among the *most* likeliest, (rows,) which, and the tokens emitted.

    Which is None if it is all *drafts*.
    """
    taken = survival >= max(cutoff, TINY)
    budget = int(np.count_nonzero(taken))
    if budget > most:
        verify = top_prefixes(survival, most)
        taken, budget = np.arange(len(survival))[:, None] < verify, most
    elif budget == drafts:
        verify = None
    else:
        verify = np.add.reduce(taken, axis=0, dtype=np.int64)
    return budget, verify, survival.shape[1] + float(np.vdot(survival, taken))
