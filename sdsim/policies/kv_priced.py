"""KV-priced speculation: the drafter's memory counted as the rows that it keeps out.

Goodput (SmartSpec, arXiv 2406.14066, without its margin) compares draft lengths for the rows at hand. Where requests
wait for KV blocks, dropping the drafter, its weights and KV, makes room for more rows: n' = min(`room` n, n + waiting).
So the highest goodput with n rows is held against that of decoding alone with n' rows, and the drafter is dropped if
the latter is higher. It is loaded again when what decoding alone has lost since adds up to the price of the pass over
all stored tokens. Nightjar (arXiv 2512.22420) drops it below a threshold of free blocks; here there is none to set.

`room` is the tokens that the pool holds without the drafter over those with it. With 1, or while nobody waits for
blocks, this is `goodput`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.goodput import Goodput
from sdsim.policies.lengths import count, positive
from sdsim.policies.plans import DROPPED
from sdsim.policies.priced import Priced, catch_up_seconds
from sdsim.policy import Observation, Plan, StepCosts


class KvPriced(Goodput):
    """Maximise tokens a second over draft lengths, and over whether the drafter's memory serves requests better."""

    def __init__(
        self,
        cost: StepCosts,
        lengths: Sequence[int] = (0, 1, 2, 3, 4),
        prior: float = 0.7,
        room: float = 1.15,
        block_size: int = 16,
    ) -> None:
        super().__init__(cost, lengths, prior, margin=1.0)
        self.label = "kv-priced"
        self._room, self._block = max(positive("room", room), 1.0), count("block_size", block_size, 1)
        self._off = Priced(cost.off_seconds)
        self._wider = Priced(lambda rows, context: cost.off_seconds(round(self._room * rows), context))
        self._reload = Priced(lambda rows, context: catch_up_seconds(cost, rows, context))
        self._dropped, self._lost = False, 0.0

    def plan(self, observation: Observation, /) -> Plan:
        """Return the length of the highest goodput, or the plan to drop the drafter."""
        plan = super().plan(observation)
        if observation.batch:
            self._dropped = self._drops(observation, self.lengths.index(plan.draft_length))
        return DROPPED if self._dropped else plan

    def _drops(self, observation: Observation, index: int) -> bool:
        """Return whether the drafter should be gone, the best it can do being the length at *index*."""
        speculating = self._speculating(observation, index)
        alone = self._alone(observation)
        if not self._dropped:
            self._lost = 0.0
            return alone > speculating
        if speculating > alone:
            self._lost += (speculating / alone - 1.0) * self._off.of(observation)
        return self._lost < self._reload.of(observation)

    def _speculating(self, observation: Observation, index: int) -> float:
        """Return tokens a second with the drafter."""
        tokens = self._acceptance.tokens(self.lengths)[index]
        return float(observation.batch * tokens / self._seconds.of(observation)[index])

    def _alone(self, observation: Observation) -> float:
        """Return the tokens a second that decoding alone would reach in the drafter's memory; 0 if memory is not short.

        Once the drafter is dropped, the rows at hand are those.
        """
        rows = observation.batch
        if self._dropped:
            return rows / self._off.of(observation)
        short = observation.kv_free * self._block * rows < int(observation.context_lengths.sum())
        if not observation.waiting or not short or self._room == 1.0:
            return 0.0
        return min(self._room * rows, rows + observation.waiting) / self._wider.of(observation)
