"""ECHO (arXiv 2604.09603): one budget of drafts for the batch, spent where sparse confidence gates let it go deeper.

At a few depths only, a row's path probability is compared with that depth's threshold: a row below stops there. Each
row may verify its even part of the `budget`; what stopped rows leave goes to the likeliest drafts beyond that part of
the rows that passed.

Readings taken. The paper selects depths and thresholds offline by AUC and gives none: `gates` are (depth, threshold)
pairs of the user's. Its trees become chains, so there is no width to spend the budget on at low load. Its gates stop
the drafting itself; here the engine drafts the same length for all rows, so they save verification only. The batch
drafts nothing while the budget is below one draft a row.

Not lossless at temperature: it gates by the probability of the tokens drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policies.confidence import confidences, survival
from sdsim.policies.lengths import count, draft_length, share
from sdsim.policies.plans import WARM, uniform
from sdsim.policies.selection import top_prefixes
from sdsim.policy import FloatArray, IntArray, Observation, Plan, learn_nothing


class Echo:
    """Verify within a budget, deeper where the gates are passed."""

    needs = frozenset({"confidence"})
    lossless_at_temperature = False

    def __init__(
        self, length: int = 4, budget: int = 256, gates: Sequence[Sequence[float]] = ((1, 0.5), (2, 0.3))
    ) -> None:
        self.lengths = tuple(sorted({0, draft_length(length)}))
        self.label = "echo"
        self._budget, self._plan = count("budget", budget, 1), uniform(length)
        if not isinstance(gates, list | tuple) or any(not isinstance(g, list | tuple) or len(g) != 2 for g in gates):
            raise ValueError(f"gates {gates!r}; allowed: a list of [depth, threshold]")
        self._gates = [(count("gate depth", depth, 1), share("gate threshold", least)) for depth, least in gates]

    def plan(self, observation: Observation, /) -> Plan:
        """Return the verify lengths of the rows that the gates and the budget allow."""
        rows = len(observation.request_ids)
        plan = self._plan if self._budget >= rows else WARM
        drafts = int(np.add.reduce(observation.pending))
        if not drafts:
            return plan
        alive = survival(confidences(observation), observation.pending, drafts)
        return plan._replace(verify_lengths=self._spend(self._gated(alive, observation.pending), alive, rows))

    def _gated(self, alive: FloatArray, pending: IntArray) -> IntArray:
        """Return (rows,) drafts up to the first gate that a row does not pass."""
        allowed = pending.copy()
        for depth, least in self._gates:
            if depth <= len(alive):
                np.minimum(allowed, depth, out=allowed, where=alive[depth - 1] <= least)
        return allowed

    def _spend(self, allowed: IntArray, alive: FloatArray, rows: int) -> IntArray:
        """Return (rows,) verify lengths: the even part of the budget, then the likeliest of what is allowed beyond."""
        even = np.minimum(allowed, self._budget // rows)
        left = self._budget - int(np.add.reduce(even))
        depth = np.arange(len(alive))[:, None]
        return even + top_prefixes(np.where((depth >= even) & (depth < allowed), alive, 0.0), left)

    learn = learn_nothing
