"""Time single steps of a target and a draft on this GPU: `python -m sdsim.hardware.points --model M --points FILE`.

FILE is a JSON list of {"rows", "draft_length", "context"}: a step of that many rows, each with so many tokens stored,
that verifies and drafts so many tokens; length 0 is the target without a drafter. The output has each point's seconds,
by part, and the distinct experts that it touched.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdsim.command import OK, run_command
from sdsim.errors import ScenarioError
from sdsim.models import load_model
from sdsim.whole import write_file

EXAMPLE = """example of FILE:
  [{"rows": 16, "draft_length": 0, "context": 512}, {"rows": 16, "draft_length": 4, "context": 512}]"""
MISSING = "hardware needs a checkout with kernels/, and torch and triton: pip install -e '.[gpu]' ({error})"
LIMITS = {"rows": (1, 4096), "draft_length": (0, 16), "context": (0, 10**6)}
PARTS = ("step_s", "target_s", "rejection_s", "draft_s", "host_s")


class Point(NamedTuple):
    """A step of even rows."""

    rows: int
    draft_length: int
    context: int


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    p = argparse.ArgumentParser(
        "python -m sdsim.hardware.points",
        description="Time single decode steps of a whole model on this GPU.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", required=True, metavar="M", help="the target: a name or the path of a config.json")
    p.add_argument("--draft", metavar="D", help="the draft, likewise; needed for points that draft")
    p.add_argument("--points", required=True, type=Path, metavar="FILE", help="the steps to time, as JSON")
    p.add_argument("--out", required=True, type=Path, metavar="FILE", help="the JSON file to write")
    p.add_argument("--repeats", type=int, default=10, metavar="N", help="steps timed a point, default 10")
    p.add_argument("--layers", type=int, metavar="N", help="run the target's first N layers only, for a quick look")
    p.add_argument("--kv-tokens", type=int, default=0, metavar="N", help="KV memory at least, beyond what points need")
    p.add_argument("--seed", type=int, default=0, help="of tokens, coins and expert ids")
    return p


def read_points(path: Path) -> list[Point]:
    """Return the points in *path*. Raises ScenarioError with a line for each mistake."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path}: {error}; allowed: a JSON list of points; mend the file") from None
    if not isinstance(found, list) or not found:
        raise ScenarioError(f"{path}: no list of points; allowed: one or more; write as in --help")
    problems = [f"{path}: point {i}: {fault}" for i, point in enumerate(found) for fault in _faults(point)]
    if problems:
        raise ScenarioError(*problems)
    return [Point(**point) for point in found]


def _faults(point: Any) -> list[str]:
    if not isinstance(point, dict) or set(point) != set(LIMITS):
        return [f"found {point!r}; allowed: the keys {', '.join(LIMITS)}, all of them; write as in --help"]
    return [
        f"{key}: found {point[key]!r}; allowed: {low} to {high}; change it"
        for key, (low, high) in LIMITS.items()
        if not (type(point[key]) is int and low <= point[key] <= high)
    ]


def measure(
    model: str, draft: str | None, points: Sequence[Point], repeats: int = 10, layers: int | None = None,
    seed: int = 0, kv_tokens: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Load the models with room for *points* and *kv_tokens*, time the points; return what the output file holds."""
    from sdsim.hardware.executor import Executor, device_name
    from sdsim.hardware.model import Pair, free_bytes, pick_device
    from sdsim.hardware.shape import whole_shape

    started = time.perf_counter()
    target = whole_shape(load_model(model), layers)
    drafter = whole_shape(load_model(draft)) if draft else None
    device, sizes = pick_device(), _sizes(points, kv_tokens)
    executor = Executor(Pair(target, drafter, sizes, device=device), sizes, seed)
    loaded = time.perf_counter()
    _say(f"{target.name} and {drafter.name if drafter else 'no draft'} loaded in {loaded - started:.1f} s")
    rows = []
    for i, point in enumerate(points):
        rows.append(_row(executor, point, repeats))
        _say(_describe(i + 1, len(points), rows[-1]))
    return {
        "model": target.name,
        "draft": drafter.name if drafter else None,
        "layers": target.layers,
        "device": device_name(device),
        "load_s": loaded - started,
        "capture_s": executor.graphs.seconds,
        "graphs": executor.graphs.captured,
        "wall_s": time.perf_counter() - started,
        "free_bytes": free_bytes(device),
        "points": rows,
    }


def _sizes(points: Sequence[Point], kv_tokens: int) -> Any:
    from kernels.verify_attention import PAGE
    from sdsim.hardware.executor import even_shape
    from sdsim.hardware.layout import arrange
    from sdsim.hardware.model import Sizes

    longest = max(p.draft_length for p in points)
    return Sizes(
        rows=max(p.rows for p in points),
        tokens=max(p.rows * (1 + p.draft_length) for p in points),
        draft_length=longest,
        pages=max(-(-kv_tokens // PAGE), *(int(arrange(even_shape(*p)).pages.sum()) for p in points)),
        positions=max(p.context for p in points) + 2 * (longest + 1),
    )


def _row(executor: Any, point: Point, repeats: int) -> dict[str, Any]:
    """Return a point's row: medians under the parts' names, and the tenths of the whole."""
    found = executor.time_point(*point, repeats=repeats)
    medians = {name: getattr(found, name).p50 for name in PARTS}
    spread = {"step_s_p10": found.step_s.p10, "step_s_p90": found.step_s.p90, "repeats": repeats}
    experts = {"distinct_experts": found.distinct_experts, "distinct_experts_se": found.distinct_experts_se}
    return point._asdict() | medians | spread | experts


def _describe(done: int, total: int, row: dict[str, Any]) -> str:
    """Return one line about a point."""
    parts = " + ".join(f"{1e3 * row[name]:.3f}" for name in PARTS[1:4])
    at = f"rows {row['rows']:4d} draft {row['draft_length']:2d} context {row['context']:6d}"
    return f"{done:3d}/{total} {at} {1e3 * row['step_s']:9.3f} ms ({parts}) {row['distinct_experts']:7.2f} experts"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    points = read_points(options.points)
    if options.repeats < 1:
        raise ScenarioError(f"--repeats: {options.repeats}; allowed: 1 or more")
    if not options.out.absolute().parent.is_dir():
        raise ScenarioError(f"--out: {options.out}: no such folder; make it first")
    if options.draft is None and any(p.draft_length for p in points):
        raise ScenarioError("--draft: missing; needed since a point drafts; name a model, such as qwen2-0.5b")
    try:
        from sdsim.hardware.provenance import provenance
    except ImportError as error:
        raise ScenarioError(MISSING.format(error=error)) from None
    where = provenance("sdsim.hardware.points")
    asked = options.repeats, options.layers, options.seed, options.kv_tokens
    write(options.out, measure(options.model, options.draft, points, *asked) | {"provenance": where})
    return OK


def write(path: Path, content: dict[str, Any]) -> None:
    """Write *content* as JSON, whole or not at all."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    run_command(main)
