"""AdaServe (arXiv 2501.12162, EuroSys 2026): first what each request owes to its TPOT target, then what is likeliest.

By the end of a step of t seconds request r owes A(r) = (elapsed + t) / TPOT - emitted = (t - slack) / TPOT tokens.
Phase 1: in descending order of A(r), each takes its drafts until 1 + their survivals reach A(r), at most `most`.
Phase 2: what is left of the budget goes to the likeliest drafts anywhere. `budget` counts all verified positions, the
rows' own included; t is the price of the step that spends it. Drafts are as long as it lets every row have:
d = clip(budget / n - 1, 1, longest). The paper profiles the budget; 256 is about where a dense model on an H200 turns
from bound by memory to bound by arithmetic, and a MoE turns later. The paper's trees are chains here.

Without a target, or before one is known, nobody owes anything and phase 2 is all. Lossless at temperature: whether a
draft is taken depends on earlier or likelier ones, and so on its row's confidences before and at it only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policies.calibration import Calibration
from sdsim.policies.confidence import POSITIONS, tokens_of
from sdsim.policies.lengths import count, draft_lengths
from sdsim.policies.pace import Pace
from sdsim.policies.plans import uniform
from sdsim.policies.selection import top_prefixes
from sdsim.policies.verify_prices import VerifyPrices
from sdsim.policy import FloatArray, IntArray, Observation, Outcome, Plan, StepCosts


class Adaserve:
    """Verify what the TPOT targets need, then the likeliest."""

    needs = frozenset({"confidence", "slo_slack"})
    lossless_at_temperature = True

    def __init__(
        self, cost: StepCosts, lengths: Sequence[int] = (0, 1, 2, 3, 4), budget: int = 256, most: int = 4
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "adaserve"
        self._budget, self._most = count("budget", budget, 1), count("most", most)
        self._prices, self._calibration, self._pace = VerifyPrices(cost, self.lengths), Calibration(), Pace()
        self._drafting = self.lengths[1:] or self.lengths

    def plan(self, observation: Observation, /) -> Plan:
        """Return the lengths of both phases, and the draft length that the budget has room for."""
        self._pace.see(observation)
        rows, drafts = observation.batch, int(np.add.reduce(observation.pending))
        plan = uniform(self._draft_length(rows))
        if not drafts:
            return plan
        survival = self._calibration.survival(observation, drafts)
        spare = max(0, min(self._budget - rows, drafts))
        if spare == drafts:
            return plan
        return plan._replace(verify_lengths=self._verify(observation, survival, spare))

    def _draft_length(self, rows: int) -> int:
        room = self._budget / max(rows, 1) - 1
        return max((k for k in self._drafting if k <= room), default=self._drafting[0])

    def _verify(self, observation: Observation, survival: FloatArray, spare: int) -> IntArray:
        """Return (rows,) lengths of *spare* drafts in all; may overwrite *survival*."""
        tpot, slack = self._pace.tpot_s, observation.slo_slack
        if tpot is None or slack is None:
            return top_prefixes(survival, spare)
        owed = (self._prices.at(observation).verify[observation.batch + spare] - slack) / tpot
        wanted: IntArray = np.add.reduce(tokens_of(survival)[:-1] < owed, axis=0, dtype=np.int64)
        np.minimum(wanted, np.minimum(observation.pending, self._most), out=wanted)
        if int(np.add.reduce(wanted)) >= spare:
            return _in_turn(wanted, np.argsort(-owed, kind="stable"), spare)
        np.copyto(survival, 2.0, where=POSITIONS[: len(survival)] < wanted)
        return top_prefixes(survival, spare)

    def learn(self, outcome: Outcome, /) -> None:
        """Calibrate the confidences."""
        self._calibration.learn(outcome)


def _in_turn(wanted: IntArray, order: IntArray, spare: int) -> IntArray:
    """Return (rows,) what each row gets of *spare* when they take what they want in *order*."""
    granted = np.empty_like(wanted)
    asked = wanted[order]
    left = spare + asked - np.add.accumulate(asked)
    granted[order] = np.minimum(asked, np.maximum(left, 0))
    return granted
