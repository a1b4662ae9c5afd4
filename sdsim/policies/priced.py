"""Prices of the batch at hand, remembered, and the draft length that they favour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sdsim.policy import Observation, StepCosts

Price = TypeVar("Price")
CONTEXT_BUCKET = 64
REMEMBERED = 20_000
CATCH_UP_CHUNK = 2048


class Priced(Generic[Price]):
    """What *price* says of a batch (rows, mean context), remembered by rows and bucket of mean context.

    With *context* every batch is priced at that one mean context.
    """

    def __init__(self, price: Callable[[int, float], Price], context: float | None = None) -> None:
        self._price, self._context = price, context
        self._known: dict[tuple[int, int], Price] = {}

    def of(self, observation: Observation) -> Price:
        """Return the price of the decode rows, of which there must be one at least."""
        rows = len(observation.request_ids)
        bucket = 0
        if self._context is None:
            bucket = observation.stored_tokens // (rows * CONTEXT_BUCKET)
        known = self._known.get((rows, bucket))
        return self._look_up(rows, bucket) if known is None else known

    def _look_up(self, rows: int, bucket: int) -> Price:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        context = (bucket + 0.5) * CONTEXT_BUCKET if self._context is None else self._context
        price = self._known[rows, bucket] = self._price(rows, context)
        return price


def price_lengths(cost: StepCosts, lengths: Sequence[int]) -> Callable[[int, float], list[float]]:
    """Return the pricing of a whole step, s, for each of *lengths*."""
    return lambda rows, context: [cost.step_seconds(rows, k, context) for k in lengths]


def price_against_off(cost: StepCosts, lengths: Sequence[int]) -> Callable[[int, float], list[float]]:
    """Return the pricing of each of *lengths* as a multiple of the step with no drafter, which stands for length 0."""

    def price(rows: int, context: float) -> list[float]:
        off = cost.off_seconds(rows, context)
        return [1.0, *(cost.step_seconds(rows, k, context) / off for k in lengths[1:])]

    return price


def highest_goodput(tokens: Sequence[float], seconds: Sequence[float], margin: float = 1.0) -> int:
    """Return the index of the most *tokens* per second; the first counts *margin* times, and wins when equal."""
    best, highest = 0, margin * tokens[0] / seconds[0]
    for i in range(1, len(seconds)):
        goodput = tokens[i] / seconds[i]
        if goodput > highest:
            best, highest = i, goodput
    return best


def catch_up_seconds(cost: StepCosts, rows: int, context: float) -> float:
    """Return the time, s, in which a drafter loaded now passes over all that *rows* rows have stored.

    A warm drafter passes over the prompt tokens of its step, so the difference to a step without one prices that pass.
    """
    chunk = cost.step_seconds(1, 0, context, CATCH_UP_CHUNK) - cost.off_seconds(1, context, CATCH_UP_CHUNK)
    return max(chunk, 0.0) * rows * context / CATCH_UP_CHUNK
