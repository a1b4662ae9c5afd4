"""Write one HTML report of finished runs: `python -m sdsim.report_html runs/bursty runs/steady --out both.html`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdsim.command import OK, Parser, add_allow_code, run_command
from sdsim.result import Result
from sdsim.run_folder import find_runs, read_run

EXAMPLE = """examples:
  python -m sdsim.report_html runs/bursty
  python -m sdsim.report_html runs/bursty runs/steady --out both.html"""
REPORT = "report.html"


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.report_html",
        description="Write one HTML file, readable offline, that compares finished runs.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a folder that sdsim.run wrote")
    add_allow_code(p)
    p.add_argument("--out", type=Path, metavar="FILE", help=f"the file to write (default: {REPORT} in the first RUN)")
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    from sdsim.report.html import write_report

    options = parser().parse_args(words)
    results = read_runs(options.runs, options.allow_code)
    path = options.out or options.runs[0] / REPORT
    write_report(results, path)
    print(path)
    return OK


def read_runs(folders: Sequence[Path], allow_code: bool = False) -> list[Result]:
    """Return the runs in *folders*, named after the folder they were asked for by."""
    return [read_run(run, folder.resolve().name, allow_code) for folder in folders for run in find_runs(folder)]


if __name__ == "__main__":
    run_command(main)
