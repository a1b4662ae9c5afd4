"""How policies stand to each other over several scenarios: paired with an oracle, seed by seed, and ranked.

A scenario counts by one figure. With an SLO it is the goodput; with a fixed number of clients the output tokens a
second; else, since open traffic sets the throughput, the mean time from a request's arrival to its end, whose
reciprocal is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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


def score(figure: str, summary: Mapping[str, Any]) -> float:
    """Return the *figure* of a run's summary, as a number of which more is better; 0 if it is undefined."""
    value: Any = summary
    for key in figure.split("."):
        value = value[key]
    if value is None:
        return 0.0
    return 1.0 / value if figure in LOWER_IS_BETTER else float(value)


def standings(figure: str, outcomes: Outcomes, base: str) -> list[dict[str, Any]]:
    """Return a row for each policy, the best first: its mean figure, and its gain over *base* with the 95% interval."""
    values = {name: _values(figure, runs) for name, runs in outcomes.items()}
    rows: list[dict[str, Any]] = []
    for name, found in values.items():
        row: dict[str, Any] = {"policy": name, "mean": None, "gain": None, "ci95": None, "error": None}
        if any(value is None for value in (*found, *values[base])):
            row["error"] = next((str(run["error"]) for run in outcomes[name] if run["error"]), "no figure")
        else:
            row["mean"] = float(np.mean(found))
            ours, theirs = (values[base], found) if figure in LOWER_IS_BETTER else (found, values[base])
            if all(theirs):
                row["gain"], row["ci95"] = relative_gain(ours, theirs)
            else:
                row["error"] = "0 for a seed, over which there is no gain"
        rows.append(row)
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


def duels(
    figure: str, outcomes: Outcomes, subject: str, rivals: Mapping[str, Collection[str]]
) -> dict[str, dict[str, Any] | None]:
    """Return for each group of *rivals* the gain of *subject* over its best member, with the 95% interval.

    None where a group has no member that ran everywhere.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for group, names in rivals.items():
        rows = standings(figure, {name: outcomes[name] for name in (subject, *names)}, subject)
        best = next((row for row in rows if row["policy"] in names and row["gain"] is not None), None)
        found[group] = best and _gain(figure, outcomes, subject, best["policy"])
    return found


def _gain(figure: str, outcomes: Outcomes, subject: str, over: str) -> dict[str, Any]:
    (row,) = (
        row
        for row in standings(figure, {name: outcomes[name] for name in (subject, over)}, over)
        if row["policy"] == subject
    )
    return {"policy": over, "gain": row["gain"], "ci95": row["ci95"]}
