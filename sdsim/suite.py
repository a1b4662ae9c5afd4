"""Rank policies over a folder of scenarios, against an oracle: `python -m sdsim.suite`.

Every scenario is run under each policy and seed, on the same requests and coins. Finished runs are kept in OUT.journal;
with --resume a suite that was ended goes on from there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdsim.command import BAD_INPUT, INTERRUPTED, OK, add_jobs, check_jobs, overrides, run_command
from sdsim.errors import ScenarioError
from sdsim.experiment import Cell, cells, told_apart
from sdsim.grid import GridCell, Point
from sdsim.grid.journal import Outcome, open_journal, read_journal
from sdsim.grid.table import outcome
from sdsim.result import refuse_existing, to_json, write_file
from sdsim.scenario import Scenario, load_scenario
from sdsim.standings import headline, standings, totals
from sdsim.workers import local_workers

FOLDER = Path("scenarios/suite")
ORACLE = "oracle_expected"
LENGTHS = "lengths: [0, 1, 2, 3, 4, 5, 6]"
CORE = (
    "off", *(f"{{kind: fixed, length: {k}}}" for k in (1, 2, 3, 4, 6)),
    "{kind: batch_table, table: [[1, 64, 4], [65, 128, 2], [129, 512, 0]]}",
    f"{{kind: goodput, {LENGTHS}}}", f"{{kind: position_goodput, {LENGTHS}}}", f"{{kind: moesd, {LENGTHS}}}",
    "sglang_adaptive", "throughput_aware", "cascade", f"{{kind: nightjar, {LENGTHS}}}",
    f"{{kind: dspark, draft: chosen, {LENGTHS}}}", f"{{kind: prefill_riding, rides: false, {LENGTHS}}}", "auto",
)  # fmt: skip
"""Constant lengths, what engines ship, the published rules that choose lengths, and ours."""
EXAMPLE = """examples:
  python -m sdsim.suite --seeds 5 --jobs 2 --out suite.json
  python -m sdsim.suite scenarios/suite/drain.yaml --policy off --policy auto
  python -m sdsim.suite --seeds 20 --resume --out suite.json"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    p = argparse.ArgumentParser(
        "python -m sdsim.suite",
        description="Run policies on every scenario of a folder, and rank them against an oracle.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scenarios", nargs="*", type=Path, help=f"scenario files or folders (default: {FOLDER})")
    p.add_argument("--policy", action="append", default=[], metavar="NAME", help="instead of the core; repeatable")
    p.add_argument("--oracle", default=ORACLE, metavar="NAME", help=f"what gains are against (default: {ORACLE})")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of every scenario")
    p.add_argument("--seed", metavar="N", help="the first seed")
    p.add_argument("--seeds", default="5", metavar="N", help="seeds of each scenario (default: 5)")
    add_jobs(p)
    p.add_argument("--resume", action="store_true", help="go on from the runs that an ended suite has finished")
    p.add_argument("--out", type=Path, default=Path("runs/suite.json"), metavar="FILE", help="where the result goes")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--quiet", action="store_true", help="no progress bar, and nothing on stdout")
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    check_jobs(options)
    refuse_existing(options.out)
    journal = options.out.with_name(f"{options.out.name}.journal")
    if journal.exists() and not options.resume:
        raise ScenarioError(f"{journal}: an unfinished suite; add --resume to go on, or remove it")
    scenarios = _scenarios(options)
    try:
        outcomes = _run([cell for scenario in scenarios for cell in cells(scenario)], journal, options)
    except KeyboardInterrupt:
        print(f"interrupted; finished runs are kept in {journal}; go on with --resume", file=sys.stderr)
        return INTERRUPTED
    found = ranked(scenarios, outcomes)
    write_file(options.out, lambda path: path.write_text(to_json(found) + "\n", encoding="utf-8"))
    journal.unlink()
    _show(found, options)
    failed = all(row["gain"] is None for one in found["scenarios"] for row in one["standings"])
    return BAD_INPUT if failed else OK


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    """Return the scenarios, the oracle the first policy of each."""
    given = options.scenarios or [FOLDER]
    files = [file for path in given for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    if not files:
        raise ScenarioError(f"{given[0]}: no scenario in it; allowed: files, or folders of *.yaml; name another")
    policies = list(dict.fromkeys([options.oracle, *(options.policy or CORE)]))
    return [load_scenario(file, overrides(options, policies)) for file in files]


def _key(cell: Cell) -> str:
    return GridCell(Point({}, cell.scenario), cell).key


def _run(todo: Sequence[Cell], path: Path, options: argparse.Namespace) -> dict[str, Outcome]:
    """Return the outcomes of *todo* by key, each kept in the journal at *path* once known."""
    from rich.console import Console

    from sdsim.report.progress import finished_runs

    outcomes = read_journal(path)
    missing = {key: cell for cell in todo if (key := _key(cell)) not in outcomes}
    keys, count = list(missing), max(min(options.jobs or os.cpu_count() or 1, len(missing)), 1)
    with (
        local_workers(count) as workers,
        open_journal(path) as journal,
        finished_runs(Console(stderr=True), len(keys), "suite", options.quiet) as finished,
    ):
        for number, (place, found) in enumerate(workers.map(outcome, list(missing.values())), 1):
            journal.add(keys[place], found)
            outcomes[keys[place]] = found
            finished(number)
    return outcomes


def ranked(scenarios: Sequence[Scenario], outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Return the standings of every scenario and over all; the base is each scenario's first policy."""
    found = []
    for scenario in scenarios:
        runs, figure = cells(scenario), headline(scenario)
        results = [outcomes[_key(cell)] for cell in runs]
        labels = told_apart(
            (str(result.get("policy", cell.policy.kind)), cell.policy)
            for cell, result in zip(runs, results, strict=True)
        )
        by_policy: dict[str, list[Outcome]] = {}
        for label, result in zip(labels, results, strict=True):
            by_policy.setdefault(label, []).append(result)
        rows = standings(figure, by_policy, labels[0])
        found.append({"name": scenario.name, "figure": figure, "base": labels[0], "standings": rows})
    return {"seeds": scenarios[0].seeds, "scenarios": found, "totals": totals(found)}


def _show(found: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print(to_json(found))
    elif not options.quiet:
        from rich.console import Console

        from sdsim.report.standings_table import print_standings

        print_standings(Console(), found)


if __name__ == "__main__":
    run_command(main)
