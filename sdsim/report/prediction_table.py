"""Speedup and target efficiency of `predict`: batch down, draft length across, the best of a batch marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.numerals import number, percent, times
from sdsim.report.sheet import HEADING, Column, Sheet

Row = dict[str, Any]
BEST_MARK, NO_MARK = "*", " "
TIMES = {"step_s": "step", "target_s": "target", "draft_s": "draft", "reject_s": "reject", "overhead_s": "overhead"}
MILLISECONDS = 1000.0


def show_pivot(console: Console, rows: Sequence[Row], figure: str, title: str) -> None:
    """Print one figure of *rows* as a pivot; the length with the highest speedup of each batch is marked."""
    best = best_lengths(rows)
    batches, lengths = sorted(best), sorted({row["draft_length"] for row in rows})
    cells = {(row["batch"], row["draft_length"]): number(row[figure], 2) for row in rows}
    columns = [Column("batch", [number(batch) for batch in batches])]
    for length in lengths:
        marked = frozenset(i for i, batch in enumerate(batches) if best[batch] == length)
        text = [
            cells.get((batch, length), number(None)) + (BEST_MARK if i in marked else NO_MARK)
            for i, batch in enumerate(batches)
        ]
        columns.append(Column((f"K={length}" if length else "OFF") + NO_MARK, text, marked))
    console.print(Text(title, style=HEADING))
    Sheet(tuple(columns)).show(console)


def best_lengths(rows: Sequence[Row]) -> dict[int, int]:
    """Return the draft length with the highest speedup of each batch; the shortest of equals."""
    best: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: int(row["draft_length"])):
        held = best.setdefault(row["batch"], row)
        if row["speedup"] > held["speedup"]:
            best[row["batch"]] = row
    return {batch: int(row["draft_length"]) for batch, row in best.items()}


def full_sheet(rows: Sequence[Row]) -> Sheet:
    """Return every figure of *rows*, times in ms."""
    keys = {"batch": "batch", "draft_length": "K", "context": "context"}
    columns = [Column(name, [number(row[key]) for row in rows]) for key, name in keys.items()]
    columns += [Column(f"{name}\nms", [times(row[key], MILLISECONDS) for row in rows]) for key, name in TIMES.items()]
    columns += [
        Column("distinct\nexperts", [number(row["distinct_experts"]) for row in rows]),
        Column("tok/step\n/seq", [number(row["tokens_per_step"]) for row in rows]),
        Column("speedup", [number(row["speedup"]) for row in rows]),
        Column("target\nefficiency", [percent(row["target_efficiency"]) for row in rows]),
    ]
    return Sheet(tuple(columns), len(keys))
