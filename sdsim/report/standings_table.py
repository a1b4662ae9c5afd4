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


def print_standings(console: Console, found: Mapping[str, Any]) -> None:
    """Print what `sdsim.suite` found."""
    for one in found["scenarios"]:
        console.print(Text(f"{one['name']}: gains over {one['base']}", style=HEADING))
        console.print()
        scenario_sheet(one).show(console)
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
