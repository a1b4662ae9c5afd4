"""SLOs-Serve, lite (arXiv 2504.08784): draft lengths for tiers of requests that leave most room for prompts.

A request that drafts k tokens emits Acc(k) a step, so its TPOT target allows the step TPOT x Acc(k) seconds. That long
a step holds so many tokens, and what the decode rows leave of them is for prompts. The paper plans by dynamic
programming over requests to come, with a tier for each TPOT target. The reading, for one step: the tiers are the rows
that are late and those ahead; a tier's allowance gains or loses its least slack spread over `horizon` steps; every pair
of lengths is enumerated, and the one with most prompt tokens a second wins. What it leaves becomes the prefill budget.
Rows too late to recover within the horizon are best effort: they set no limit, and draft like the late ones.

Where no prompt waits, no pair is feasible, or there is no target, the length of the most tokens a second serves all,
and prompts go as scheduled. As in the paper's model, a step's time depends on its tokens, prompt or draft alike, and on
its draft passes. Lossless at temperature: lengths depend on slack and on mean acceptance only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from sdsim.policies.acceptance_estimate import AcceptanceEstimate, tokens_per_step
from sdsim.policies.lengths import count, draft_lengths
from sdsim.policies.pace import Pace
from sdsim.policies.plans import uniform
from sdsim.policies.verify_prices import TokenPrices
from sdsim.policy import FloatArray, Observation, Outcome, Plan, StepCosts


class SlosServe:
    """Choose the lengths of late and of ahead rows for the most prefill that the targets allow."""

    needs = frozenset({"slo_slack"})
    lossless_at_temperature = True

    def __init__(
        self, cost: StepCosts, lengths: Sequence[int] = (0, 1, 2, 3, 4), horizon: int = 16, prior: float = 0.7
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "slos-serve"
        self._horizon = count("horizon", horizon, 1)
        self._acceptance, self._pace = AcceptanceEstimate(prior), Pace()
        self._prices = TokenPrices(cost, self.lengths)
        self._index = np.array(self.lengths)
        choices = range(len(self.lengths))
        self._late, self._ahead = np.array(sorted(product(choices, choices), key=max)).T

    def plan(self, observation: Observation, /) -> Plan:
        """Return the tiers' lengths and the room for prompts."""
        if not observation.batch:
            return uniform(self.lengths[-1])
        self._pace.see(observation)
        emitted = np.array([tokens_per_step(self._acceptance.rate, k) for k in self.lengths])
        seconds = self._prices.at(observation)
        slack, tpot = observation.slo_slack, self._pace.tpot_s
        plan = None
        if slack is not None and tpot is not None and (observation.prefill_tokens or observation.waiting):
            plan = self._tiers(observation, slack, tpot, emitted, seconds)
        return plan or self._fastest(observation, emitted, seconds)

    def _fastest(self, observation: Observation, emitted: FloatArray, seconds: FloatArray) -> Plan:
        """Return the plan of the one length with most tokens a second."""
        drafts = observation.batch * self._index
        spent = [np.interp(n, self._prices.tokens, price) for n, price in zip(drafts, seconds, strict=True)]
        length = self.lengths[int((emitted / np.array(spent)).argmax())]
        return uniform(length)._replace(verify_lengths=np.minimum(observation.pending, length))

    def _tiers(
        self, observation: Observation, slack: FloatArray, tpot: float, emitted: FloatArray, seconds: FloatArray
    ) -> Plan | None:
        """Return the plan of the best feasible pair of lengths (late, ahead), or None."""
        late, lost = slack < 0, slack < -0.5 * self._horizon * tpot
        behind = int(np.count_nonzero(late))
        by_late, by_ahead = (self._allowed(slack[rows], tpot * emitted) for rows in (late & ~lost, ~late))
        limit = np.minimum(by_late[self._late], by_ahead[self._ahead])
        if np.isinf(limit[0]):
            return None
        room = self._held(limit, seconds)
        room -= behind * self._index[self._late] + (len(slack) - behind) * self._index[self._ahead]
        rate = np.where(room >= 0, room / limit, -1.0)
        best = int(rate.argmax())
        if rate[best] < 0:
            return None
        first, second = self.lengths[self._late[best]], self.lengths[self._ahead[best]]
        verify = np.minimum(np.where(late, first, second), observation.pending)
        return uniform(max(first, second))._replace(verify_lengths=verify, prefill_budget=int(room[best]))

    def _held(self, limit: FloatArray, seconds: FloatArray) -> FloatArray:
        """Return (pairs,) tokens beside the rows' own that a step of *limit* seconds holds; -inf if not even those.

        The pairs are in order of their longer length: 2 k + 1 of them have the k-th.
        """
        tokens = self._prices.tokens
        parts = [
            np.interp(limit[k * k : (k + 1) * (k + 1)], price, tokens, left=-np.inf) for k, price in enumerate(seconds)
        ]
        return np.concatenate(parts)

    def _allowed(self, slack: FloatArray, earned: FloatArray) -> FloatArray:
        """Return (lengths,) seconds that a step may take for a tier with this slack; without end for an empty tier."""
        return earned + (float(slack.min()) / self._horizon if len(slack) else np.inf)

    def learn(self, outcome: Outcome, /) -> None:
        """Update the acceptance."""
        self._acceptance.update(outcome)
