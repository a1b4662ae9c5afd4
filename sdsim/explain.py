"""Say why a policy chose what it chose: `python -m sdsim.explain runs/bursty/goodput --step 400`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdsim.command import OK, Parser, add_allow_code, run_command
from sdsim.errors import ScenarioError
from sdsim.explanation import explain_request, explain_step
from sdsim.result import Result, to_json
from sdsim.run_folder import find_runs, read_run

EXAMPLE = """examples:
  python -m sdsim.explain runs/bursty/goodput-seed-7 --step 400 --replica 1
  python -m sdsim.explain runs/steady/fixed-2-seed-1 --request 17"""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.explain",
        description="Run a recorded run again, and explain one step's draft length or tell one request's life.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("run", type=Path, metavar="RUN", help="the folder of one run, as sdsim.run wrote it")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--step", type=int, metavar="N", help="what the policy saw and chose in this step, and why")
    what.add_argument("--request", type=int, metavar="ID", help="the life of this request")
    p.add_argument("--replica", type=int, metavar="R", help="the replica that took the step (default 0)")
    add_allow_code(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    if options.request is not None and options.replica is not None:
        raise ScenarioError("--replica: not allowed with --request, whose replica is recorded; leave it out")
    result = only_run(options.run, options.allow_code)
    if options.step is not None:
        _step(result, options.replica or 0, options.step, options.json)
    else:
        _request(result, options.request, options.json)
    return OK


def only_run(folder: Path, allow_code: bool = False) -> Result:
    """Return the run in *folder*, or raise ScenarioError where there is none or more than one."""
    runs = find_runs(folder)
    if runs != [folder]:
        raise ScenarioError(f"{folder}: holds {len(runs)} runs; allowed: one; name its folder, such as {runs[0]}")
    return read_run(folder, allow_code=allow_code)


def _step(result: Result, replica: int, step: int, as_json: bool) -> None:
    explanation = explain_step(result, replica, step)
    if as_json:
        print(to_json(explanation.json()))
        return
    from rich.console import Console

    from sdsim.report.explanation import print_step

    print_step(Console(), explanation)


def _request(result: Result, request: int, as_json: bool) -> None:
    life = explain_request(result, request)
    if as_json:
        print(to_json(life.json()))
        return
    from rich.console import Console

    from sdsim.report.explanation import print_request

    print_request(Console(), life)


if __name__ == "__main__":
    run_command(main)
