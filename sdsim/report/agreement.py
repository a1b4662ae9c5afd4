"""The answer of `crosscheck` as text and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.agreement_table import left_out_sheet, show_steps, summary_sheet
from sdsim.report.console import quality_line
from sdsim.report.plots import plot_replays, plot_steps
from sdsim.report.run_agreement_table import kinds_sheet, show_checks, show_clients
from sdsim.report.sheet import HEADING

Row = dict[str, Any]
GROUP = ("model", "engine", "gpu")
MILLISECONDS = 1000.0


def show_agreement(console: Console, answer: Row, full: bool = False) -> None:
    """Print the parts that *answer* has, then the verdict and what the prediction rests on."""
    steps = answer["steps"]
    for summary in steps["summary"]:
        console.print(Text(_title(summary), style=HEADING))
        console.print()
        rows, best = ([row for row in found if _of(row, summary)] for found in (steps["rows"], steps["best"]))
        show_steps(console, rows, best, full)
        summary_sheet(summary).show(console)
    if answer["replays"]:
        console.print(Text("Replayed requests, measured and simulated", style=HEADING))
        show_clients(console, [_label(row) for row in answer["replays"]], answer["replays"])
        for line in _replay_notes(answer["replays"]):
            console.print(Text(line))
        console.print()
    for run in answer["runs"]:
        _show_run(console, run)
    if answer["leave_out"]["summary"]:
        console.print(Text("Whole models that the calibration timed, with their own rows and without", style=HEADING))
        left_out_sheet(answer["leave_out"]["summary"]).show(console)
    show_checks(console, answer["checks"])
    if answer["data_quality"]:
        console.print(Text(quality_line([answer["data_quality"]]), style="dim"), soft_wrap=True)


def draw_agreement(answer: Row, folder: Path, plots: str = "png") -> None:
    """Draw the steps and the replays of *answer* into *folder*, a picture each, in the format *plots*."""
    if answer["steps"]["rows"]:
        plot_steps(_grouped(answer["steps"]["rows"]), folder / f"steps.{plots}")
    if answer["replays"]:
        plot_replays(_grouped(answer["replays"]), folder / f"replays.{plots}")


def _show_run(console: Console, run: Row) -> None:
    console.print(Text(f"{run['policy']} on {run['engine']}, measured on hardware and simulated", style=HEADING))
    show_clients(console, [run["policy"]], [run])
    if run["step_s"]:
        kinds_sheet(run["step_s"], "step ms", MILLISECONDS).show(console)
    if any(row["measured"]["p50"] for row in run["distinct_experts"]):
        kinds_sheet(run["distinct_experts"], "experts", 1.0).show(console)


def _replay_notes(replays: Sequence[Row]) -> list[str]:
    """Return what the mark means, and the KV blocks that engines reported beside those simulated."""
    marked = any(row["saturated"] for row in replays)
    blocks = {(row["model"], row["draft_length"]): row["kv_blocks"] for row in replays}
    said = "KV blocks of {} {}: measured {:,}, simulated {:,}"
    notes = ["* saturated: the queue grew while requests arrived, and TTFT is not judged"] if marked else []
    return notes + [
        said.format(model, _drafts(length), found["measured"], found["simulated"])
        for (model, length), found in blocks.items()
        if found["measured"]
    ]


def _grouped(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_title(row), []).append(row)
    return list(groups.items())


def _of(row: Row, summary: Row) -> bool:
    return all(row[key] == summary[key] for key in GROUP)


def _title(row: Row) -> str:
    return f"{row['model']} on {row['engine']}, {row['gpu']}"


def _label(row: Row) -> str:
    mark = " *" if row["saturated"] else ""
    return f"{row['model']} {_drafts(row['draft_length'])}, {row['rate']:g}/s{mark}"


def _drafts(length: int) -> str:
    return f"K={length}" if length else "OFF"
