"""What commands share: options that change a scenario, where a mistake is, and how an error ends them."""

from __future__ import annotations

import argparse
import errno
import gc
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from sdsim.errors import CapacityError, PolicyError, ScenarioError, SdsimError, did_you_mean

OK, BAD_INPUT, SLO_MISSED, OUT_OF_TOLERANCE, INTERRUPTED = 0, 2, 3, 4, 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
SAME_S = 1.0
CHANGE = re.compile(r"[\w.]+=")
PLOTS = ("png", "svg", "pdf")


def run_command(main: Callable[[Sequence[str]], int]) -> None:
    """Run *main* on the command line's words and exit: 2 with one line a mistake for what the user can mend.

    An interrupt ends it with 130 and one line: what the KeyboardInterrupt says was kept, if it says so.
    """
    _take_impatience_for_one_interrupt()
    gc.freeze()  # what the imports made stays: garbage collections need not walk over it
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except SdsimError as error:
        print(error, file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is near: a second one would only break it
        print(f"interrupted; {str(stop) or 'nothing was written'}", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        _print_no_more()
        code = OK
    except OSError as error:
        if error.errno not in FULL:
            raise
        _print_no_more()
        print(f"stdout: cannot be written: {error}; free space where it goes", file=sys.stderr)
        code = BAD_INPUT
    sys.exit(code)


def _take_impatience_for_one_interrupt() -> None:
    """Ignore interrupts that follow another within SAME_S: they would break what the first one ends in order."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    last = -math.inf

    def interrupt(*_: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > SAME_S:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


class Parser(argparse.ArgumentParser):
    """A parser that names the option which an unknown one was meant for."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and *message*, and exit with 2."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        near = (did_you_mean(word, self._option_string_actions) for word in unknown if word.startswith("--"))
        super().error(message + next(filter(None, near), ""))


def _print_no_more() -> None:
    """Let what is left to be printed, which the interpreter tries at its end, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def add_changes(p: argparse.ArgumentParser) -> None:
    """Add the options that change a scenario; `overrides` reads them."""
    text = "change a key, such as slo.tpot=30ms; more may follow"
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    p.add_argument("--seed", metavar="N", help="the first seed")
    p.add_argument("--seeds", metavar="N", help="run N seeds and give 95%% intervals")


def parsed(p: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Return what *words* say, with as many changes behind one --set as there are: `--set seed=3 slo.tpot=30ms`."""
    spread: list[str] = []
    behind = 0
    for word in words:
        behind = 1 if word == "--set" else behind + 1 if behind and CHANGE.match(word) else 0
        spread += ["--set", word] if behind > 2 else [word]
    return p.parse_args(spread)


def add_allow_code(p: argparse.ArgumentParser) -> None:
    """Add --allow-code: what a file says is data otherwise."""
    p.add_argument("--allow-code", action="store_true", help="run the policies that a file names as module:Class")


def add_policies(p: argparse.ArgumentParser) -> None:
    """Add --policy, for `overrides`."""
    p.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="NAME",
        help="run this policy instead: a name, module:Class, or '{kind: fixed, length: 3}'; repeatable",
    )


def overrides(options: argparse.Namespace, policies: Sequence[str]) -> list[str]:
    """Return the options that change the scenario, as KEY=VALUE; *policies* instead of its own, if there are any."""
    changed = list(options.set)
    if policies:
        changed.append(f"policy=[{', '.join(_quoted(p) for p in policies)}]")
    changed += [f"seed={options.seed}"] if options.seed is not None else []
    changed += [f"seeds={options.seeds}"] if options.seeds is not None else []
    return changed


def _quoted(policy: str) -> str:
    return policy if policy.lstrip().startswith("{") else f'"{policy}"'


def add_plots(p: argparse.ArgumentParser) -> None:
    """Add --plots, the format of what is drawn into a folder."""
    p.add_argument("--plots", choices=PLOTS, default=PLOTS[0], help=f"the pictures' format (default {PLOTS[0]})")


def add_jobs(p: argparse.ArgumentParser) -> None:
    """Add --jobs; `check_jobs` refuses what is no number of processes."""
    p.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")


def check_jobs(options: argparse.Namespace) -> None:
    """Raise ScenarioError for fewer than one process."""
    if options.jobs is not None and options.jobs < 1:
        raise ScenarioError(f"--jobs: found {options.jobs}; allowed: 1 or more processes")


@contextmanager
def placing_errors(scenario: Path) -> Iterator[None]:
    """Name the scenario's file and line in errors found while it runs."""
    try:
        yield
    except (CapacityError, PolicyError) as error:
        raise type(error)(*(_placed(scenario, problem) for problem in error.problems)) from None


def _placed(scenario: Path, problem: str) -> str:
    """Return *problem* with the scenario's file and the line of the key that it starts with."""
    key = problem.partition(":")[0].partition(".")[0]
    lines = scenario.read_text(encoding="utf-8").splitlines()
    line = next((i for i, text in enumerate(lines, 1) if text.startswith(f"{key}:")), 1)
    return f"{scenario}:{line}: {problem}"


def whole_numbers(option: str, text: str, low: int, high: int) -> list[int]:
    """Return the comma-separated integers of an option, or raise ScenarioError."""
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        values = []
    if not values or any(not low <= v <= high for v in values):
        raise ScenarioError(f"{option}: {text!r}; allowed: integers from {low} to {high}, such as 1,2,4")
    return values
