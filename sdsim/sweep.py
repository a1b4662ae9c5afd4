"""Run a grid of scenarios into one table: `python -m sdsim.sweep scenarios/sweeps/lengths.yaml`.

Every finished cell is kept in OUT.journal at once; with --resume a sweep that was ended goes on from there. The table
itself appears whole, and is the same bytes however many processes shared the cells, in whatever order, however often it
was ended.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sdsim.command import BAD_INPUT, OK, Parser, add_allow_code, add_jobs, check_jobs, run_command
from sdsim.errors import ScenarioError, SdsimError
from sdsim.experiment import Cell
from sdsim.fingerprint import texts_digest
from sdsim.grid import GridCell
from sdsim.grid.file import read_grid
from sdsim.grid.journal import Outcome, open_journal, read_journal
from sdsim.grid.table import outcome, rows, tabled_cells, write_table
from sdsim.whole import refuse_existing
from sdsim.workers import Workers, cluster_workers, local_workers

EXAMPLE = """examples:
  python -m sdsim.sweep scenarios/sweeps/lengths.yaml --dry-run
  python -m sdsim.sweep scenarios/sweeps/lengths.yaml --jobs 2 --out lengths.parquet
  python -m sdsim.sweep scenarios/sweeps/lengths.yaml --cluster tcp://10.0.0.1:8786 --resume"""
SHOWN = 5
"""Kinds of failures that are named."""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.sweep",
        description="Run every combination of a sweep's axes, and write a table with one row a run.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("sweep", type=Path, metavar="FILE", help="a sweep file: scenario, axes, zip (see scenarios/sweeps)")
    add_allow_code(p)
    add_jobs(p)
    p.add_argument("--cluster", metavar="ADDRESS", help="share the cells on this dask.distributed scheduler's workers")
    p.add_argument("--resume", action="store_true", help="go on from the cells that an ended sweep has finished")
    p.add_argument("--dry-run", action="store_true", help="run a few cells, and say what all would cost")
    p.add_argument("--out", type=Path, metavar="FILE", help="the parquet file to write (default: runs/NAME.parquet)")
    p.add_argument("--quiet", action="store_true", help="no progress bar, and nothing on stdout")
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    check_jobs(options)
    if options.cluster is not None and options.jobs is not None:
        raise ScenarioError("--jobs: found with --cluster, whose workers are its own; allowed: one of them; drop one")
    grid = read_grid(options.sweep, options.allow_code)
    out = options.out or Path("runs") / f"{grid.name}.parquet"
    journal = out.with_name(f"{out.name}.journal")
    todo = grid.cells()
    digest = texts_digest(one.key for one in todo)
    if options.resume and tabled_cells(out) == digest:
        return _finished_already(out, journal, options.quiet)
    refuse_existing(out)
    if journal.exists() and not options.resume:
        raise ScenarioError(f"{journal}: an unfinished sweep; add --resume to go on, or remove it")
    outcomes = _finished(todo, journal)
    if options.dry_run:
        return _forecast(todo, outcomes, options)
    started = time.perf_counter()
    try:
        _run(todo, outcomes, journal, options)
    except SdsimError as error:
        raise SdsimError(*error.problems, *_kept(outcomes, journal)) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*_kept(outcomes, journal)) from None
    found = rows(grid, todo, outcomes)
    write_table(found, grid.axes, out, digest)
    journal.unlink(missing_ok=True)
    return _report(found, out, time.perf_counter() - started, options.quiet)


def _finished_already(out: Path, journal: Path, quiet: bool) -> int:
    journal.unlink(missing_ok=True)
    if not quiet:
        print(f"{out}: finished already")
    return OK


def _finished(todo: Sequence[GridCell], journal: Path) -> dict[str, Outcome]:
    """Return the outcomes of *todo* that are known; say so if others are."""
    known, keys = read_journal(journal), {one.key for one in todo}
    if others := len(known.keys() - keys):
        print(f"{journal}: {others} cells of other points, files or versions are not used", file=sys.stderr)
    return {key: found for key, found in known.items() if key in keys}


def _kept(outcomes: dict[str, Outcome], journal: Path) -> list[str]:
    return [f"{len(outcomes)} finished cells are kept in {journal}; go on with --resume"] if outcomes else []


def _missing(todo: Sequence[GridCell], outcomes: dict[str, Outcome]) -> dict[str, Cell]:
    """Return the runs that have no outcome yet, by key."""
    return {one.key: one.cell for one in todo if one.cell is not None and one.key not in outcomes}


def _run(todo: Sequence[GridCell], outcomes: dict[str, Outcome], path: Path, options: argparse.Namespace) -> None:
    """Add the outcomes that are missing, each kept in the journal at *path* first."""
    from rich.console import Console

    from sdsim.report.progress import finished_runs

    missing = _missing(todo, outcomes)
    keys, label = list(missing), options.sweep.stem
    with (
        _workers(options, len(keys)) as workers,
        open_journal(path) as keep,
        finished_runs(Console(stderr=True), len(keys), label, options.quiet) as finished,
    ):
        for number, (place, found) in enumerate(workers.map(outcome, list(missing.values())), 1):
            keep(keys[place], found)
            outcomes[keys[place]] = found
            finished(number)


def _workers(options: argparse.Namespace, cells: int) -> AbstractContextManager[Workers]:
    if options.cluster is not None:
        return cluster_workers(options.cluster)
    return local_workers(_jobs(options, cells))


def _jobs(options: argparse.Namespace, cells: int) -> int:
    return max(min(options.jobs or os.cpu_count() or 1, cells), 1)


def _forecast(todo: Sequence[GridCell], outcomes: dict[str, Outcome], options: argparse.Namespace) -> int:
    """Print the number of cells, and what they would cost."""
    from sdsim.grid.estimate import estimate

    missing = list(_missing(todo, outcomes).values())
    wrong = sum(one.cell is None for one in todo)
    print(f"{len(todo)} cells, {len(outcomes)} finished, {wrong} that cannot be run, {len(missing)} to run")
    if missing:
        cost, jobs = estimate(missing), _jobs(options, len(missing))
        each = f"{min(cost.seconds):.2g} to {max(cost.seconds):.2g} s, mean {cost.mean_s:.2g} s"
        total = cost.mean_s * len(missing)
        print(f"{len(cost.seconds)} timed: {each} of processor time a cell, so about {total:,.0f} s in all")
        shared = "" if options.cluster else f"; {total / jobs:,.0f} s with --jobs {jobs}"
        print(f"about {cost.memory_bytes / 1e6:,.0f} MB a process{shared}")
    return OK


def _report(found: Sequence[dict[str, Any]], out: Path, wall_s: float, quiet: bool) -> int:
    """Say what was written and what failed; return 2 if everything did."""
    failures = Counter(str(row["error"]) for row in found if row["error"] is not None)
    if not quiet:
        print(f"{out}: {len(found)} cells, {failures.total()} failed; {wall_s:.1f} s")
    for error, count in failures.most_common(SHOWN):
        print(f"{count} failed: {error}", file=sys.stderr)
    if len(failures) > SHOWN:
        print(f"and {len(failures) - SHOWN} more kinds: see the column error", file=sys.stderr)
    return BAD_INPUT if failures.total() == len(found) else OK


if __name__ == "__main__":
    run_command(main)
