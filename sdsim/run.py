"""Replay a scenario and answer it: `python -m sdsim.run scenarios/bursty.yaml`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdsim.checks import doubtful
from sdsim.command import (
    OK,
    SLO_MISSED,
    Parser,
    add_allow_code,
    add_changes,
    add_jobs,
    add_plots,
    add_policies,
    check_jobs,
    overrides,
    parsed,
    placing_errors,
    run_command,
)
from sdsim.errors import ScenarioError
from sdsim.experiment import cells, run_cells
from sdsim.result import Result, to_json
from sdsim.scenario import Scenario, load_scenario
from sdsim.statistics import mean_summary
from sdsim.steadiness import doubtful_runs
from sdsim.verdict import Comparison, compare, verdict
from sdsim.whole import refuse_existing, write_folder

EXAMPLE = """example:
  python -m sdsim.run scenarios/bursty.yaml --set workload.rate=20/s --policy goodput --seeds 5"""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.run",
        description="Replay a scenario on a simulated cluster and compare its policies.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scenario", metavar="SCENARIO", help="a scenario file (see scenarios/)")
    add_changes(p)
    add_policies(p)
    add_allow_code(p)
    p.add_argument("--out", type=Path, metavar="DIR", help="write the run folder here (default: runs/NAME)")
    p.add_argument("--json", action="store_true", help="print one JSON object, and write no folder without --out")
    add_jobs(p)
    p.add_argument("--quiet", action="store_true", help="no progress bar, no table")
    add_plots(p)
    p.add_argument("--no-plots", action="store_true", help="write no pictures into the run folder")
    p.add_argument("--html", action="store_true", help="write report.html into the run folder: one page, no network")
    p.add_argument("--trace", action="store_true", help="write trace.json.gz of each run, which ui.perfetto.dev opens")
    p.add_argument("--require-slo", action="store_true", help="exit with 3 unless the best policy meets the SLOs")
    p.add_argument(
        "--slo-attainment",
        type=float,
        default=0.99,
        metavar="SHARE",
        help="of the requests that --require-slo asks for (default 0.99)",
    )
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parsed(parser(), words)
    scenario = load_scenario(options.scenario, overrides(options, options.policy), options.allow_code)
    if options.require_slo and scenario.slo is None:
        raise ScenarioError("--require-slo: the scenario has no slo; add one, such as --set slo.tpot=50ms")
    check_jobs(options)
    if not 0 <= options.slo_attainment <= 1:
        raise ScenarioError(f"--slo-attainment: found {options.slo_attainment}; allowed: a share from 0 to 1")
    for option in ("html", "trace"):
        if getattr(options, option) and options.json and options.out is None:
            raise ScenarioError(f"--{option}: --json alone writes no folder; allowed: with --out; name one")
    folder = options.out or (None if options.json else free_folder(Path("runs") / scenario.name))
    if folder is not None:
        refuse_existing(folder)
    started = time.perf_counter()
    with placing_errors(Path(options.scenario)):
        results = simulate_all(scenario, options.jobs, options.quiet or options.json)
    groups = [compare(scenario, [r for r in results if r.summary["engine"] == e]) for e in scenario.engines]
    runs = [mean_summary([r.summary for r in seeds]) for g in groups for seeds in g.runs.values()]
    if folder is not None:
        write_run(folder, results, runs, None if options.no_plots else options.plots, options.html, options.trace)
    if options.json:
        for text in warnings(scenario, groups):
            print(f"warning: {text}", file=sys.stderr)
        print(to_json(runs[0] if len(runs) == 1 else {"runs": runs}))
    elif not options.quiet:
        show(scenario, groups, runs, files(options, folder, len(results)), time.perf_counter() - started)
    return exit_code(groups, options.slo_attainment) if options.require_slo else OK


def simulate_all(scenario: Scenario, jobs: int | None, quiet: bool) -> list[Result]:
    """Run every cell behind a progress bar: simulated time for one run, finished runs for several."""
    todo = cells(scenario)
    if quiet or not sys.stderr.isatty():
        return run_cells(todo, jobs)
    from rich.console import Console

    from sdsim.report.progress import finished_runs, simulated_progress

    console = Console(stderr=True)
    if len(todo) == 1:
        with simulated_progress(console, scenario.until, scenario.name) as progress:
            return run_cells(todo, jobs, progress)
    with finished_runs(console, len(todo), scenario.name) as finished:
        return run_cells(todo, jobs, finished=finished)


def free_folder(folder: Path) -> Path:
    """Return *folder*, or the first of folder-2, folder-3, ... that is free."""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def write_run(
    folder: Path,
    results: Sequence[Result],
    runs: list[dict[str, Any]],
    plots: str | None,
    html: bool = False,
    trace: bool = False,
) -> None:
    """Write one run's files into *folder*, or several runs' into a folder each, with their summaries.

    With them go pictures in the format *plots*, one report as *html*, and a *trace* of each run.
    """

    def fill(draft: Path) -> None:
        if len(results) > 1:
            (draft / "summary.json").write_text(to_json({"runs": runs}) + "\n", encoding="utf-8")
        for result in results:
            part = draft / _part(result, results) if len(results) > 1 else draft
            if part != draft:
                part.mkdir()
            result.write(part)
            if trace:
                _write_trace(result, part)
        if plots:
            _draw(results, draft, plots)
        if html:
            from sdsim.report.html import write_report

            write_report(results, draft / "report.html")

    write_folder(folder, fill)


def _write_trace(result: Result, folder: Path) -> None:
    from sdsim.report.perfetto import write_trace

    write_trace(result, folder / "trace.json.gz")


def _draw(results: Sequence[Result], folder: Path, plots: str) -> None:
    """Draw the runs of the first seed."""
    from sdsim.report.plots import plot_latencies, plot_timeline

    first = [r for r in results if r.summary["seed"] == results[0].summary["seed"]]
    plot_timeline(first, folder / f"timeline.{plots}")
    plot_latencies(first, folder / f"latencies.{plots}")


def _part(result: Result, results: Sequence[Result]) -> str:
    """Return the name of a run's folder: its policy, and what else tells it from the others."""
    name = result.policy.replace("/", "-").replace(":", "-")
    for key in ("engine", "seed"):
        if len({r.summary[key] for r in results}) > 1:
            name += f"-{key}-{Path(str(result.summary[key])).stem}"
    return name


