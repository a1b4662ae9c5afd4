"""Compare policies, scenarios or run folders pair by pair: `python -m sdsim.compare off goodput --scenario FILE`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdsim.command import (
    OK,
    Parser,
    add_allow_code,
    add_changes,
    add_jobs,
    check_jobs,
    overrides,
    parsed,
    placing_errors,
    run_command,
)
from sdsim.errors import ScenarioError
from sdsim.experiment import Cell, cells, in_order
from sdsim.pairs import figures
from sdsim.result import to_json
from sdsim.run_folder import find_runs, read_run
from sdsim.scenario import Scenario, load_scenario
from sdsim.sides import Run, compare, sides
from sdsim.whole import refuse_existing, write_file
from sdsim.workers import local_workers

EXAMPLE = """examples:
  python -m sdsim.compare off goodput '{kind: fixed, length: 3}' --scenario scenarios/bursty.yaml --seeds 8
  python -m sdsim.compare today.yaml tomorrow.yaml --set until=2min
  python -m sdsim.compare runs/bursty runs/bursty-2 --json"""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.compare",
        description="Compare two or more sides seed by seed, on the same requests and acceptances. Policies of one "
        "scenario are held against the first; scenario files and run folders against the first of them, policy by "
        "policy.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("sides", nargs="+", metavar="SIDE", help="a scenario file, run folder or policy; the base first")
    p.add_argument("--scenario", type=Path, metavar="FILE", help="the sides are policies, run in this scenario")
    add_changes(p)
    add_allow_code(p)
    add_jobs(p)
    p.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object here as well")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parsed(parser(), words)
    check_jobs(options)
    if options.out is not None:
        refuse_existing(options.out)
    compared = compare(sides(list(_runs(options))))
    text = to_json(compared)
    if options.out is not None:
        write_file(options.out, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    if options.json:
        print(text)
    else:
        from rich.console import Console

        from sdsim.report.pairs_table import print_comparison

        print_comparison(Console(), compared)
    return OK


def _runs(options: argparse.Namespace) -> Iterator[Run]:
    """Yield the runs of all sides, sides in the order of their words."""
    code = options.allow_code
    if options.scenario is not None:
        files = {str(options.scenario): load_scenario(options.scenario, overrides(options, options.sides), code)}
        yield from _simulated(files, options.jobs)
        return
    if missing := [word for word in options.sides if not Path(word).exists()]:
        allowed = "allowed: scenario files and run folders, or policies of the scenario that --scenario FILE names"
        raise ScenarioError(*(f"{w}: no such file; {allowed}; check the path, or add --scenario" for w in missing))
    folders = {word: Path(word) for word in options.sides if Path(word).is_dir()}
    if folders and overrides(options, ()):
        found = f"{next(iter(folders))}: is a run folder, which --set, --seed and --seeds cannot change"
        raise ScenarioError(f"{found}; allowed with scenario files; leave them out")
    files = {w: load_scenario(w, overrides(options, ()), code) for w in options.sides if w not in folders}
    simulated = list(_simulated(files, options.jobs))
    for word in dict.fromkeys(options.sides):
        if word in folders:
            results = (read_run(folder, allow_code=code) for folder in find_runs(folders[word]))
            yield from (Run(word, result.scenario, result.policy, figures(result)) for result in results)
        yield from (run for run in simulated if run.source == word)


def _simulated(files: dict[str, Scenario], jobs: int | None) -> Iterator[Run]:
    """Yield the runs of *files*, all shared by *jobs* processes."""
    from rich.console import Console

    from sdsim.report.progress import finished_runs

    todo = [(file, cell) for file, scenario in files.items() for cell in cells(scenario)]
    if not todo:
        return
    count = min(jobs or os.cpu_count() or 1, len(todo))
    names = ", ".join(scenario.name for scenario in files.values())
    with local_workers(count) as workers, finished_runs(Console(stderr=True), len(todo), names) as finished:
        yield from in_order(workers.map(_simulate, todo), finished)


def _simulate(item: tuple[str, Cell]) -> Run:
    file, cell = item
    with placing_errors(Path(file)):
        result = cell.run()
    return Run(file, result.scenario, result.policy, figures(result))


if __name__ == "__main__":
    run_command(main)
