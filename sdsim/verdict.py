"""The answer in words: which policy wins, by how much, how sure, and where it would flip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdsim.acceptance import make_acceptance
from sdsim.latency.prices import Prices
from sdsim.policies.acceptance_estimate import tokens_per_step
from sdsim.result import Result
from sdsim.scenario import Scenario
from sdsim.simulation import make_system
from sdsim.statistics import relative_gain

MANIFOLD = 9.0
"""Gains from which on they are said as multiples."""
NOTHING = 0.001
"""Gains that matter to nobody, however sure they are."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The runs of one engine, by policy label; each list holds one result a seed, seeds in one order."""

    scenario: Scenario
    runs: dict[str, list[Result]]

    @property
    def metric(self) -> str:
        """The figure compared: goodput where there are SLOs, else tokens per second."""
        return "goodput_rps" if self.scenario.slo else "output_tokens_per_s"

    def values(self, policy: str) -> list[float]:
        """Return the policy's figure, one a seed; a run that finished nothing counts 0."""
        return [float(r.summary[self.metric] or 0.0) for r in self.runs[policy]]

    def ranked(self) -> list[str]:
        """Return the policies, best mean first."""
        return sorted(self.runs, key=lambda p: -float(np.mean(self.values(p))))

    def mean(self, policy: str, figure: str, part: str | None = None) -> float:
        """Return the mean over seeds of one summary figure; undefined counts 0."""
        found = [(r.summary[part] if part else r.summary)[figure] for r in self.runs[policy]]
        return float(np.mean([x or 0.0 for x in found]))


def compare(scenario: Scenario, results: Sequence[Result]) -> Comparison:
    """Return the results of one engine grouped by policy."""
    runs: dict[str, list[Result]] = {}
    for result in results:
        runs.setdefault(result.policy, []).append(result)
    return Comparison(scenario, runs)


def verdict(comparison: Comparison) -> list[str]:
    """Return the sentences that answer the scenario's question."""
    ranked = comparison.ranked()
    winner = ranked[0]
    lines = []
    if len(ranked) > 1:
        unit = "requests/s within the SLOs" if comparison.scenario.slo else "output tokens/s"
        best = float(np.mean(comparison.values(winner)))
        lines.append(f"{winner} is first with {best:,.4g} {unit}: {_gain(comparison, winner, ranked[1])}.")
        if "off" in comparison.runs and "off" not in ranked[:2]:
            lines.append(f"Against no speculation: {_gain(comparison, winner, 'off')}.")
    lines += _flip(comparison, winner)
    return lines


def _gain(comparison: Comparison, ours: str, theirs: str) -> str:
    if not min(comparison.values(theirs)):
        return f"{theirs} has none"
    gain, found = relative_gain(comparison.values(ours), comparison.values(theirs))
    more = f"{1 + gain:,.3g} times that of {theirs}" if gain >= MANIFOLD else f"{gain:+.1%} over {theirs}"
    if found is None:
        return f"{more} (one seed, so no interval: use --seeds 5)"
    low, high = found
    seeds = len(comparison.values(ours))
    if max(abs(low), abs(high)) < NOTHING:
        return f"less than {NOTHING:.1%} over {theirs} ({seeds} seeds), which makes no difference"
    span = f"{1 + low:,.3g} to {1 + high:,.3g}" if gain >= MANIFOLD else f"{low:+.1%} to {high:+.1%}"
    sure = "" if low > 0 or high < 0 else ", so no evidence of a difference"
    return f"{more} (95% interval {span}, {seeds} seeds{sure})"


def _flip(comparison: Comparison, winner: str) -> list[str]:
    """Return the sentence about the acceptance at which drafting stops paying, at the load that the winner saw."""
    scenario = comparison.scenario
    if scenario.draft is None or scenario.acceptance is None:
        return []
    drafting = [p for p in comparison.runs if comparison.mean(p, "mean_draft_length", "speculation") > 0]
    if not drafting:
        return []
    policy = winner if winner in drafting else drafting[0]
    rows = max(round(comparison.mean(policy, "mean_batch")), 1)
    length = max(round(comparison.mean(policy, "mean_draft_length", "speculation")), 1)
    rate = flip_acceptance(make_system(scenario).prices, rows, length, _context(comparison.runs[policy][0]))
    mean = float(np.mean([_acceptance(result) for result in comparison.runs[policy]]))
    where = f"At {policy}'s mean batch of {rows} rows"
    if rate is None:
        return [f"{where}, drafting {length} does not pay at any acceptance (the scenario's mean is {mean:.2f})."]
    return [f"{where}, drafting {length} pays above an acceptance of {rate:.2f} (the scenario's mean is {mean:.2f})."]


def _acceptance(result: Result) -> float:
    """Return the mean conditional acceptance of the requests that arrived, or of the positions of a law by position."""
    scenario, arrived = result.scenario, result.requests
    assert scenario.acceptance is not None
    law = make_acceptance(scenario.acceptance, scenario.seed, result.class_names)
    if law.positions is not None or not len(arrived["arrival_s"]):
        return law.mean_rate
    ids, classes = (arrived[name].astype(np.int64) for name in ("request_id", "request_class"))
    return float(law.request_rates(ids, classes).mean())


def _context(result: Result) -> float:
    """Return the mean KV length of a request half way through its output."""
    requests = result.requests
    return (
        float((requests["prompt_tokens"] + requests["output_tokens"] / 2).mean()) if len(requests["arrival_s"]) else 0.0
    )


def flip_acceptance(prices: Prices, rows: int, length: int, context: float) -> float | None:
    """Return the acceptance at which drafting *length* tokens breaks even with no drafter, or None if it never does."""
    from scipy.optimize import brentq  # 0.3 s to import, which a run without drafts need not wait for

    needed = prices.step_seconds(rows, length, context) / prices.cost(rows, 0, context).seconds
    if needed >= length + 1:
        return None

    def excess(rate: float) -> float:
        return tokens_per_step(rate, length) - needed

    return float(brentq(excess, 0.0, 1.0)) if excess(0.0) < 0 else 0.0
