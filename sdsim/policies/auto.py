"""The default: speculates as `prefill_riding` does, and drops a drafter that costs more than it brings.

Nothing is to be tuned. It reads the calibration's prices, with the jump beyond the largest captured graph, and what an
engine shows. In each step:

1. Each draft at hand is believed to be accepted with a chance that was learnt from outcomes, by the drafter's
   confidence if there is one, the draft's position, and the request's own record (`belief`).
2. Decoding alone could turn a second into theta tokens: the best ratio of tokens to seconds over draft lengths, for
   drafts as they have been of late (`forecast`). That is the price of time. The length of the best ratio is drafted.
3. A draft at hand is verified if its chance to be emitted is worth its share of the step's time at that price, and a
   prompt's chunk is cut where its tokens would cost more time than they spare elsewhere (`step_rule`).
4. What the drafter loses or gains against decoding without it goes into an account. At two reloads' worth of loss it
   is dropped, at one of gain loaded again (`residency`). An engine that cannot drop it takes that as draft length 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.plans import DROPPED, uniform
from sdsim.policies.prefill_riding import CAPTURE_LIMIT, PrefillRiding
from sdsim.policies.residency import Residency
from sdsim.policy import Observation, Plan, StepCosts


class Auto(PrefillRiding):
    """Prefill-riding speculation by a drafter that must earn its place."""

    def __init__(
        self,
        cost: StepCosts,
        lengths: Sequence[int] = (0, 1, 2, 3, 4, 5, 6),
        captured: Sequence[int] = (CAPTURE_LIMIT,),
    ) -> None:
        super().__init__(cost, lengths, captured=captured)
        self.label = "auto"
        self._shortest = next((k for k in self.lengths if k), 0)
        self._residency = Residency(cost, self._shortest)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the step of the highest worth, with or without the drafter."""
        if not len(observation.request_ids):
            return uniform(self.lengths[-1]) if self._residency.loaded else DROPPED
        choice = self._choose(observation)
        self._residency.see(observation, choice)
        if not self._residency.loaded:
            return DROPPED._replace(verify_lengths=choice.verify, prefill_budget=choice.chunk)
        if self._residency.on_trial:
            return uniform(max(choice.length, self._shortest))._replace(prefill_budget=choice.chunk)
        return choice.plan
