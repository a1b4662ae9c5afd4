"""What bandits over draft lengths share: contexts, trials, and the credit of outcomes.

A context is a range of batch sizes: 1, 2 to 3, 4 to 7, 8 to 15 and so on. An arm is a draft length; the reward of a
step is the tokens that a row emits a second, so that batches and lengths compare. An arm is held for a trial of
`hold` steps, because a step verifies what the step before drafted and pays for drafting the next: only a step that
verified the length it also drafted is credited. Steps that carry prompts are not, as their time says little about the
length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from sdsim.policies.arms import Arms, tokens_per_row_second
from sdsim.policies.ledger import Ledger
from sdsim.policies.lengths import count, draft_lengths
from sdsim.policies.plans import uniform_plans
from sdsim.policy import Observation, Outcome, Plan

Context = TypeVar("Context", bound=Arms)


class Played(NamedTuple, Generic[Context]):
    """A step that can be credited."""

    arms: Context
    arm: int
    chance: float
    """The probability with which the arm was chosen."""


class Bandit(Generic[Context]):
    """Holds an arm for a trial, then lets the law in `choose` take the next. A law may also override `credit`.

    *context* makes the state of a context from its number of arms.
    """

    lossless_at_temperature = True

    def __init__(self, lengths: Sequence[int], hold: int, context: Callable[[int], Context]) -> None:
        self.lengths = draft_lengths(lengths)
        self._hold = count("hold", hold, 2)
        self._plans = uniform_plans(self.lengths)
        self._context = context
        self._contexts: dict[int, Context] = {}
        self._ledger: Ledger[Played[Context]] = Ledger()
        self._arm, self._chance, self._left = len(self.lengths) - 1, 1.0, 0

    def choose(self, arms: Context) -> tuple[int, float]:
        """Return the arm of the next trial, and the probability with which it was chosen."""
        raise NotImplementedError

    def credit(self, played: Played[Context], reward: float, rows: int) -> None:
        """Take in the reward of one step."""
        played.arms.credit(played.arm, reward, rows)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the arm of the current trial."""
        rows = len(observation.request_ids)
        if not rows:
            return self._plans[self._arm]
        arms = self._contexts.get(rows.bit_length())
        if arms is None:
            arms = self._contexts[rows.bit_length()] = self._context(len(self.lengths))
        if not self._left:
            self._arm, self._chance = self.choose(arms)
            arms.plays[self._arm] += 1
            self._left = self._hold
        self._left -= 1
        if not observation.prefill_tokens:
            self._ledger.note(observation.step, Played(arms, self._arm, self._chance))
        return self._plans[self._arm]

    def learn(self, outcome: Outcome, /) -> None:
        """Credit the arm of the outcome's step, if the step verified that arm's length."""
        played = self._ledger.take(outcome.step)
        if played is not None and int(outcome.verified.max(initial=0)) == self.lengths[played.arm]:
            self.credit(played, tokens_per_row_second(outcome), len(outcome.request_ids))
