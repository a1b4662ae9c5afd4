"""Cascade's utility (arXiv 2506.20675) for each request of a batch.

The paper measures U(K) = ETR / (t_spec / t_base) of the one request that runs. In a batch the step time is common, so
a request's part must be attributed. Chosen here: its even part of the step's base time plus its own marginal price,
that is the price of verifying and drafting K tokens over that of none, shared evenly by rows that all take K. Its
slow-down is then T(n, K) / T(n, 0), and U_r(K) = (1 - a_r^(K+1)) / (1 - a_r) / slow-down, with a_r the request's
acceptance, shrunk towards that of all.

Each request verifies argmax U_r, or nothing where no U_r exceeds 1; the batch drafts the longest that any wants. In
place of the paper's test phases, which need step times of its own, a request that verifies nothing is offered one
draft every `retest` steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policies.acceptance_estimate import tokens_per_step
from sdsim.policies.lengths import count, draft_lengths
from sdsim.policies.plans import uniform
from sdsim.policies.priced import Priced, highest_goodput, price_lengths
from sdsim.policies.request_rates import RequestRates
from sdsim.policy import IntArray, Observation, Outcome, Plan, StepCosts

RATES = 200
"""Steps of the acceptance, from 0 to 1, for which the best length is worked out."""


class CascadePerRequest:
    """Verify of each request as many drafts as its own utility allows."""

    lossless_at_temperature = True

    def __init__(
        self, cost: StepCosts, lengths: Sequence[int] = (0, 1, 2, 3, 4), prior: float = 0.7, retest: int = 16
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "cascade-per-request"
        self._retest = count("retest", retest, 2)
        self._rates = RequestRates(prior)
        self._seconds = price_lengths(cost, self.lengths)
        tokens = np.array([[tokens_per_step(min(i / RATES, 0.999), k) for k in self.lengths] for i in range(RATES + 1)])
        self._tokens = tokens.tolist()
        self._wanted = Priced(self._want)

    def _want(self, rows: int, context: float) -> IntArray:
        """Return the best length for each acceptance from 0 to 1."""
        seconds = self._seconds(rows, context)
        return np.array([self.lengths[highest_goodput(tokens, seconds)] for tokens in self._tokens], dtype=np.int64)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the verify length of each row, and the longest wanted."""
        if not len(observation.request_ids):
            return uniform(self.lengths[-1])
        rates = self._rates.of(observation.request_ids)
        wanted = self._wanted.of(observation)[(rates * RATES).astype(np.int64)]
        if observation.step % self._retest <= 1 and len(self.lengths) > 1:
            wanted = np.maximum(wanted, self.lengths[1])  # drafted in one step, verified in the next
        plan = uniform(int(wanted.max()))
        return plan._replace(verify_lengths=np.minimum(wanted, observation.pending))

    def learn(self, outcome: Outcome, /) -> None:
        """Update the acceptances."""
        self._rates.update(outcome)
