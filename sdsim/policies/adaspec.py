"""AdaSpec (arXiv 2503.05096, SoCC 2025): draft while the predicted rate rises, then prune to a captured batch.

Draft length: from 0 up, each longer one is taken while the predicted tokens a second g do not fall; a draft counts the
default confidence, the running mean of those seen (0.6 at first). Verification: the drafts of the lowest cumulative
confidence are dropped until the next smaller captured size is reached, and again, while g is not lower. A step with
drafts that takes longer than the TPOT target has g = -1; the public code has that rule commented out, and so does
`slo: false`. Confidences are taken as they are, uncalibrated. `captured` are the token counts with a CUDA graph.

The paper tests g between draft passes; a plan is made before them, so this step's confidences decide the pruning only.
Not lossless at temperature: it prunes by the probability of the token drawn, and the budget depends on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sdsim.policies.confidence import POSITIONS, confidences, survival
from sdsim.policies.lengths import count, draft_lengths, flag, listed
from sdsim.policies.pace import Pace
from sdsim.policies.plans import uniform_plans
from sdsim.policies.selection import first_fall, ranked_prefixes, tokens_by_budget
from sdsim.policies.verify_prices import StepPrices, VerifyPrices
from sdsim.policy import FloatArray, IntArray, Observation, Plan, StepCosts, learn_nothing

CAPTURED = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))
"""vLLM's default."""
DEFAULT_CONFIDENCE = 0.6
MEMORY_ROWS = 256.0


class Adaspec:
    """Step up the draft length, step down the captured sizes."""

    needs = frozenset({"confidence", "slo_slack"})
    lossless_at_temperature = False

    def __init__(
        self,
        cost: StepCosts,
        lengths: Sequence[int] = (0, 1, 2, 3, 4),
        captured: Sequence[int] = CAPTURED,
        slo: bool = True,
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "adaspec"
        sizes = sorted({count("captured", size, 1) for size in listed("captured", captured)})
        self._sizes, self._index = np.array(sizes[::-1], dtype=np.int64), np.array(self.lengths)
        self._prices, self._pace, self._slo = VerifyPrices(cost, self.lengths, sizes), Pace(), flag("slo", slo)
        self._confidence = DEFAULT_CONFIDENCE
        self._plans = uniform_plans(self.lengths)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the stepwise draft length and the pruned verify lengths."""
        if not observation.batch:
            return self._plans[-1]
        self._pace.see(observation)
        prices = self._prices.at(observation)
        limit = self._pace.tpot_s if self._slo and self._pace.tpot_s is not None else math.inf
        believed = confidences(observation)
        drafts = int(np.add.reduce(observation.pending))
        verify = None
        if drafts:
            self._see(believed, observation.pending, drafts)
            verify = self._prune(survival(believed, observation.pending, drafts), drafts, prices, limit)
        return self._plans[self._steps(observation.batch, prices, limit)]._replace(verify_lengths=verify)

    def _see(self, believed: FloatArray, pending: IntArray, drafts: int) -> None:
        real = believed if drafts == believed.size else believed[POSITIONS[: len(believed)] < pending]
        mean = float(np.add.reduce(real, axis=None)) / drafts
        self._confidence += -math.expm1(-len(pending) / MEMORY_ROWS) * (mean - self._confidence)

    def _steps(self, rows: int, prices: StepPrices, limit: float) -> int:
        """Return how many draft lengths are tried before the predicted rate falls."""
        believed = self._confidence
        tokens = rows * (1.0 - believed ** (self._index + 1.0)) / (1.0 - believed)
        return first_fall(_rate(tokens, prices.even(rows), limit, self._index))

    def _prune(self, alive: FloatArray, drafts: int, prices: StepPrices, limit: float) -> IntArray | None:
        """Return the verify lengths at the last captured size before the rate falls; None for all."""
        rows = alive.shape[1]
        smaller = self._sizes[(self._sizes >= rows) & (self._sizes < rows + drafts)]
        positions = np.concatenate([[rows + drafts], smaller])
        ranked = np.sort(alive, axis=None)[::-1][:drafts]
        budgets = positions - rows
        tokens = tokens_by_budget(rows, ranked)[budgets]
        budget = int(budgets[first_fall(_rate(tokens, prices.verify[positions], limit, budgets))])
        return None if budget == drafts else ranked_prefixes(alive, ranked, budget)

    learn = learn_nothing


def _rate(tokens: FloatArray, seconds: FloatArray, limit: float, drafts: IntArray) -> FloatArray:
    """Return tokens a second, -1 where a step with drafts takes longer than *limit*."""
    rate = tokens / seconds
    if limit < math.inf:
        rate[(seconds > limit) & (drafts > 0)] = -1.0
    return rate
