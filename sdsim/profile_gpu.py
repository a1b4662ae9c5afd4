"""Measure this GPU's kernels: `python -m sdsim.profile_gpu --model qwen3-30b-a3b --out h200.json`.

It needs a GPU, torch and triton, and the checkout's `kernels/` beside this package. Rows are appended to FILE.part as
they are measured, so an interrupted profile resumes with --resume and loses nothing; FILE itself appears whole.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sdsim.command import OK, Parser, run_command
from sdsim.errors import CalibrationError, ScenarioError, gpu_failure
from sdsim.files import read_json, read_text, reason
from sdsim.latency.calibration import SCHEMA
from sdsim.models import Model, load_model, model_names
from sdsim.report.progress import finished_runs
from sdsim.whole import kept_lines, write_file

EXAMPLE = """example:
  python -m sdsim.profile_gpu --model qwen3-30b-a3b,qwen2-0.5b --out h200.json --minutes 10"""
QUICK_MINUTES = 1.0
MISSING = "profile_gpu needs a checkout with kernels/, and torch and triton: pip install -e '.[gpu]' ({error})"
NO_ENGINE = "--engine: {error}; install the engine where this runs, or leave the option out to time our kernels"


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.profile_gpu",
        description="Measure the kernels of some models on this GPU, and write a calibration file.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", required=True, metavar="M[,M...]", help="names or config.json paths, drafts included")
    p.add_argument("--out", required=True, type=Path, metavar="FILE", help="the calibration file to write")
    p.add_argument("--engine", choices=["vllm"], help="time an installed engine's kernels instead of ours")
    p.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="what one of N GPUs has of each model")
    p.add_argument("--quick", action="store_true", help="the coarsest grid, in about a minute")
    p.add_argument("--minutes", type=float, default=30.0, help="stop after this long; what is missing is interpolated")
    p.add_argument("--resume", action="store_true", help="go on from FILE.part, or add models to FILE")
    return p


def shape_of(model: Model) -> Any:
    """Return the kernels' view of *model*, and which kernels to measure of it."""
    from sdsim.hardware.shape import kernel_shape

    parts = ["moe"] if model.is_moe else []
    parts += ["dense", "latent" if model.mla else "attention", "norms"]
    fits = model.layers_bytes / model.layers * 8 < 60e9
    plain = (model.weight_bytes, model.expert_bytes) == (2.0, 2.0) and not model.mla
    if plain and not model.dense_layers % model.layers and fits:
        parts.append("layers")
    return replace(kernel_shape(model), parts=tuple(parts))


def shapes(names: str, ranks: int = 1) -> list[Any]:
    """Return the shapes of a comma-separated list: the kernels' own where they know the model, else derived.

    Of each, what one of *ranks* tensor-parallel GPUs holds.
    """
    from kernels.shapes import SHAPES
    from sdsim.hardware.shape import tensor_shard

    found = [SHAPES[n] if n in SHAPES else shape_of(load_model(n)) for n in names.split(",")]
    return [tensor_shard(shape, ranks) for shape in found]


def known_rows(part: Path, out: Path, resume: bool) -> list[dict[str, Any]]:
    """Return the rows measured before. A torn line is dropped: its measurement is made again."""
    found: list[Any] = []
    try:
        for path in (part, out):
            if path.exists() and not resume:
                raise CalibrationError(f"{path}: exists already; add --resume to go on, or name another file")
        if out.exists():
            found += read_json(out)["rows"]
        for line in read_text(part).splitlines() if part.exists() else []:
            with suppress(ValueError):
                found.append(json.loads(line))
        return list({row["key"]: row for row in found}.values())
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{out}: cannot be read: {reason(error)}; name another file with --out") from None
    except (TypeError, KeyError):
        raise CalibrationError(f"{out}: not what profile_gpu wrote; name another file with --out") from None


