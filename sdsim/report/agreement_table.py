"""Predicted against measured steps as text: errors by batch and draft length, speedups, best lengths, summaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.numerals import number, times
from sdsim.report.sheet import HEADING, Column, Sheet

Row = dict[str, Any]
MILLISECONDS = 1000.0
PARTS = {
    "target_s": "target",
    "reject_s": "rejection",
    "draft_s": "draft",
    "distinct_experts": "distinct experts",
}
SUMMARY = {"median": "median", "p90": "p90", "p95": "p95"}


def signed(share: float | None) -> str:
    """Return an error as a signed percentage."""
    return "-" if share is None else f"{share:+.1%}"


def plain(share: float | None) -> str:
    """Return the size of an error as a percentage."""
    return "-" if share is None else f"{share:.1%}"


def show_steps(console: Console, rows: Sequence[Row], best: Sequence[Row], full: bool = False) -> None:
    """Print one model's steps: a pivot where all have one prompt and batch by draft length is a grid, else a list."""
    grid = {(row["batch"], row["draft_length"]) for row in rows}
    if full or len(grid) < len(rows) or not all(row["prompt"] for row in rows):
        _step_list(rows).show(console)
        return
    console.print(Text("Measured step, ms, and the error of the prediction", style=HEADING))
    _pivot(rows, lambda row: f"{times(row['measured_s'], MILLISECONDS)} {signed(row['error']):>6}").show(console)
    if best:
        console.print(Text("Speedup over OFF, measured | predicted; * the best of each (none: OFF)", style=HEADING))
        _speedup_sheet(rows, best).show(console)


def _heading(length: int) -> str:
    return f"K={length}" if length else "OFF"


def _step_list(rows: Sequence[Row]) -> Sheet:
    ordered = sorted(rows, key=lambda row: (row["draft_length"], row["batch"], row["context"]))
    keys = {"draft_length": "K", "batch": "batch", "context": "context"}
    columns = [Column(name, [number(round(row[key])) for row in ordered]) for key, name in keys.items()]
    for key in ("measured_s", "predicted_s"):
        columns.append(Column(f"{key[:-2]}\nms", [times(row[key], MILLISECONDS) for row in ordered]))
    columns.append(Column("error", [signed(row["error"]) for row in ordered]))
    return Sheet(tuple(columns), len(keys))


def _pivot(rows: Sequence[Row], cell: Callable[[Row], str]) -> Sheet:
    batches, lengths = sorted({r["batch"] for r in rows}), sorted({r["draft_length"] for r in rows})
    cells = {(row["batch"], row["draft_length"]): cell(row) for row in rows}
    columns = [Column("batch", [number(batch) for batch in batches])]
    columns += [Column(_heading(k), [cells.get((batch, k), "-") for batch in batches]) for k in lengths]
    return Sheet(tuple(columns))


def _speedup_sheet(rows: Sequence[Row], best: Sequence[Row]) -> Sheet:
    """Return the pivot of speedups, each side's best marked, and the regret of the predicted choice."""
    chosen = {row["batch"]: row for row in best}
    rows = [row for row in rows if row["batch"] in chosen and row["measured_speedup"] is not None]

    def cell(row: Row) -> str:
        sides = []
        for side in ("measured", "predicted"):
            mark = "*" if chosen[row["batch"]][f"{side}_best"] == row["draft_length"] else " "
            sides.append(number(row[f"{side}_speedup"], 2) + mark)
        return "| ".join(sides)

    sheet = _pivot([row for row in rows if row["draft_length"]], cell)
    regrets = Column("regret", [plain(chosen[batch]["regret"]) for batch in sorted(chosen)])
    return Sheet((*sheet.columns, regrets))


def summary_sheet(summary: Row) -> Sheet:
    """Return one model's errors: in all, by draft length, and by range of batch sizes."""
    parts = [("all", summary)]
    parts += [(_heading(part["draft_length"]), part) for part in summary["by_draft_length"]]
    parts += [(f"batch {part['batch']}", part) for part in summary["by_batch"]]
    parts += [(PARTS[part["part"]], part) for part in summary["by_part"]]
    return _errors([name for name, _ in parts], [part for _, part in parts])


def _errors(names: Sequence[str], parts: Sequence[Row]) -> Sheet:
    columns = [Column("steps", names, names=True), Column("points", [number(part["points"]) for part in parts])]
    columns += [Column(f"|error|\n{name}", [plain(part[key]) for part in parts]) for key, name in SUMMARY.items()]
    columns.append(Column("median\nerror", [signed(part["bias"]) for part in parts]))
    return Sheet(tuple(columns))


def left_out_sheet(summaries: Sequence[Row]) -> Sheet:
    """Return the errors of each model with its own calibration rows and without them."""
    columns = [
        Column("model", [row["model"] for row in summaries], names=True),
        Column("what", [row["what"] for row in summaries], names=True),
        Column("points", [number(row["left_out"]["points"]) for row in summaries]),
    ]
    for way, name in (("calibrated", "calibrated"), ("left_out", "left out")):
        columns += [
            Column(f"{name}\nmedian", [plain(row[way]["median"]) for row in summaries]),
            Column(f"{name}\np90", [plain(row[way]["p90"]) for row in summaries]),
        ]
    columns.append(Column("left out\nbias", [signed(row["left_out"]["bias"]) for row in summaries]))
    return Sheet(tuple(columns), 2)
