"""The price of a step by the tokens that it carries, from a policy's `StepCosts`.

As the engines' cost tables do (vLLM 0.28 `adaptive_verification.py`, SGLang's DSpark planner), a step's time is taken
as one curve over tokens and one term for the drafting. Here the curve also knows the rows, their context and the prompt
tokens beside them. Prices are asked for at a few sizes, remembered, and interpolated between.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sdsim.policy import FloatArray, IntArray, Observation, StepCosts

REMEMBERED = 1024
ROWS, CONTEXTS, DRAFTS = 8, 4, 4
"""Sizes priced per doubling."""
PROMPT_TOKENS = (0, 1, 4, 16, 64, 256, 512, 1024, 2048, 4096, 16_384)
"""Prompt tokens beside the rows at which curves are priced."""
TOKENS = (0, 16, 64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 8192)
"""Tokens of any kind beside the rows."""


class StepPrices(NamedTuple):
    """Prices of the steps that the rows at hand may make, s."""

    verify: FloatArray
    """(positions + 1,) seconds of the step that verifies 0, 1, ... positions and then drafts the longest draft."""
    drafting: FloatArray
    """(lengths,) seconds to add when each length is drafted instead of the longest: 0 or less."""
    lengths: IntArray
    """(lengths,) the draft lengths."""

    def even(self, rows: int) -> FloatArray:
        """Return (lengths,) seconds of the step in which every row verifies, and then drafts, each length."""
        return self.verify[rows * (1 + self.lengths)] + self.drafting


class VerifyPrices:
    """Prices of the steps of a policy that may draft *lengths*.

    *captured* are token counts at which the price may jump: it is asked for there and just above.
    """

    def __init__(self, cost: StepCosts, lengths: Sequence[int], captured: Sequence[int] = ()) -> None:
        self._cost, self._captured = cost, tuple(captured)
        self._lengths = np.array(lengths, dtype=np.int64)
        self._known: dict[tuple[int, int, int], FloatArray] = {}

    def at(self, observation: Observation) -> StepPrices:
        """Return the prices for the rows, contexts and prompt tokens of *observation*, which has rows."""
        return self.beside(observation, (observation.prefill_tokens,))[0]

    def beside(self, observation: Observation, prompts: Sequence[int]) -> list[StepPrices]:
        """Return the prices for its rows and contexts beside each number of *prompts* tokens."""
        rows, context = _rows_size(observation), _context_size(observation)
        return [self._beside(rows, context, prompt) for prompt in prompts]

    def _beside(self, rows: int, context: int, prompt: int) -> StepPrices:
        if not prompt:
            return self._split(self._look_up(rows, context, 0))
        above = min(bisect_right(PROMPT_TOKENS, prompt), len(PROMPT_TOKENS) - 1)
        low, high = PROMPT_TOKENS[above - 1], PROMPT_TOKENS[above]
        shorter = self._look_up(rows, context, low)
        prices = self._look_up(rows, context, high) - shorter
        prices *= (prompt - low) / (high - low)
        prices += shorter
        return self._split(prices)

    def _split(self, prices: FloatArray) -> StepPrices:
        n = len(self._lengths)
        return StepPrices(prices[:-n], prices[-n:], self._lengths)

    def _look_up(self, rows_size: int, context_size: int, prompt: int) -> FloatArray:
        key = (rows_size, context_size, prompt)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[key] = self._price(*key)
        return known

    def _price(self, rows_size: int, context_size: int, prompt: int) -> FloatArray:
        rows, context = round(_of_size(rows_size, ROWS)), _of_size(context_size, CONTEXTS)
        lengths: list[int] = self._lengths.tolist()

        def seconds(positions: int, length: int) -> float:
            return self._cost.verify_seconds(rows, positions, context, prompt, length)

        most = math.ceil(_of_size(rows_size + 1, ROWS)) * (1 + lengths[-1])
        sizes = positions_priced(rows, most, lengths[-1], self._captured)
        verify = np.interp(np.arange(most + 1), sizes, [seconds(positions, lengths[-1]) for positions in sizes])
        drafting = np.array([seconds(rows, length) for length in lengths]) - verify[rows]
        return np.concatenate([verify, drafting])


class TokenPrices:
    """Prices of steps with more and more `tokens` beside the rows' own, whatever they are, by draft length."""

    def __init__(self, cost: StepCosts, lengths: Sequence[int]) -> None:
        self.tokens = np.array(TOKENS, dtype=np.float64)
        self._cost, self._lengths = cost, tuple(lengths)
        self._known: dict[tuple[int, int], FloatArray] = {}

    def at(self, observation: Observation) -> FloatArray:
        """Return (lengths, tokens) seconds, not falling along a length, for the rows and contexts of *observation*."""
        key = (_rows_size(observation), _context_size(observation))
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[key] = self._price(round(_of_size(key[0], ROWS)), _of_size(key[1], CONTEXTS))
        return known

    def _price(self, rows: int, context: float) -> FloatArray:
        def seconds(length: int) -> list[float]:
            return [self._cost.verify_seconds(rows, rows, context, tokens, length) for tokens in TOKENS]

        return np.asarray(np.maximum.accumulate([seconds(length) for length in self._lengths], axis=1))


def positions_priced(rows: int, most: int, longest: int, captured: Sequence[int] = ()) -> list[int]:
    """Return the counts of verified positions, *rows* to *most*, at which a step of *rows* rows is priced.

    Dense where few drafts are verified, and at whole drafts a row; each captured size and the count above it.
    """
    doublings = range(DRAFTS * most.bit_length())
    counts = {rows, most, *(rows + round(_of_size(i, DRAFTS)) for i in doublings)}
    counts |= {rows * (1 + length) for length in range(longest + 1)}
    counts |= {size + above for size in captured for above in (0, 1)}
    return sorted(count for count in counts if rows <= count <= most)


def _rows_size(observation: Observation) -> int:
    """Return the number of the largest priced batch with no more rows, so that no step verifies fewer positions."""
    return math.floor(ROWS * math.log2(1.0 + len(observation.request_ids)))


def _context_size(observation: Observation) -> int:
    """Return the number of the priced context nearest to the mean."""
    mean = observation.stored_tokens / len(observation.request_ids)
    return round(CONTEXTS * math.log2(1.0 + mean))


def _of_size(number: int, per_doubling: int) -> float:
    return math.exp2(number / per_doubling) - 1.0
