"""Prefill-riding speculation: the prompt tokens and the drafts of a step chosen together, at one price.

In a MoE a draft token costs mostly the experts that it brings in. Beside a chunk of a prompt they are loaded anyway, so
drafts may ride; but a step full of prompt tokens is bound by arithmetic, where each draft token costs as much as a
prompt token. `step_rule` states the law: every token is bought at the rate at which decoding alone turns seconds into
tokens, and a chunk is cut where its tokens grow dearer than they were.

Without prompts the draft length is that of the highest ratio of tokens to seconds, as in SmartSpec and DSpark; with
`rides: false` prompts stay as scheduled. Lossless at temperature: the price of a draft rests on earlier steps, and
whether one is verified on its row's confidences up to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policies.belief import Belief
from sdsim.policies.lengths import count, draft_lengths, flag, listed
from sdsim.policies.plans import uniform
from sdsim.policies.step_rule import Choice, StepRule
from sdsim.policy import Observation, Outcome, Plan, StepCosts

CAPTURE_LIMIT = 512
"""The most tokens that vLLM captures a graph for, unless told otherwise: beyond, a step may cost far more."""


class PrefillRiding:
    """Maximise the worth of each step over draft length, verified drafts and prompt tokens."""

    needs = frozenset({"confidence"})
    does_without = frozenset({"confidence"})
    lossless_at_temperature = True

    def __init__(
        self,
        cost: StepCosts,
        lengths: Sequence[int] = (0, 1, 2, 3, 4, 5, 6),
        rides: bool = True,
        captured: Sequence[int] = (CAPTURE_LIMIT,),
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "prefill-riding"
        sizes = [count("captured", size, 1) for size in listed("captured", captured)]
        self._belief, self._rule = Belief(), StepRule(cost, self.lengths, flag("rides", rides), sizes)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the step of the highest worth."""
        if not len(observation.request_ids):
            return uniform(self.lengths[-1])
        choice = self._choose(observation)
        return choice.plan

    def _choose(self, observation: Observation) -> Choice:
        drafts = int(np.add.reduce(observation.pending))
        survival = self._belief.of(observation, drafts) if drafts else None
        return self._rule.choose(observation, self._belief.forecast.tokens, survival)

    def learn(self, outcome: Outcome, /) -> None:
        """Learn what drafts are worth."""
        self._belief.learn(outcome)
