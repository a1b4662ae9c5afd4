"""The answer of a command as text: tables, the verdict, what the numbers rest on, and where the files are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.prediction_table import full_sheet, show_pivot
from sdsim.report.run_block import show_run
from sdsim.report.runs_table import best_figure, best_rows, runs_sheet
from sdsim.report.sheet import HEADING

RANKING = {"goodput_rps": "goodput", "output_tokens_per_gpu_s": "tok/s/GPU"}
QUALITIES = ("measured", "interpolated", "extrapolated")


def print_runs(
    console: Console,
    runs: Sequence[dict[str, Any]],
    scenario_line: str,
    verdict_lines: Sequence[str],
    notes: Sequence[str],
) -> None:
    """Print the summaries *runs*: one in full, several as a table; then the verdict, the data quality and *notes*."""
    console.print(Text(scenario_line, style=HEADING))
    console.print()
    if len(runs) == 1:
        show_run(console, runs[0])
    else:
        runs_sheet(runs).show(console)
        _print_legend(console, runs)
    for line in verdict_lines:
        console.print(Text(line))
    if verdict_lines:
        console.print()
    for line in (*quality_lines([run["data_quality"] for run in runs]), *notes):
        console.print(Text(line, style="dim"), soft_wrap=True)


def _print_legend(console: Console, runs: Sequence[dict[str, Any]]) -> None:
    lines = [f"* highest {RANKING[best_figure(runs)]}"] if best_rows(runs) else []
    lines += ["± half a 95% interval over seeds"] if any(run.get("ci95") for run in runs) else []
    if lines:
        console.print(Text("; ".join(lines), style="dim"))
        console.print()


def quality_line(qualities: Sequence[dict[str, float]]) -> str:
    """Return what the predicted times rest on, but for the host's; a range where runs differ."""
    parts = []
    for name in QUALITIES:
        shares = [100 * quality.get(name, 0.0) for quality in qualities]
        low, high = _whole(min(shares)), _whole(max(shares))
        parts.append(f"{low if low == high else f'{low} to {high}'}% {name}")
    return f"predicted GPU time: {', '.join(parts)}"


def quality_lines(qualities: Sequence[dict[str, float]]) -> list[str]:
    """Return the quality line, and what mends it where most of a time is extrapolated."""
    mostly = max(quality.get("extrapolated", 0.0) for quality in qualities) >= 0.5
    hint = "extrapolated: by a roofline or fits, until sdsim.profile_gpu times such steps"
    return [quality_line(qualities), *([hint] if mostly else [])]


def _whole(percentage: float) -> str:
    """Return a whole percentage; what is next to nothing, or next to all, is not called so."""
    if 0 < percentage < 0.5:
        return "<1"
    return ">99" if 99.5 <= percentage < 100 else f"{percentage:.0f}"


def predict_table(console: Console, rows: Sequence[dict[str, Any]], title: str, full: bool = False) -> None:
    """Print speedup and target efficiency as pivots, one pair a context; every figure too if *full*."""
    console.print(Text(title, style=HEADING))
    console.print()
    contexts = sorted({row["context"] for row in rows})
    for context in contexts:
        part = [row for row in rows if row["context"] == context]
        where = f", context {context:,} tokens"
        show_pivot(console, part, "speedup", f"Speedup: tokens/s over OFF{where}; * the best K of a batch")
        show_pivot(
            console, part, "target_efficiency", f"Target efficiency: target time at OFF / at K{where}; * as above"
        )
    if full:
        full_sheet(rows).show(console)
    qualities = [row["data_quality"] for row in rows if "data_quality" in row]
    if qualities:
        console.print(Text("\n".join(quality_lines(qualities)), style="dim"), soft_wrap=True)
