"""The answer of `reproduce` as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.agreement_table import plain, signed
from sdsim.report.numerals import number
from sdsim.report.sheet import HEADING, Column, Sheet

Row = dict[str, Any]
CELL = ("device", "dataset", "temperature")
MISS, HELD = "*", " "
UNPAIRED = "~"


def show_reproduction(console: Console, answer: Row) -> None:
    """Print the tables, the peaks of every source, experts, what the paper has wrong, and what is lacking."""
    _show_fit(console, answer["fit"])
    _show_tables(console, answer["tables"])
    console.print(Text("Peak speedup at humaneval, temperature 0, and its batch, by source", style=HEADING))
    _peak_sheet(answer["peaks"]).show(console)
    if any(row["paired"] is False for row in answer["peaks"]):
        console.print(Text(f"{UNPAIRED} the step without drafts was measured at another batch, and moved by its price"))
        console.print()
    if answer["experts"] and answer["experts"]["models"]:
        console.print(Text("Distinct experts: N(t) of eq. 8 over what was counted, less one", style=HEADING))
        _experts_sheet(answer["experts"]["models"]).show(console)
    console.print(Text("What the paper prints, and what its numbers say", style=HEADING))
    for row in answer["errata"]:
        console.print(Text(f"- {row['where']}: {row['printed']}. Found: {row['found']}."))
    console.print()
    console.print(Text("Lacking", style=HEADING))
    for line in answer["lacking"]:
        console.print(Text(f"- {line}"))


def _show_fit(console: Console, fit: Row) -> None:
    console.print(Text(f"Algorithm 1 with eq. 4 on {fit['points']} points of Figure 4", style=HEADING))
    source = "fitted now" if fit["source"] == "points" else "the shipped parameters"
    console.print(Text(f"{source}: RMS error {fit['rmse']:.3f} in speedup; {_bounds(fit)}"))
    if fit["errors"]:
        console.print(
            Text(f"relative error {plain(fit['errors']['relative_rmse'])}{_strided(fit['errors']['stride'])}")
        )
    console.print()


def _bounds(fit: Row) -> str:
    ends = fit["at_a_bound"]
    if not ends:
        return "no parameter ends at a bound"
    many = f"{len(ends)} of {len(fit['parameters'])} parameters end at a bound"
    return f"{many} ({', '.join(ends)}): speedups do not tell them"


def _strided(stride: Row | None) -> str:
    if stride is None:
        return ""
    here, others = stride["rmse_on_them"], stride["rmse_on_the_others"]
    return f"; fitted as the paper does, to {stride['points']} points: {here:.3f} on them, {others:.3f} on the others"


def _show_tables(console: Console, tables: Row) -> None:
    rows = tables["rows"]
    console.print(Text("Tables 1 and 2, peak speedup: printed, predicted, error", style=HEADING))
    _cell_sheet(rows).show(console)
    missed = [row for row in rows if not row["within"]]
    held = f"{tables['within']} of {tables['cells']} cells within {tables['tolerance']:.0%}"
    console.print(Text(f"{held}, from sigma and one T_AR per device" + ("; the others:" if missed else ".")))
    if tables["within_of_subsets"]:
        found = tables["within_of_subsets"]
        console.print(
            Text(f"(Fitted as the paper does, to every 11th point, from each of the first: {found[0]} to {found[-1]}.)")
        )
    for row in missed:
        place = f"{row['device']}, {row['dataset']}, T {row['temperature']:g}, gamma {row['gamma']}"
        console.print(Text(f"{MISS} {place}: {row['why']}"))
    console.print()


def _cell_sheet(rows: Sequence[Row]) -> Sheet:
    places = list(dict.fromkeys(tuple(row[k] for k in CELL) for row in rows))
    cells = {(*(row[k] for k in CELL), row["gamma"]): row for row in rows}
    columns = [Column("device", [str(place[0]) for place in places], names=True)]
    columns.append(Column("dataset", [str(place[1]) for place in places], names=True))
    columns.append(Column("T", [f"{place[2]:g}" for place in places]))
    for gamma in sorted({row["gamma"] for row in rows}):
        found = [cells[(*place, gamma)] for place in places]
        missed = frozenset(i for i, row in enumerate(found) if not row["within"])
        columns.append(Column(f"gamma {gamma} ", [_cell(row) for row in found], missed))
    return Sheet(tuple(columns), 3)


def _cell(row: Row) -> str:
    error = f"{row['error']:+.0%}"
    return f"{row['printed']:.2f} {row['predicted']:.2f} {error:>4}{HELD if row['within'] else MISS}"


def _peak_sheet(rows: Sequence[Row]) -> Sheet:
    sources = list(dict.fromkeys((row["source"], row["device"]) for row in rows))
    cells = {(row["source"], row["device"], row["gamma"]): _peak(row) for row in rows}
    columns = [Column("source", [s[0] for s in sources], names=True), Column("on", [s[1] for s in sources], names=True)]
    for gamma in sorted({row["gamma"] for row in rows}):
        columns.append(Column(f"gamma {gamma} ", [cells.get((*source, gamma), "-  ") for source in sources]))
    return Sheet(tuple(columns), 2)


def _peak(row: Row) -> str:
    where = "" if row["batch"] is None else f" at {row['batch']:>3}"
    return f"{row['speedup']:.2f}{where:<7}{UNPAIRED if row['paired'] is False else HELD}"


def _experts_sheet(models: Sequence[Row]) -> Sheet:
    columns = [Column("model", [row["model"] for row in models], names=True)]
    columns.append(Column("k of E", [f"{row['per_token']} of {row['experts']}" for row in models]))
    columns.append(Column("counts", [number(row["points"]) for row in models]))
    columns.append(Column("independent\nworst", [signed(row["independent_worst"]) for row in models]))
    columns.append(Column("at\ntokens", [number(row["worst_tokens"]) for row in models]))
    columns.append(Column("independent\nRMS", [plain(row["independent_rms"]) for row in models]))
    for knob in ("within", "between"):
        columns.append(Column(knob, [number(row[knob], 2) for row in models]))
    columns.append(Column("correlated\nRMS", [plain(row["correlated_rms"]) for row in models]))
    return Sheet(tuple(columns))
