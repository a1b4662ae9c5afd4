"""Reproduce the MoESD paper, beside this project's own: `python -m sdsim.reproduce --points figure4.csv --out DIR`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdsim.command import OK, Parser, add_plots, run_command
from sdsim.reproduction.answer import reproduce
from sdsim.result import to_json
from sdsim.whole import refuse_existing, write_folder

EXAMPLE = """examples:
  python -m sdsim.reproduce
  python -m sdsim.reproduce --points figure4.csv --measured tests/records/executor-qwen2-57b-a14b.jsonl --out moesd"""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.reproduce",
        description="Reproduce MoESD (arXiv 2505.19645): fit its model, and set its tables and figures beside ours.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--points", type=Path, metavar="FILE", help="points off Figure 4: a CSV of K, gamma, B, speedup")
    _add_files(p, "--counts", "counted experts: a CSV of model, E, k, t, kind, unique_measured")
    _add_files(p, "--measured", "JSON lines of measured steps, as crosscheck writes them")
    p.add_argument(
        "--out", type=Path, metavar="DIR", help="write the answer and a picture of each table and figure here"
    )
    add_plots(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def _add_files(p: argparse.ArgumentParser, option: str, content: str) -> None:
    p.add_argument(option, type=Path, action="append", default=[], metavar="FILE", help=f"{content}; repeatable")


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    if options.out is not None:
        refuse_existing(options.out)
    answer = reproduce(options.points, options.counts, options.measured)
    if options.out is not None:
        _write(options.out, answer, options.plots)
    if options.json:
        print(to_json(answer))
    else:
        from rich.console import Console

        from sdsim.report.reproduction import show_reproduction

        show_reproduction(Console(), answer)
    return OK


def _write(out: Path, answer: dict[str, Any], plots: str) -> None:
    """Write the answer and its pictures into the folder *out*, whole."""
    from sdsim.report.reproduction_plots import draw_reproduction

    def fill(folder: Path) -> None:
        (folder / "reproduction.json").write_text(to_json(answer, indent=2) + "\n", encoding="utf-8")
        draw_reproduction(answer, folder, plots)

    write_folder(out, fill)


if __name__ == "__main__":
    run_command(main)
