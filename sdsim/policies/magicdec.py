"""MagicDec (arXiv 2408.11049): beyond a critical context decoding is bound by the KV cache, and longer drafts pay.

T_SD / T_AR = (K T_D + T_V(K)) / (Omega T_T) with Omega = (1 - a^(K+1)) / (1 - a): the paper's ratio, priced at the
rows and the mean context of the step, against decoding with no drafter. The reading taken here: draft argmin K while
the ratio is below 1, else keep the drafter warm; so the critical context of each batch size is where the prices put
it. The paper's drafter keeps a sparse KV cache of fixed size; the drafter priced here is the scenario's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.moesd import Moesd
from sdsim.policies.priced import Priced, price_against_off
from sdsim.policy import StepCosts


class MagicDec(Moesd):
    """Maximise the predicted speedup at the current batch size and context."""

    def __init__(self, cost: StepCosts, lengths: Sequence[int] = (0, 1, 2, 3, 4), rate: float | None = None) -> None:
        super().__init__(cost, lengths, rate)
        self.label = "magicdec"
        self._slowdowns = Priced(price_against_off(cost, self.lengths))
