"""How far a command is: a bar on a terminal, nothing anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

REFRESH_S = 0.1


@contextmanager
def simulated_progress(
    console: Console, total_s: float | None, total_label: str, quiet: bool = False
) -> Iterator[Callable[[float], None]]:
    """Show simulated time against *total_s*, or against nothing if None; yield a callback that takes the time, s."""
    if quiet or not _shows(console):
        yield _ignore
        return
    with _bar(console, TextColumn("{task.fields[clock]}")) as bar:
        task = bar.add_task(total_label, total=total_s, clock="")
        bar.refresh()
        started = shown = time.monotonic()

        def advance(now_s: float) -> None:
            nonlocal shown
            wall = time.monotonic()
            if wall - shown >= REFRESH_S:
                shown = wall
                bar.update(task, completed=now_s, clock=clock(now_s, total_s, wall - started), refresh=True)

        yield advance


@contextmanager
def finished_runs(
    console: Console, total: int, total_label: str, quiet: bool = False, unit: str = "runs"
) -> Iterator[Callable[[int], None]]:
    """Show how many *unit* of *total* are finished; yield a callback that takes their number."""
    if quiet or not _shows(console):
        yield _ignore
        return
    with _bar(console, TextColumn(f"{{task.completed:.0f}} of {{task.total:.0f}} {unit}")) as bar:
        task = bar.add_task(total_label, total=total)
        bar.refresh()

        def finished(runs: int) -> None:
            bar.update(task, completed=runs, refresh=True)

        yield finished


def clock(now_s: float, total_s: float | None, wall_s: float) -> str:
    """Return the simulated time, and how much faster than real time it runs."""
    total = "" if total_s is None else f" of {total_s:,.0f}"
    return f"{now_s:,.0f}{total} s simulated, {now_s / wall_s:,.0f} x real time"


def _bar(console: Console, count: TextColumn) -> Progress:
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), TaskProgressColumn(), count, TimeElapsedColumn(), TimeRemainingColumn())
    # No refreshing thread: the runs fork, and a fork may catch a thread with the terminal's lock held.
    return Progress(*columns, console=console, transient=True, auto_refresh=False)


def _shows(console: Console) -> bool:
    return console.is_interactive and not console.quiet


def _ignore(_: float) -> None:
    """Show nothing."""
