"""Read a running engine's acceptance and load: `python -m sdsim.engine_metrics --metrics http://localhost:8000`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from sdsim.command import OK, Parser, run_command
from sdsim.engine_metrics import estimate
from sdsim.engine_metrics.scrape import read_interval
from sdsim.errors import ScenarioError
from sdsim.policies.lengths import LONGEST
from sdsim.result import to_json

EXAMPLE = """examples:
  python -m sdsim.engine_metrics --metrics http://localhost:8000 --every 60
  python -m sdsim.engine_metrics --metrics before.txt after.txt --seconds 600 --lengths 0,1,4 --json"""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.engine_metrics",
        description="Estimate acceptance per position and load from the metrics of a running vLLM or SGLang.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = "an engine's address or a saved metrics page; two, older first, are differenced"
    p.add_argument("--metrics", nargs="+", required=True, metavar="URL|FILE", help=sources)
    p.add_argument("--every", type=float, default=0.0, metavar="S", help="scrape an address again after S seconds")
    p.add_argument("--seconds", type=float, metavar="S", help="time between two files, for rates")
    p.add_argument("--lengths", metavar="K,...", help="the draft lengths in use, if the engine changes among them")
    p.add_argument("--model", metavar="NAME", help="the model, where the server has several")
    p.add_argument("--timeout", type=float, default=5.0, metavar="S", help="wait so long for an address (default 5)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def draft_lengths(text: str | None) -> list[int]:
    """Return the lengths of an option, or raise ScenarioError."""
    words = text.split(",") if text else []
    if not all(word.strip().isdigit() and int(word) <= LONGEST for word in words):
        raise ScenarioError(f"--lengths: {text!r}; allowed: integers from 0 to {LONGEST}, such as 0,1,4")
    return [int(word) for word in words]


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    if len(options.metrics) > 2:
        raise ScenarioError(f"--metrics: {len(options.metrics)} sources; allowed: one, or two to be differenced")
    for name in ("every", "seconds", "timeout"):
        value = getattr(options, name)
        if value is not None and not (0 < value < 1e9 or (name == "every" and value == 0)):
            raise ScenarioError(f"--{name}: {value:g}; allowed: seconds above 0")
    lengths = draft_lengths(options.lengths)
    interval = read_interval(options.metrics, options.every, options.seconds, options.model, options.timeout)
    found = estimate(interval, lengths)
    if options.json:
        print(to_json(found))
    else:
        show(found)
    return OK


def show(found: dict[str, Any]) -> None:
    """Print what was *found*, and the lines of a scenario that say the same."""
    from rich.console import Console

    from sdsim.report.metrics_sheet import print_metrics

    print_metrics(Console(), found)


if __name__ == "__main__":
    run_command(main)
