"""Each side against the base: figures, paired differences, intervals and verdicts, in all and by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.numerals import DASH, decimals, number, percent, time_unit
from sdsim.report.sheet import HEADING, Column, Sheet

NAMES = {"goodput_rps": "goodput, req/s", "slo_attainment": "SLO met, %", "output_tokens_per_s": "output tok/s"}
VERDICTS = ("better", "worse", "no evidence")
Row = Mapping[str, Any]


def print_comparison(console: Console, compared: Mapping[str, Any]) -> None:
    """Print what `sdsim.compare` found: a sheet for each side and one for its classes, a summary, the notes."""
    for one in compared["comparisons"]:
        pairs = len(one["seeds"])
        title = f"{one['other']} against {one['base']}, {pairs} pair{'s' if pairs > 1 else ''}"
        console.print(Text(title, style=HEADING))
        console.print()
        pairs_sheet(one["figures"], one["base"], one["other"]).show(console)
        if one["classes"]:
            classes_sheet(one["classes"]).show(console)
    for one in compared["comparisons"]:
        console.print(Text(summary_line(one)))
    for note in compared["notes"]:
        console.print(Text(note, style="dim"), soft_wrap=True)


def pairs_sheet(figures: Mapping[str, Row], base: str, other: str) -> Sheet:
    """Return one row a figure: both means, the mean difference with its interval, and the verdict."""
    better = frozenset(i for i, row in enumerate(figures.values()) if row["verdict"] == "better")
    scales = {name: _Scale(name, row) for name, row in figures.items()}

    def column(heading: str, key: str) -> Column:
        return Column(heading, [scales[name].value(row[key]) for name, row in figures.items()])

    return Sheet(
        (
            Column("figure", [scale.name for scale in scales.values()], names=True),
            column(base, "base"),
            column(other, "other"),
            Column("difference", [scales[name].signed(row["difference"]) for name, row in figures.items()]),
            Column("95% interval", [scales[name].span(row["ci95"]) for name, row in figures.items()]),
            Column("in %", [_relative(row).rstrip("%") for row in figures.values()]),
            Column("verdict", [row["verdict"] for row in figures.values()], better),
        )
    )


def classes_sheet(classes: Mapping[str, Mapping[str, Row]]) -> Sheet:
    """Return the relative differences and verdicts of each class, side by side."""
    names = list(dict.fromkeys(figure for figures in classes.values() for figure in figures))
    rows = [Column("by class", [_label(name) for name in names], names=True)]
    for title, figures in classes.items():
        cells = [f"{_relative(figures[n])} {figures[n]['verdict']}" if n in figures else DASH for n in names]
        rows.append(Column(title, cells))
    return Sheet(tuple(rows))


def summary_line(one: Mapping[str, Any]) -> str:
    """Return one sentence: in which figures the side is better, and in which worse."""
    by_verdict = {v: [_label(n) for n, row in one["figures"].items() if row["verdict"] == v] for v in VERDICTS}
    parts = [f"{verdict} in {', '.join(names)}" for verdict, names in by_verdict.items() if names]
    parts = [part.replace("no evidence in", "no evidence of a difference in") for part in parts]
    return f"{one['other']} against {one['base']}: {'; '.join(parts)}."


def _label(figure: str) -> str:
    latency, _, percentile = figure.partition("_s.")
    return f"{latency.upper()} {percentile}" if percentile else NAMES[figure].partition(",")[0]


def _relative(row: Row) -> str:
    share = row["relative"]
    if share is None:
        return DASH
    return f"{share:+.1%}" if abs(share) < 1 else f"{share:+,.0%}"


class _Scale:
    """How one figure is written: its name with the unit, and its numbers in that unit."""

    def __init__(self, figure: str, row: Row) -> None:
        self.share = figure == "slo_attainment"
        self.factor, unit = (1.0, "")
        if figure in NAMES:
            self.name = NAMES[figure]
        else:
            self.factor, unit = time_unit([row["base"], row["other"]])
            self.name = f"{_label(figure)}, {unit}"

    def value(self, x: float) -> str:
        return percent(x).rstrip("%") if self.share else number(x * self.factor)

    def signed(self, x: float) -> str:
        if self.share:
            return f"{100 * x:+.1f}"
        return f"{x * self.factor:+,.{decimals(x * self.factor)}f}"

    def span(self, ends: tuple[float, float] | None) -> str:
        return DASH if ends is None else f"{self.signed(ends[0])} to {self.signed(ends[1])}"
