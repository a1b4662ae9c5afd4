"""Goodput with an acceptance of its own for every draft position: vLLM PRs 44336 and 47111 (neither merged).

K* = argmax over K of (1 + a_1 + ... + a_K) / T(n, K, context), with a_j the product of the conditional acceptances of
positions 1 to j, each an exponential moving average. The PRs average over steps; here each draft tried counts, as the
steps of a few rows would swing the average to 0, where nothing is drafted or learnt any more. The PRs take T as 1 + K
c_d + c_v with two constants; here it is the calibrated step time. Their 10% of random lengths is left out: positions
that were never tried count as the last one tried. Their rule to move by more than one length only, and their
cooldown, are for the wrappers to add.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.goodput import Goodput
from sdsim.policies.position_acceptance import PositionAcceptance
from sdsim.policy import StepCosts


class PositionGoodput(Goodput):
    """Maximise expected tokens over step time, acceptance falling or rising along the draft."""

    def __init__(
        self,
        cost: StepCosts,
        lengths: Sequence[int] = (0, 1, 2, 3, 4),
        prior: float = 0.7,
        alpha: float = 0.01,
        margin: float = 1.0,
    ) -> None:
        super().__init__(cost, lengths, prior, margin)
        self.label = "position-goodput"
        self._acceptance = PositionAcceptance(self.lengths[-1], prior, alpha)
