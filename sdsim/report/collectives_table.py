"""Predicted beside measured for what several GPUs exchange, as text."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.agreement_table import plain, signed
from sdsim.report.numerals import number, times
from sdsim.report.sheet import HEADING, Column, Sheet

MICROSECONDS = 1e6
MILLISECONDS = 1e3


def show_collectives(console: Console, answer: dict[str, Any]) -> None:
    """Print the collectives, the steps, and how far off they are."""
    rows = answer["collectives"]
    console.print(Text(f"Collectives on {answer['gpu']}, µs; error of the points around", style=HEADING))
    columns = [Column("op", [row["op"] for row in rows]), Column("ranks", [number(row["ranks"]) for row in rows])]
    columns.append(Column("bytes", [number(row["bytes"]) for row in rows]))
    for key, name in (("measured_s", "measured"), ("link_s", "by link"), ("assumed_s", "assumed")):
        columns.append(Column(name, [times(row[key], MICROSECONDS) for row in rows]))
    columns.append(Column("error", [signed(row["error"]) for row in rows]))
    Sheet(tuple(columns), 3).show(console)
    steps = answer["steps"]
    if steps:
        console.print(Text("Steps, ms", style=HEADING))
        keys = ("batch", "q_len", "context")
        columns = [Column("model", [f"{row['model']} {row['parallel']} {row['ranks']}" for row in steps])]
        columns += [Column(key, [number(row[key]) for row in steps]) for key in keys]
        for key in ("measured_s", "predicted_s"):
            columns.append(Column(key[:-2], [times(row[key], MILLISECONDS) for row in steps]))
        columns.append(Column("error", [signed(row["error"]) for row in steps]))
        Sheet(tuple(columns), 4).show(console)
    for name, summary in ({"collectives": answer["summary"]["collectives"]} | answer["summary"]["steps"]).items():
        if summary:
            console.print(f"{name}: median {plain(summary['median'])}, 90th percentile {plain(summary['p90'])}")
