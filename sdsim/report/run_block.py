"""One run in full: latencies by percentile, then what was served, what drafting did, and what the engine did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdsim.report.numerals import number, percent, time_unit, times, with_interval
from sdsim.report.runs_table import Summary, interval
from sdsim.report.sheet import HEADING, Column, Sheet

LATENCIES = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "ITL",
    "e2e_s": "E2E",
}
STATISTICS = ("mean", "p50", "p90", "p99")
Facts = Sequence[tuple[str, str]]


def show_run(console: Console, run: Summary) -> None:
    """Print every figure of *run*; blocks stand side by side where the console is wide enough."""
    console.print(Text(str(run["policy"]), style=HEADING))
    console.print()
    latency_sheet(run).show(console)
    blocks = [block(title, facts) for title, facts in facts_of(run).items()]
    console.print(Columns(blocks, padding=(0, 4)))


def latency_sheet(run: Summary) -> Sheet:
    """Return TTFT, TPOT, ITL and E2E by percentile, each row in its own unit."""
    units = [time_unit(run[key][s] for s in STATISTICS) for key in LATENCIES]
    names = [f"{name}, {unit}" for name, (_, unit) in zip(LATENCIES.values(), units, strict=True)]
    columns = [Column("latency", names, names=True)]
    for statistic in STATISTICS:
        cells = [
            with_interval(run[key][statistic], interval(run, key, statistic), scale)
            for key, (scale, _) in zip(LATENCIES, units, strict=True)
        ]
        columns.append(Column(statistic, cells))
    return Sheet(tuple(columns))


def block(title: str, facts: Facts) -> Table:
    """Return one titled list of names and figures."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(Text(title, style=HEADING), "")
    for name, figure in facts:
        table.add_row(Text(f"  {name}"), Text(figure))
    table.add_row("", "")
    return table


def facts_of(run: Summary) -> Mapping[str, Facts]:
    """Return the figures of each block, as text."""
    return {"Served": _served(run), "Speculation": _speculation(run), "MoE": _moe(run), "Engine": _engine(run)}


def _served(run: Summary) -> Facts:
    facts = [(f"requests {state}", number(run["requests"][state])) for state in ("offered", "finished", "unfinished")]
    rates = (
        ("output tok/s", "output_tokens_per_s"),
        ("output tok/s/GPU", "output_tokens_per_gpu_s"),
        ("goodput, req/s", "goodput_rps"),
    )
    facts += [(name, with_interval(run[key], interval(run, key))) for name, key in rates]
    return [*facts, ("SLO met", percent(run["slo_attainment"]))]


def _speculation(run: Summary) -> Facts:
    found = run["speculation"]
    return [
        ("mean draft length K", number(found["mean_draft_length"], 2)),
        ("acceptance length", number(found["acceptance_length"], 2)),
        ("acceptance rate", percent(found["acceptance_rate"])),
        ("drafts wasted", percent(found["wasted_fraction"])),
        ("time without drafts", percent(found["off_fraction"])),
    ]


def _moe(run: Summary) -> Facts:
    return [("distinct experts, mean", number(run["moe"]["distinct_experts_mean"]))]


def _engine(run: Summary) -> Facts:
    scale, unit = time_unit([run["simulated_s"]])
    return [
        ("steps", number(run["steps"])),
        ("mean batch", number(run["mean_batch"])),
        ("preemptions", number(run["preemptions"])),
        (f"simulated, {unit}", times(run["simulated_s"], scale)),
        ("steps per wall s", number(run["steps_per_wall_s"])),
    ]
