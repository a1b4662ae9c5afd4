"""Hold predictions against measurements: `python -m sdsim.crosscheck --measured steps.jsonl --engine vllm-0.22.1`.

Exits with 4 when an error is outside its tolerance.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sdsim.agreement.answer import leave_out_answer, measured_answer, runs_answer
from sdsim.agreement.setting import Setting
from sdsim.agreement.tolerance import Tolerances, parse_tolerances
from sdsim.command import (
    OK,
    OUT_OF_TOLERANCE,
    Parser,
    add_allow_code,
    add_plots,
    placing_errors,
    run_command,
    whole_numbers,
)
from sdsim.errors import ScenarioError
from sdsim.measurements import read_measurements
from sdsim.result import Result, to_json
from sdsim.whole import refuse_existing, write_folder

EXAMPLE = """examples:
  python -m sdsim.crosscheck --measured steps.jsonl --engine vllm-0.22.1 --out agreement
  python -m sdsim.crosscheck scenarios/steady.yaml --on gpu --seconds 60
  python -m sdsim.crosscheck --on gpu --model qwen3-30b-a3b --points 40
  python -m sdsim.crosscheck --leave-out"""
WAYS = "give --measured FILE, a SCENARIO, --model with --on, --collectives FILE, or --leave-out"


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.crosscheck",
        description="Compare predictions with measurements: of a file, or made now on this machine's GPU.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scenario", nargs="?", metavar="SCENARIO", help="run this scenario on hardware and simulate it")
    p.add_argument("--measured", type=Path, metavar="FILE", help="JSON lines of measured steps or replayed requests")
    p.add_argument("--collectives", type=Path, metavar="FILE", help="what sdsim.hardware.collectives measured")
    p.add_argument("--on", choices=("gpu", "vllm"), help="measure on the GPU (default) or in an installed vLLM")
    p.add_argument("--seconds", type=float, metavar="S", help="run the scenario's first S seconds")
    p.add_argument("--model", metavar="M[,M...]", help="measure steps of these models")
    p.add_argument("--points", type=int, default=40, metavar="N", help="steps a model with --on gpu (default 40)")
    p.add_argument("--batch", default="1,2,4,8,16,32,64,128,256", help="batch sizes of the steps with --on vllm")
    p.add_argument("--draft-length", default="0,1,2,3,4", help="draft lengths of the steps with --on vllm")
    p.add_argument("--acceptance", type=float, default=0.8, help="acceptance rate with --on vllm (default 0.8)")
    p.add_argument("--draft", help="the draft where a record does not name its own (default qwen2-0.5b)")
    p.add_argument("--engine", help="an engine's name or file (default: the record's own, such as vllm-0.22.1)")
    p.add_argument("--gpu", help="the GPU that was measured (default: the record's own, or h200)")
    p.add_argument("--calibration", metavar="FILE", help="predict with this calibration, or `roofline`")
    p.add_argument("--leave-out", action="store_true", help="predict each model as if it had not been calibrated")
    p.add_argument("--tolerance", metavar="NAME=SHARE,...", help="such as steps_median=5%%,steps_p90=10%%,tpot=7%%")
    p.add_argument("--seed", type=int, default=0, help="of the measured points (default 0)")
    p.add_argument("--out", type=Path, metavar="DIR", help="write answer, pictures and what was measured here")
    add_plots(p)
    p.add_argument("--full", action="store_true", help="print every step")
    add_allow_code(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    _check(options)
    if options.collectives is not None:
        return _collectives(options)
    allowed = _tolerances(options)
    with tempfile.TemporaryDirectory() as folder:
        lines = options.measured or Path(folder) / "measured.jsonl"
        answer = _answer(options, lines, allowed)
        if options.out is not None:
            _write(options.out, answer, lines, options.plots)
    if options.json:
        print(to_json(answer))
    else:
        from rich.console import Console

        from sdsim.report.agreement import show_agreement

        show_agreement(Console(), answer, options.full)
    return OUT_OF_TOLERANCE if answer["ok"] is False else OK


def _check(options: argparse.Namespace) -> None:
    """Raise ScenarioError unless the options ask for one thing, and it can be written."""
    known = ("scenario", "measured", "model", "collectives")
    ways = [name for name in known if getattr(options, name) is not None]
    if len(ways) != 1 and not (options.leave_out and not ways):
        found = " and ".join(ways) or "nothing to compare"
        raise ScenarioError(f"crosscheck: found {found}; allowed: one of them; {WAYS}")
    if options.leave_out and options.scenario:
        raise ScenarioError("--leave-out: found with a scenario; allowed with measured steps, or alone; drop one")
    if options.on and not (options.scenario or options.model):
        raise ScenarioError(
            f"--on: found {options.on} with nothing to run; allowed with a SCENARIO or --model; add one"
        )
    if options.seconds is not None and not options.scenario:
        raise ScenarioError("--seconds: found without a SCENARIO; allowed with one; add it, or drop --seconds")
    if options.out is not None:
        refuse_existing(options.out)
    if options.points < 1:
        raise ScenarioError(f"--points: found {options.points}; allowed: 1 or more")
    if options.seconds is not None and not options.seconds > 0:
        raise ScenarioError(f"--seconds: found {options.seconds}; allowed: over 0")
    if not 0 <= options.acceptance <= 1:
        raise ScenarioError(f"--acceptance: found {options.acceptance}; allowed: a rate from 0 to 1")


def _collectives(options: argparse.Namespace) -> int:
    """Compare collectives and steps of several GPUs; no verdict."""
    from sdsim.agreement.collectives import collectives_answer

    answer = collectives_answer(options.collectives, _whole_path(options.calibration))
    if options.json:
        print(to_json(answer))
    else:
        from rich.console import Console

        from sdsim.report.collectives_table import show_collectives

        show_collectives(Console(), answer)
    return OK


def _tolerances(options: argparse.Namespace) -> Tolerances | None:
    """Return the tolerances; None, for no verdict, for models left out unless some are named."""
    if options.leave_out and options.tolerance is None:
        return None
    return parse_tolerances(options.tolerance or "")


def _answer(options: argparse.Namespace, lines: Path, allowed: Tolerances | None) -> dict[str, Any]:
    """Measure what is asked for, into *lines* if it is not there yet, and compare."""
    from sdsim.agreement import hardware

    engine, draft, calibration = (_whole_path(word) for word in (options.engine, options.draft, options.calibration))
    setting = Setting(Path(), engine, options.gpu, draft, calibration, options.leave_out)
    if options.scenario and options.on != "vllm":
        from rich.console import Console

        from sdsim.report.progress import simulated_progress

        bar = simulated_progress(Console(stderr=True), options.seconds, "on the GPU")
        with placing_errors(Path(options.scenario)), bar as progress:
            runs = hardware.gpu_runs(options.scenario, options.seconds, setting, options.allow_code, progress)
            return runs_answer(_told(runs), allowed or Tolerances())
    if options.scenario:
        hardware.vllm_replays(options.scenario, options.seconds, lines, options.allow_code)
    elif options.model and options.on == "vllm":
        batches = whole_numbers("--batch", options.batch, 1, 65536)
        lengths = whole_numbers("--draft-length", options.draft_length, 0, 16)
        hardware.vllm_steps(options.model.split(","), draft, lengths, batches, options.acceptance, lines)
    elif options.model:
        hardware.gpu_steps(options.model.split(","), setting, options.points, options.acceptance, options.seed, lines)
    elif not options.measured:
        return leave_out_answer(setting)
    return measured_answer(read_measurements(lines), setting, allowed)


def _told(runs: Iterable[tuple[Result, Result]]) -> Iterator[tuple[Result, Result]]:
    """Say of each run what it took once it is there: they take minutes, and a time limit may end the command."""
    for measured, simulated in runs:
        found, on = measured.summary, measured.summary["hardware"]
        ours, theirs = (one.summary["output_tokens_per_s"] for one in (simulated, measured))
        print(
            f"{measured.policy}: {found['steps']} steps, {on['gpu_s']:.1f} s on the GPU, {on['host_s']:.1f} s between, "
            f"{on['graphs']} graphs captured in {on['capture_s']:.1f} s; {theirs:.4g} tokens/s, simulated {ours:.4g}",
            file=sys.stderr,
        )
        yield measured, simulated


def _whole_path(word: str | None) -> str | None:
    """Return *word*, absolute if it is a file: records start their relative paths from their own folder."""
    return str(Path(word).absolute()) if word is not None and Path(word).is_file() else word


def _write(out: Path, answer: dict[str, Any], lines: Path, plots: str) -> None:
    """Write the answer, its pictures in the format *plots* and the measured lines into the folder *out*, whole."""
    from sdsim.report.agreement import draw_agreement

    def fill(folder: Path) -> None:
        (folder / "agreement.json").write_text(to_json(answer, indent=2) + "\n", encoding="utf-8")
        draw_agreement(answer, folder, plots)
        if lines.exists():
            shutil.copyfile(lines, folder / "measured.jsonl")

    write_folder(out, fill)


if __name__ == "__main__":
    run_command(main)