def describe(done: int, total: int, row: dict[str, Any]) -> str:
    """Return one line about a measurement."""
    if "error" in row:
        return f"{done:5d}/{total} {row['key']:<52} {row['error']}"
    spread = f"{row['us_p10']:.1f} to {row['us_p90']:.1f}"
    rates = f"{row['tb_s']:6.2f} TB/s {row['tflop_s']:7.1f} TFLOP/s"
    return f"{done:5d}/{total} {row['key']:<52} {row['us_p50']:9.1f} us ({spread})  {rates}"


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    for name in options.model.split(","):
        if not name.strip():
            raise ScenarioError(f"--model: {options.model!r}; allowed: names such as {', '.join(model_names()[:3])}")
    if options.tensor_parallel < 1:
        raise ScenarioError(f"--tensor-parallel: {options.tensor_parallel}; allowed: 1 or more")
    try:
        from kernels import ceilings
        from sdsim.hardware.provenance import provenance

        points, running = points_of(options.engine, shapes(options.model, options.tensor_parallel))
    except ImportError as error:
        needed = MISSING if error.name != options.engine else NO_ENGINE
        raise ScenarioError(needed.format(error=error)) from None
    points = [p for p in points if not options.quick or p.tier == 0]
    part = options.out.with_name(options.out.name + ".part")
    rows = known_rows(part, options.out, options.resume)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(points)} points, {len(rows)} measured before")
    with running:
        with keeping(rows, part, lambda: "ceilings"):
            limits = ceilings.measure()
        measure(points, rows, part, 60 * (QUICK_MINUTES if options.quick else options.minutes), console)
    where = provenance("sdsim.profile_gpu") | earlier(options.out)
    write(options.out, part, {"ceilings": limits, "provenance": where, "rows": rows})
    return OK


def earlier(out: Path) -> dict[str, Any]:
    """Return where and when the rows that *out* holds already were measured; nothing if there is no such file."""
    if not out.exists():
        return {}
    found = read_json(out)
    return {"earlier": found.get("provenance", {}) | {"rows": len(found["rows"])}}


def points_of(engine: str | None, found: list[Any]) -> tuple[list[Any], AbstractContextManager[Any]]:
    """Return what to measure of the shapes *found*, and what has to hold meanwhile: our kernels, or an engine's."""
    from kernels import suite

    if engine is None:
        return suite.points(found), nullcontext()
    from kernels import measure_vllm, suite_vllm

    return suite.points(found, families=suite_vllm.FAMILIES), measure_vllm.configured()


def measure(points: list[Any], rows: list[dict[str, Any]], part: Path, seconds: float, console: Console) -> None:
    """Add to *rows*, and to *part*, what of *points* is measured within *seconds*.

    Raises CalibrationError if the GPU fails, or what measures on it; one that has no room for a point is a row.
    """
    from kernels import suite

    known = {row["key"] for row in rows}

    def at() -> str:
        measured = {row["key"] for row in rows}
        return next((p.key for p in points if p.key not in measured), "none")

    with (
        keeping(rows, part, at),
        finished_runs(console, len(points), "measuring", unit="points") as finished,
        kept_lines(part) as keep,
    ):
        for row in suite.run(points, known, seconds):
            keep(json.dumps(row))
            rows.append(row)
            console.print(describe(len(rows), len(points), row))
            finished(len(rows))


@contextmanager
def keeping(rows: list[dict[str, Any]], part: Path, at: Callable[[], str]) -> Iterator[None]:
    """Let what ends a measurement say that the *rows* are kept in *part*; a GPU that fails, what it was *at*."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*kept(rows, part)) from None
    except ScenarioError as error:
        raise CalibrationError(*error.problems, *kept(rows, part)) from None
    except RuntimeError as error:
        raise CalibrationError(gpu_failure(at(), error), *kept(rows, part)) from None


def kept(rows: list[dict[str, Any]], part: Path) -> list[str]:
    """Return the line that says that no measurement is lost."""
    return [f"{len(rows)} measured points are kept in {part}; go on with --resume"] if rows else []


def write(out: Path, part: Path, content: dict[str, Any]) -> None:
    """Write the calibration file whole, then drop the part."""
    from sdsim.gpus import gpu_names

    device = content["provenance"]["device"].lower()
    gpu = next((name for name in sorted(gpu_names(), key=len, reverse=True) if name in device), device)
    text = json.dumps({"schema": SCHEMA, "gpu": gpu, **content}, indent=None, separators=(",", ":"))
    write_file(out, lambda draft: draft.write_text(text.replace('{"key"', '\n{"key"') + "\n", encoding="utf-8"))
    part.unlink(missing_ok=True)


if __name__ == "__main__":
    run_command(main)
