"""Simulated against measured runs as text: what clients saw, per percentile, and the steps behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.agreement_table import signed
from sdsim.report.numerals import number, time_unit, times
from sdsim.report.sheet import BEST, Column, Sheet

Row = dict[str, Any]
FEW = 8
LATENCIES = (("tpot_s", "TPOT"), ("ttft_s", "TTFT"))
PERCENTILES = ("p50", "p90", "p99")


def show_clients(console: Console, labels: Sequence[str], runs: Sequence[Row]) -> None:
    """Print TPOT, TTFT and throughput of each run: measured, simulated and the error."""
    latency_sheet(labels, runs).show(console)
    rates = [run["output_tokens_per_s"] for run in runs]
    columns = [
        Column("run", labels, names=True),
        Column("tok/s\nmeasured", [number(rate["measured"]) for rate in rates]),
        Column("simul.", [number(rate["simulated"]) for rate in rates]),
        Column("error", [signed(rate["error"]) for rate in rates]),
    ]
    Sheet(tuple(columns)).show(console)


def latency_sheet(labels: Sequence[str], runs: Sequence[Row]) -> Sheet:
    """Return TPOT and TTFT of each run at each percentile: measured, simulated and the error in one cell."""
    lines = [(label, name, run[key]) for label, run in zip(labels, runs, strict=True) for key, name in LATENCIES]
    units = [time_unit(figure["measured"][p] for p in PERCENTILES) for _, _, figure in lines]
    columns = [
        Column("run", [label for label, _, _ in lines], names=True),
        Column("", [f"{name} {unit}" for (_, name, _), (_, unit) in zip(lines, units, strict=True)]),
    ]
    for p in PERCENTILES:
        cells = [_triple(figure, p, scale) for (_, _, figure), (scale, _) in zip(lines, units, strict=True)]
        columns.append(Column(f"{p}\nmeas.   sim.  error", cells))
    return Sheet(tuple(columns), 2)


def _triple(figure: Row, percentile: str, scale: float) -> str:
    measured, simulated = (times(figure[side][percentile], scale) for side in ("measured", "simulated"))
    return f"{measured} {simulated:>6} {signed(figure['error'][percentile]):>6}"


def kinds_sheet(rows: Sequence[Row], name: str, scale: float) -> Sheet:
    """Return a figure of decode steps by draft length and batch: measured, simulated and error at each percentile."""
    columns = [
        Column("K", [number(row["draft_length"]) for row in rows]),
        Column("batch", ["-".join(dict.fromkeys(map(str, row["batch"]))) for row in rows]),
        Column("steps\nmeasured", [number(row["steps"]["measured"]) for row in rows]),
    ]
    for p in PERCENTILES:
        columns.append(Column(f"{name}\n{p}", [times(row["measured"][p], scale) for row in rows]))
        columns.append(Column("simul.", [times(row["simulated"][p], scale) for row in rows]))
        columns.append(Column("error", [signed(row["error"][p]) for row in rows]))
    return Sheet(tuple(columns), 2)


def show_checks(console: Console, checks: Sequence[Row]) -> None:
    """Print the figures that are outside their tolerance, and how many there are; all of them if they are few."""
    kept = sum(check["ok"] for check in checks)
    if len(checks) > FEW:
        console.print(
            Text(f"{kept} of {len(checks)} figures within tolerance", style=BEST if kept == len(checks) else "")
        )
    for check in checks:
        verdict, look = ("ok ", BEST) if check["ok"] else ("OUT", "bold red")
        if check["ok"] and len(checks) > FEW:
            continue
        said = f"{check['what']}: {check['error']:.1%}, allowed {check['allowed']:.1%}"
        console.print(Text(verdict, style=look), Text(said))
