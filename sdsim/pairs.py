"""Paired differences: two sides run under the same seeds, figure by figure, in all and by class of request.

Runs of one seed share arrivals, lengths and coins, so that the difference of a pair varies less than either side. Its
mean over seeds has a Student t interval; a side is better or worse where that leaves out zero. Each interval is 95% by
itself: of twenty figures that do not differ, one is expected to look as if it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sdsim.acceptance import make_acceptance
from sdsim.metrics import Columns, Slo, distribution, latencies, meets, ratio, slo_of
from sdsim.policy import IntArray
from sdsim.result import Result
from sdsim.statistics import interval

PERCENTILES = ("p50", "p90", "p99")
HIGHER_IS_BETTER = {"goodput_rps": True, "slo_attainment": True, "output_tokens_per_s": True} | {
    f"{latency}.{p}": False for latency in ("ttft_s", "tpot_s", "e2e_s") for p in PERCENTILES
}
"""The figures compared. Rates of a class are over the whole run's span, so that classes add up."""
BETTER, WORSE, UNKNOWN = "better", "worse", "no evidence"
FEW = 5
"""Pairs below which an interval is wide for want of seeds."""

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """Means over the pairs of one figure, the 95% interval of other - base (None for one pair), and the verdict."""

    base: float
    other: float
    difference: float
    ci95: tuple[float, float] | None
    pairs: int
    verdict: str

    def json(self) -> dict[str, Any]:
        """Return the difference as it is printed, and how large it is beside the base."""
        return asdict(self) | {"relative": ratio(self.difference, self.base)}


def difference(
    base: Sequence[float | None], other: Sequence[float | None], higher_is_better: bool
) -> Difference | None:
    """Return the paired difference of aligned values; pairs that lack a side do not count. None: there is no pair."""
    pairs = np.array([(a, b) for a, b in zip(base, other, strict=True) if a is not None and b is not None])
    if not len(pairs):
        return None
    gaps = pairs[:, 1] - pairs[:, 0]
    found = interval(gaps)
    verdict = UNKNOWN
    if found is not None and (found[0] > 0 or found[1] < 0):
        verdict = BETTER if (found[0] > 0) == higher_is_better else WORSE
    first, second = (float(side) for side in pairs.mean(axis=0))
    return Difference(first, second, float(gaps.mean()), found, len(pairs), verdict)


def differences(base: Sequence[Figures], other: Sequence[Figures]) -> dict[str, Difference]:
    """Return the differences of all figures that some pair has; the sides are aligned by seed."""
    found = {
        figure: difference([a.get(figure) for a in base], [b.get(figure) for b in other], higher)
        for figure, higher in HIGHER_IS_BETTER.items()
    }
    return {figure: one for figure, one in found.items() if one is not None}


def figures(result: Result) -> dict[str | None, Figures]:
    """Return the figures of *result*: of all requests under None, and of each class by name where there are several.

    Classes are the workload's, or else those of the acceptance law.
    """
    kept = result.requests["arrival_s"] >= result.scenario.warmup
    requests = {name: values[kept] for name, values in result.requests.items()}
    finishes = requests["finish_s"][~np.isnan(requests["finish_s"])]
    span = float(finishes.max() - requests["arrival_s"].min()) if len(finishes) else 0.0
    slo = slo_of(result.scenario.slo, result.scenario.classes, result.class_names)
    found: dict[str | None, Figures] = {None: _figures(requests, slo, span)}
    for name, members in _members(result, requests).items():
        found[name] = _figures({k: v[members] for k, v in requests.items()}, slo, span)
    return found


def _figures(requests: Columns, slo: Slo | None, span: float) -> Figures:
    done = ~np.isnan(requests["finish_s"])
    met = int(meets(slo, requests).sum()) if slo else 0
    found: Figures = {
        "goodput_rps": ratio(met, span) if slo else None,
        "slo_attainment": ratio(met, len(done)) if slo else None,
        "output_tokens_per_s": ratio(float(requests["output_tokens"][done].sum()), span),
    }
    for name, values in zip(("ttft_s", "tpot_s", "e2e_s"), latencies(requests), strict=True):
        spread = distribution(values[~np.isnan(values)])
        found |= {f"{name}.{p}": spread[p] for p in PERCENTILES}
    return found


def _members(result: Result, requests: Columns) -> Mapping[str, IntArray]:
    """Return the places in *requests* of each class; empty where all are of one."""
    which, names = requests["request_class"].astype(np.int64), result.class_names
    spec = result.scenario.acceptance
    if len(names) == 1 and spec is not None:
        law = make_acceptance(spec, int(result.summary["seed"]), names)
        if len(law.components) > 1:
            names = tuple(component.name for component in law.components)
            which = law.component(requests["request_id"].astype(np.int64), which)
    return {name: np.flatnonzero(which == i) for i, name in enumerate(names)} if len(names) > 1 else {}
