"""Let another policy speculate only while it cannot make the batch more than `epsilon` slower than no speculation.

An account, in seconds: each step earns (1 + epsilon) times the price at which decoding without drafts would emit the
tokens that the step emitted, and pays what it took. It starts at `allowance` and never holds more. A plan is allowed
if the account, less what steps without an outcome yet may still cost, covers the plan's worst case: its priced step
with no draft accepted, and the catch-up of a dropped drafter. So decoding falls behind, from any moment on, by at
most the share epsilon of its time, the allowance, and the drafts of a step, if the prices hold.

A step that carries prompts is settled at its price without them: what a chunk costs depends on the context before
it, which is not observed. So the drafter's own work on prompts is not counted.

`fallback: off` compares with autoregressive decoding. A plan that is not covered keeps the drafter warm, or drops it
if even that is not covered. A dropped drafter is loaded again only for less than the allowance, which long contexts
exceed. `fallback: warm` compares with decoding beside a warm drafter, whose own cost it accepts, and never drops one
itself.

This is conservative exploration (Wu et al. 2016, "Conservative bandits") with the baseline known from prices. Cascade
(arXiv 2506.20675) shows such a bound (5%) by experiment only.
"""

from __future__ import annotations

from typing import NamedTuple

from sdsim.policies.ledger import KEPT
from sdsim.policies.lengths import one_of, positive
from sdsim.policies.plans import DROPPED, WARM
from sdsim.policies.priced import Priced, catch_up_seconds
from sdsim.policies.wrapper import Inner, Wrapper, drafting_as
from sdsim.policy import Observation, Outcome, Plan, StepCosts


class _Prices(NamedTuple):
    base: float
    off: float
    by_length: dict[int, float]
    catch_up: float


class _Planned(NamedTuple):
    base: float
    """Price of a step without drafts, s."""
    worst: float
    """What the step may cost beyond what it earns at least, s."""
    seconds: float | None
    """What the step takes, s; None: as the outcome says."""


class Safe(Wrapper):
    """Keep an account of time lost against decoding without drafts."""

    def __init__(
        self, cost: StepCosts, inner: Inner, epsilon: float = 0.05, allowance: float = 1.0, fallback: str = "off"
    ) -> None:
        super().__init__("safe", inner, cost)
        self._cost, self._factor = cost, 1 + positive("epsilon", epsilon)
        self._account = self._allowance = positive("allowance", allowance)
        self._drops = one_of("fallback", fallback, ("off", "warm")) == "off"
        self._prices = Priced(self._price)
        self._open: dict[int, _Planned] = {}
        self._dropped = False

    def _price(self, rows: int, context: float) -> _Prices:
        by_length = {k: self._cost.step_seconds(rows, k, context) for k in self.lengths}
        off = self._cost.off_seconds(rows, context)
        base = off if self._drops else by_length[0]
        return _Prices(base, off, by_length, catch_up_seconds(self._cost, rows, context))

    def plan(self, observation: Observation, /) -> Plan:
        """Return the inner plan if the account covers it, else without drafts, or without the drafter."""
        wish = self.inner.plan(observation)
        if not len(observation.request_ids):
            return wish
        prices = self._prices.of(observation)
        available = self._account - sum(planned.worst for planned in self._open.values())
        choice, worst = wish, self._worst(wish, prices)
        if worst > available:
            choice, worst = WARM, self._worst(WARM, prices)
        if worst > available and self._drops:
            choice, worst = DROPPED, 0.0
        self._dropped = choice.drafter == "dropped"
        priced = prices.off if self._dropped else prices.by_length[choice.draft_length]
        planned = _Planned(prices.base, worst, priced if observation.prefill_tokens else None)
        self._open[observation.step] = planned
        if len(self._open) > KEPT:  # never told of: settled at its worst
            self._account -= self._open.pop(next(iter(self._open))).worst
        return drafting_as(wish, choice)

    def _worst(self, choice: Plan, prices: _Prices) -> float:
        """Return what *choice* costs at most beyond what one token a row earns, s, not below 0."""
        if choice.drafter == "dropped":
            return 0.0
        reload = prices.catch_up if self._dropped else 0.0
        return max(prices.by_length[choice.draft_length] + reload - self._factor * prices.base, 0.0)

    def learn(self, outcome: Outcome, /) -> None:
        """Settle the account for the outcome's step."""
        self.inner.learn(outcome)
        planned = self._open.pop(outcome.step, None)
        if planned is not None and len(outcome.request_ids):
            tokens = 1 + int(outcome.accepted.sum()) / len(outcome.request_ids)
            seconds = outcome.seconds if planned.seconds is None else planned.seconds
            self._account = min(self._account + self._factor * tokens * planned.base - seconds, self._allowance)
