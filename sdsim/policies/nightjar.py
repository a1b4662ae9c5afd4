"""Nightjar (arXiv 2512.22420 v3): a bandit per batch size that counts the cost of switching speculation back on.

ADA-BINGREEDY: the steps at a batch size fall into blocks of 1, 2, 4, ... steps, and a block into bins of the root of
its length. Bin b of a block explores with probability 1 / b (a public copy takes 1 / sqrt(b)): an arm drawn evenly;
else it takes argmin over K of 1 / g_K, g_K the mean tokens per second of a row. The arm is locked for the bin. As in
that copy, two batch sizes share a bandit; its rule `if batch > 20 and qps > 2: off` is not followed.

Memory: once K = 0 and less than the share `low` of the KV blocks is free for `persist` s, the drafter is dropped. A
step then takes argmin of 1 / g_K + [K > 0] C_switch / K, without exploring, and loads the drafter again if that is
not 0 and memory is not short. C_switch is the priced pass of the drafter over all stored tokens; a drafter that is
loaded stays warm at K = 0, so that switching then costs nothing. The number of blocks is not observed: the most ever
free stands for it. The paper gives no `persist`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sdsim.policies.arms import tokens_per_row_second
from sdsim.policies.binned_arms import BinnedArms
from sdsim.policies.ledger import Ledger
from sdsim.policies.lengths import count, draft_lengths, positive, share
from sdsim.policies.plans import DROPPED, uniform_plans
from sdsim.policies.priced import Priced, catch_up_seconds
from sdsim.policy import Observation, Outcome, Plan, StepCosts


class Nightjar:
    """Draft the locked length of the batch size; drop the drafter when it is idle and memory is short."""

    lossless_at_temperature = True

    def __init__(
        self,
        cost: StepCosts,
        lengths: Sequence[int] = (0, 1, 2, 3, 4),
        low: float = 0.1,
        persist: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "nightjar"
        self._low, self._persist = share("low", low), positive("persist", persist)
        self._random = np.random.Generator(np.random.PCG64(count("seed", seed)))
        self._plans = uniform_plans(self.lengths)
        self._switch = Priced(lambda rows, context: catch_up_seconds(cost, rows, context))
        self._by_batch: dict[int, BinnedArms] = {}
        self._ledger: Ledger[tuple[BinnedArms, int]] = Ledger()
        self._pool, self._short_since, self._dropped = 0, math.inf, False

    def plan(self, observation: Observation, /) -> Plan:
        """Return the length of the current bin."""
        rows = len(observation.request_ids)
        if not rows:
            return DROPPED if self._dropped else self._plans[-1]
        arms = self._by_batch.get((rows - 1) // 2)
        if arms is None:
            arms = self._by_batch[(rows - 1) // 2] = BinnedArms(len(self.lengths))
        self._pool = max(self._pool, observation.kv_free)
        short = observation.kv_free < self._low * self._pool
        arm = self._from_dropped(arms, observation, short) if self._dropped else self._locked(arms)
        self._short_since = min(self._short_since, observation.now) if short and not arm else math.inf
        self._dropped = not arm and (self._dropped or observation.now - self._short_since >= self._persist)
        if not observation.prefill_tokens:
            self._ledger.note(observation.step, (arms, arm))
        return DROPPED if self._dropped else self._plans[arm]

    def _locked(self, arms: BinnedArms) -> int:
        """Return the arm of the bin, a new one if it is over."""
        if not arms.left:
            explores = self._random.random() < arms.next_bin()
            drawn, best = int(self._random.integers(len(self.lengths))), arms.cheapest([0.0] * len(self.lengths))
            arms.arm = drawn if explores or best is None else best
        arms.left -= 1
        return arms.arm

    def _from_dropped(self, arms: BinnedArms, observation: Observation, short: bool) -> int:
        """Return the arm to take while the drafter is not loaded."""
        if short:
            return 0
        seconds = self._switch.of(observation)
        return arms.cheapest([seconds / length if length else 0.0 for length in self.lengths]) or 0

    def learn(self, outcome: Outcome, /) -> None:
        """Credit the arm of the outcome's step, if the step verified that arm's length."""
        arms, arm = self._ledger.take(outcome.step) or (None, 0)
        if arms is not None and int(outcome.verified.max(initial=0)) == self.lengths[arm]:
            arms.credit(arm, tokens_per_row_second(outcome), len(outcome.request_ids))