def warnings(scenario: Scenario, groups: Sequence[Comparison]) -> list[str]:
    """Return what is doubtful about the scenario, and about its runs."""
    return [*doubtful(scenario), *(text for group in groups for text in doubtful_runs(group.runs))]


def show(
    scenario: Scenario, groups: Sequence[Comparison], runs: list[dict[str, Any]], written: Sequence[str], wall_s: float
) -> None:
    """Print the table, the verdict and where the files are."""
    from rich.console import Console

    from sdsim.report.console import print_runs

    pools = [f"{scenario.replicas} x ({scenario.gpus})"]
    pools += [f"{pool.replicas} x ({pool.gpus})" for pool in scenario.pools]
    seeds = f"{scenario.seeds} seeds" if scenario.seeds > 1 else f"seed {scenario.seed}"
    line = f"{scenario.name} · {scenario.model} · {' + '.join(pools)} · {seeds}"
    fleets = [fleet_line(run) for run in runs if "fleet" in run]
    notes = [*fleets, *warnings(scenario, groups), *written, f"{wall_s:.1f} s"]
    lines = [text for group in groups for text in verdict(group)]
    print_runs(Console(), runs, line, lines, notes)


def files(options: argparse.Namespace, folder: Path | None, runs: int) -> list[str]:
    """Return where to find what was written, and what opens it."""
    if folder is None:
        return []
    traces = folder / ("*/trace.json.gz" if runs > 1 else "trace.json.gz")
    return [
        f"files: {folder}",
        *([f"page: {folder / 'report.html'}"] if options.html else []),
        *([f"traces: {traces}, for https://ui.perfetto.dev"] if options.trace else []),
    ]


def fleet_line(run: dict[str, Any]) -> str:
    """Return what the replicas of *run* did beside stepping."""
    fleet = run["fleet"]
    parts = [f"{run['policy']}: {fleet['gpu_seconds'] / 3600:,.3g} GPU-hours"]
    if fleet["reused_tokens"]:
        parts.append(f"{fleet['reused_tokens']:,.0f} prompt tokens from prefix caches")
    if fleet["kv_transfers"]:
        sent = f"{fleet['kv_transfers']:,.0f} KV transfers"
        parts.append(f"{sent} of {1e3 * fleet['kv_transfer_mean_s']:.2g} ms, queueing included")
    if fleet["requests_lost"]:
        parts.append(f"{fleet['requests_lost']:,.0f} requests lost their KV to failures")
    return ", ".join(parts)


def exit_code(groups: Sequence[Comparison], required: float) -> int:
    """Return 3 if the best policy of any engine misses the required attainment."""
    met = all(g.mean(g.ranked()[0], "slo_attainment") >= required for g in groups)
    return OK if met else SLO_MISSED


if __name__ == "__main__":
    run_command(main)
