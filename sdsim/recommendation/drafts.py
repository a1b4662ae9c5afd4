"""What drafts are expected to yield for a scenario's requests, and the same law of acceptance moved to another mean."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from sdsim.acceptance import Acceptance, conditional_rates, make_acceptance
from sdsim.errors import ScenarioError
from sdsim.policy import FloatArray
from sdsim.scenario import Scenario
from sdsim.scenario.parts import Acceptance as AcceptanceLaw
from sdsim.scenario.parts import PositionsAcceptance
from sdsim.workload import Requests, class_names, requests

REACHABLE_AUC = 0.86
"""A confidence of this quality exists at every mean acceptance; moved laws have none better."""


class Drafts:
    """A law of acceptance and the first requests of a scenario that it applies to."""

    def __init__(self, scenario: Scenario, spec: AcceptanceLaw) -> None:
        self.law: Acceptance = make_acceptance(spec, scenario.seed, class_names(scenario.workload))
        self._block = _first_requests(scenario)
        self._available = scenario.draft.available if scenario.draft else 1.0

    @property
    def mean(self) -> float:
        """Mean conditional acceptance over the requests, or over the positions of a law that is given by position."""
        return self.law.mean_rate if self.law.positions is not None else float(self._rates().mean())

    def tokens(self, lengths: tuple[int, ...]) -> FloatArray:
        """Return (lengths,) the tokens that a row emits a step, in the mean over the rows of a batch.

        A request that accepts little stays longer, and so takes part in more steps: the mean over rows is the harmonic
        one over output tokens.
        """
        found = []
        for length in lengths:
            if self.law.positions is not None:
                emitted = self.law.tokens_per_step(length)
            else:
                powers = self._rates()[:, None] ** np.arange(length + 1)
                outputs = self._block.output_tokens
                emitted = float(outputs.sum() / (outputs / powers.sum(axis=1)).sum())
            found.append(1 + self._available * (emitted - 1))
        return np.array(found)

    def _rates(self) -> FloatArray:
        return self.law.request_rates(self._block.ids, self._block.request_class)


def _first_requests(scenario: Scenario) -> Requests:
    first = next(requests(scenario.workload, scenario.seed, scenario.until), None)
    if first is None:
        raise ScenarioError("workload: no request arrives; allowed: one or more; raise its rate, its limit or until")
    return first


def moved(spec: AcceptanceLaw, mean: float, target: float) -> AcceptanceLaw:
    """Return *spec*, whose mean conditional acceptance is *mean*, moved to the mean *target*, its shape kept.

    Below, acceptances shrink by one factor; above, the chances of rejection do. A profile, which has rates for each
    draft length, is moved as those of its longest.
    """
    down = target <= mean
    factor = (target / mean if mean else 1.0) if down else (1 - target) / (1 - mean)

    def shifted(rate: float) -> float:
        return rate * factor if down else 1 - (1 - rate) * factor

    auc = None if spec.auc is None else min(spec.auc, REACHABLE_AUC)
    changes: dict[str, Any]
    if spec.kind == "iid":
        changes = {"rate": shifted(spec.rate)}
    elif spec.kind == "drift":
        changes = {"rates": tuple(map(shifted, spec.rates))}
    elif spec.kind == "mixture":
        parts = {
            name: one.model_copy(update={"rate": shifted(one.rate), "spread": one.spread * factor})
            for name, one in spec.classes.items()
        }
        changes = {"classes": parts}
    else:
        rates = conditional_rates(np.array(spec.rates)) if spec.kind == "positions" else _profile(spec)
        return PositionsAcceptance(rates=tuple(accumulate(map(shifted, rates.tolist()), float.__mul__)), auc=auc)
    return spec.model_copy(update=changes | {"auc": auc})


def _profile(spec: AcceptanceLaw) -> FloatArray:
    positions = make_acceptance(spec, 0).positions
    assert positions is not None
    return np.asarray(positions[-1])
