"""How policies stand to each other over several scenarios: paired with an oracle, seed by seed, and ranked.

A scenario counts by one figure. With an SLO it is the goodput; with a fixed number of clients the output tokens a
second; else, since open traffic sets the throughput, the mean time from a request's arrival to its end, whose
reciprocal is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sdsim.scenario import Scenario
from sdsim.statistics import relative_gain

LOWER_IS_BETTER = frozenset({"e2e_s.mean"})
Outcomes = Mapping[str, Sequence[Mapping[str, Any]]]
"""A policy's summaries, flattened, one a seed, by its name."""


def headline(scenario: Scenario) -> str:
    """Return the figure that *scenario* counts by."""
    if scenario.slo is not None:
        return "goodput_rps"
    return "output_tokens_per_s" if scenario.workload.kind == "closed" else "e2e_s.mean"


def standings(figure: str, outcomes: Outcomes, base: str) -> list[dict[str, Any]]:
    """Return a row for each policy, the best first: its mean figure, and its gain over *base* with the 95% interval."""
    values = {name: _values(figure, runs) for name, runs in outcomes.items()}
    rows: list[dict[str, Any]] = []
    for name, found in values.items():
        if any(value is None for value in (*found, *values[base])):
            error = next((str(run["error"]) for run in outcomes[name] if run["error"]), "no figure")
            rows.append({"policy": name, "mean": None, "gain": None, "ci95": None, "error": error})
            continue
        sides = (values[base], found) if figure in LOWER_IS_BETTER else (found, values[base])
        gain, ci95 = relative_gain(*sides)
        rows.append({"policy": name, "mean": float(np.mean(found)), "gain": gain, "ci95": ci95, "error": None})
    return sorted(rows, key=lambda row: -np.inf if row["gain"] is None else row["gain"], reverse=True)


def _values(figure: str, runs: Iterable[Mapping[str, Any]]) -> list[Any]:
    return [None if run["error"] else run[figure] for run in runs]


def totals(scenarios: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each policy, the highest mean gain first: that, the lowest, and where it is.

    *scenarios* hold a `name` and the rows of `standings`. A policy that failed somewhere has no mean.
    """
    gains: dict[str, dict[str, float | None]] = {}
    for one in scenarios:
        for row in one["standings"]:
            gains.setdefault(row["policy"], {})[one["name"]] = row["gain"]
    rows = []
    for policy, by_scenario in gains.items():
        known = {name: gain for name, gain in by_scenario.items() if gain is not None}
        whole = len(known) == len(by_scenario)
        worst = min(known, key=lambda name: known[name]) if known else None
        mean = float(np.mean(list(known.values()))) if whole else None
        rows.append({"policy": policy, "mean_gain": mean, "lowest": known[worst] if worst else None, "where": worst})
    return sorted(rows, key=lambda row: -np.inf if row["mean_gain"] is None else row["mean_gain"], reverse=True)


def best_of(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> Mapping[str, Any] | None:
    """Return the first of *rows*, which are in order, that is of *names*: the best constant length, say."""
    wanted = set(names)
    return next((row for row in rows if row["policy"] in wanted and row["gain"] is not None), None)
