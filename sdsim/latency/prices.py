"""Step prices for policies, and the curves of `predict`, from a latency model and a routing law."""

from __future__ import annotations

from sdsim.experts import Routing
from sdsim.latency import LatencyModel, StepCost
from sdsim.policy import Drafter
from sdsim.step import StepShape

REMEMBERED = 50_000
"""Steps whose price is kept."""


def even_step(
    routing: Routing, rows: int, draft_length: int, context: float, drafter: Drafter, prefill_tokens: int = 0
) -> StepShape:
    """Return the step of *rows* rows that each verify and then draft *draft_length* tokens at *context* tokens."""
    return verify_step(routing, rows, rows * (1 + draft_length), context, drafter, prefill_tokens, draft_length)


def verify_step(
    routing: Routing,
    rows: int,
    tokens: int,
    context: float,
    drafter: Drafter,
    prefill_tokens: int = 0,
    draft_length: int = 0,
) -> StepShape:
    """Return the step of *rows* rows that share *tokens* target positions evenly and then draft *draft_length* each."""
    stored = round(rows * context)
    return StepShape(
        rows=rows,
        verify_tokens=tokens,
        context_tokens=stored,
        attention_pairs=stored * tokens // max(rows, 1),
        prefill_tokens=prefill_tokens,
        prefill_rows=int(prefill_tokens > 0),
        prefill_pairs=prefill_tokens * (prefill_tokens + 1) // 2,
        draft_length=draft_length,
        draft_rows=rows if draft_length else 0,
        drafter=drafter,
        distinct_experts=routing.distinct_uniform_rows(rows, tokens, prefill_tokens),
    )


class Prices:
    """Implements `sdsim.policy.StepCosts` on a latency model.

    *plain* prices OFF: the engine started without a drafter, whose host may work ahead where it waits for a drafter's
    tokens. By default OFF is the step of *latency* with the drafter dropped, which is the same for an ideal engine.
    """

    def __init__(self, latency: LatencyModel, routing: Routing, plain: LatencyModel | None = None) -> None:
        self._latency = latency
        self._plain = latency if plain is None else plain
        self._routing = routing
        self._steps: dict[tuple[int, int, float, int], float] = {}

    def step_seconds(self, rows: int, draft_length: int, context: float, prefill_tokens: int = 0) -> float:
        """See `StepCosts.step_seconds`; remembered, because the policies of all replicas ask for the same."""
        step = (rows, draft_length, context, prefill_tokens)
        known = self._steps.get(step)
        if known is None:
            if len(self._steps) >= REMEMBERED:
                self._steps.clear()
            known = self._steps[step] = self._latency.seconds(self.shape(*step))
        return known

    def verify_seconds(
        self, rows: int, verify_tokens: int, context: float, prefill_tokens: int = 0, draft_length: int = 0
    ) -> float:
        """See `StepCosts.verify_seconds`."""
        drafter: Drafter = "on" if draft_length else "warm"
        return self._latency.seconds(
            verify_step(self._routing, rows, verify_tokens, context, drafter, prefill_tokens, draft_length)
        )

    def off_seconds(self, rows: int, context: float, prefill_tokens: int = 0) -> float:
        """See `StepCosts.off_seconds`."""
        return self._latency.seconds(even_step(self._routing, rows, 0, context, "dropped", prefill_tokens))

    def shape(self, rows: int, draft_length: int, context: float, prefill_tokens: int = 0) -> StepShape:
        """Return the step with the drafter loaded."""
        drafter: Drafter = "on" if draft_length else "warm"
        return even_step(self._routing, rows, draft_length, context, drafter, prefill_tokens)

    def cost(self, rows: int, draft_length: int, context: float) -> StepCost:
        """Return the split cost of a step; draft length 0 is OFF."""
        if draft_length:
            return self._latency.cost(even_step(self._routing, rows, draft_length, context, "on"))
        return self._plain.cost(even_step(self._routing, rows, 0, context, "dropped"))


class MisjudgedPrices(Prices):
    """Prices by which drafting and verifying add the share *error* more to a step than they do, less if negative.

    What a step takes without a drafter is right: an error common to all steps would change no choice among them.
    """

    def __init__(
        self, latency: LatencyModel, routing: Routing, plain: LatencyModel | None = None, error: float = 0.0
    ) -> None:
        super().__init__(latency, routing, plain)
        self._error = error

    def step_seconds(self, rows: int, draft_length: int, context: float, prefill_tokens: int = 0) -> float:
        """See `StepCosts.step_seconds`."""
        true = super().step_seconds(rows, draft_length, context, prefill_tokens)
        return true + self._error * (true - self.off_seconds(rows, context, prefill_tokens))

    def verify_seconds(
        self, rows: int, verify_tokens: int, context: float, prefill_tokens: int = 0, draft_length: int = 0
    ) -> float:
        """See `StepCosts.verify_seconds`."""
        true = super().verify_seconds(rows, verify_tokens, context, prefill_tokens, draft_length)
        return true + self._error * (true - self.off_seconds(rows, context, prefill_tokens))
