"""Policies over several scenarios: one sheet a scenario, and one over all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.numerals import DASH
from sdsim.report.sheet import HEADING, Column, Sheet

FIGURES = {
    "goodput_rps": "goodput, req/s",
    "output_tokens_per_s": "output tok/s",
    "e2e_s.mean": "mean E2E, s",
}

RIVALS = {"off": "off", "constant": "best constant", "table": "best table", "peer": "best rule"}


def print_standings(console: Console, found: Mapping[str, Any]) -> None:
    """Print what `sdsim.suite` found."""
    for one in found["scenarios"]:
        console.print(Text(f"{one['name']}: gains over {one['base']}", style=HEADING))
        console.print()
        scenario_sheet(one).show(console)
    if any(one["duels"] for one in found["scenarios"]):
        subject = next(one["subject"] for one in found["scenarios"] if one["duels"])
        console.print(Text(f"{subject} against each rival, with 95% intervals", style=HEADING))
        console.print()
        duels_sheet(found["scenarios"]).show(console)
    console.print(
        Text("what knowing each draft's fate, looking ahead, and knowing its chance would gain", style=HEADING)
    )
    console.print()
    regret_sheet(found["scenarios"]).show(console)
    console.print(Text(f"all {len(found['scenarios'])} scenarios, {found['seeds']} seeds each", style=HEADING))
    console.print()
    totals_sheet(found["totals"]).show(console)


def scenario_sheet(one: Mapping[str, Any]) -> Sheet:
    """Return one row a policy, the best first."""
    rows = one["standings"]
    return Sheet(
        (
            Column("policy", [row["policy"] for row in rows], names=True),
            Column(FIGURES[one["figure"]], [_figure(row["mean"]) for row in rows]),
            Column("gain", [_gain(row["gain"]) for row in rows], frozenset({0})),
            Column("95% interval", [row["error"] or _span(row["ci95"]) for row in rows]),
        )
    )


def duels_sheet(scenarios: list[Mapping[str, Any]]) -> Sheet:
    """Return one row a scenario: the subject's gain over each rival, which of the group it is, and the interval."""
    groups = list(dict.fromkeys(group for one in scenarios for group in one["duels"] if one["duels"][group]))
    columns = [Column("scenario", [one["name"] for one in scenarios], names=True)]
    for group in groups:
        found = [one["duels"].get(group) for one in scenarios]
        columns.append(Column(f"over {RIVALS[group]}", [_duel(duel, group) for duel in found]))
    return Sheet(tuple(columns))


def _duel(duel: Mapping[str, Any] | None, group: str) -> str:
    if duel is None:
        return DASH
    name = f" {duel['policy']}" if group in ("constant", "peer") else ""
    return f"{_gain(duel['gain'])} ({_span(duel['ci95'])}){name}"


def regret_sheet(scenarios: list[Mapping[str, Any]]) -> Sheet:
    """Return one row a scenario: the prices of randomness, of myopia, and of the subject's estimation; then the means.

    A mean is that of the scenarios that have the figure.
    """
    columns = [Column("scenario", [*(one["name"] for one in scenarios), "mean"], names=True)]
    for price in ("randomness", "myopia", "estimation"):
        found = [one["regret"][price] for one in scenarios]
        gains = [one if one is None or isinstance(one, float) else one["gain"] for one in found]
        known = [gain for gain in gains if gain is not None]
        mean = sum(known) / len(known) if known else None
        texts = [_gain(gain) + _interval(one) for gain, one in zip(gains, found, strict=True)]
        columns.append(Column(price, [*texts, _gain(mean)]))
    return Sheet(tuple(columns))


def _interval(found: Mapping[str, Any] | float | None) -> str:
    return f" ({_span(found['ci95'])})" if isinstance(found, Mapping) else ""


def totals_sheet(rows: list[Mapping[str, Any]]) -> Sheet:
    """Return one row a policy: its mean gain, and its lowest with the scenario."""
    return Sheet(
        (
            Column("policy", [row["policy"] for row in rows], names=True),
            Column("mean gain", [_gain(row["mean_gain"]) for row in rows], frozenset({0})),
            Column("lowest", [_gain(row["lowest"]) for row in rows]),
            Column("in", [row["where"] or DASH for row in rows]),
        )
    )


def _figure(value: float | None) -> str:
    return DASH if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _gain(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:+.1f}%"


def _span(ci95: tuple[float, float] | None) -> str:
    return DASH if ci95 is None else f"{100 * ci95[0]:+.1f}% to {100 * ci95[1]:+.1f}%"
