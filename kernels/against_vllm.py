"""Our MoE layer beside an installed vLLM's, timed in turn in one run on one GPU.

`python -m kernels.against_vllm [--out FILE] [model ...]` prints a table: microseconds, their ratio, and the share of
the GPU's own read rate; then the geometric mean, the worst points, and each side's fixed cost. FILE gets a JSON line
for the GPU and one for each point.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kernels import ceilings, measure, routing
from kernels.measure import Case
from kernels.shapes import SHAPES, Shape

MODELS = ("mixtral-8x7b", "qwen3-30b-a3b", "qwen3-235b-a22b")
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SMALL = 256  # up to here a step is a decode step
FIT = 64  # up to here memory bounds a layer, so that time is a fixed cost and bytes
Row = dict[str, Any]
Build = Callable[[Shape, int, int], Case]


def ours(shape: Shape, tokens: int, distinct: int) -> Case:
    """Our layer on routing that names *distinct* experts."""
    return measure.moe_case(shape, tokens, "uniform", distinct)


def theirs(shape: Shape, tokens: int, distinct: int) -> Case:
    """An installed vLLM's on the same."""
    from kernels import measure_vllm

    return measure_vllm.moe_case(shape, tokens, distinct)


def point(shape: Shape, tokens: int, builds: tuple[Build, Build] = (ours, theirs), rounds: int = 3) -> Row:
    """One token count: each side *rounds* times in turn, so that a drifting clock favours neither; medians."""
    distinct = min(max(shape.topk, routing.uniform_distinct(tokens, shape.experts, shape.topk)), shape.experts)
    us: tuple[list[float], list[float]] = ([], [])
    rows: list[Row] = [{}, {}]
    for i in range(rounds):
        for side in (0, 1) if i % 2 == 0 else (1, 0):
            rows[side] = builds[side](shape, tokens, distinct).measure()
            us[side].append(float(rows[side]["us_p50"]))
    mine, other = (statistics.median(found) for found in us)
    return {
        "model": shape.name, "tokens": tokens, "distinct": distinct, "bytes": rows[0]["bytes"],
        "flops": rows[0]["flops"], "backend": rows[1]["backend"], "ours_us": mine, "theirs_us": other,
        "ratio": mine / other, "ours_all_us": us[0], "theirs_all_us": us[1],
    }  # fmt: skip


def fixed_us(rows: Iterable[Row], side: str) -> float:
    """The fixed cost of t = t0 + bytes / rate, least squares of relative errors over the memory-bound points."""
    kept = [row for row in rows if row["tokens"] <= FIT]
    time, size = np.array([[row[side], row["bytes"]] for row in kept]).T
    (fixed, _), *_ = np.linalg.lstsq(np.stack([1 / time, size / time], 1), np.ones_like(time), rcond=None)
    return float(fixed)


def geometric_mean(rows: Iterable[Row]) -> float:
    """Of the ratios."""
    return math.exp(statistics.fmean(math.log(row["ratio"]) for row in rows))


def lines(rows: list[Row], read_tb_s: float) -> Iterator[str]:
    """The table and what it comes to."""
    yield f"{'model':18} {'tokens':>6} {'experts':>7} {'ours us':>9} {'theirs':>9} {'ratio':>6} {'of reads':>8}"
    for row in rows:
        share = row["bytes"] / row["ours_us"] / 1e6 / read_tb_s
        yield (
            f"{row['model']:18} {row['tokens']:6d} {row['distinct']:7d} {row['ours_us']:9.1f} "
            f"{row['theirs_us']:9.1f} {row['ratio']:6.3f} {share:8.1%}"
        )
    yield f"geometric mean of ours over {rows[0]['backend']}: {geometric_mean(rows):.3f}"
    for name in dict.fromkeys(row["model"] for row in rows):
        of = [row for row in rows if row["model"] == name]
        best = max(row["bytes"] / row["ours_us"] / 1e6 for row in of)
        worst = max((row for row in of if row["tokens"] <= SMALL), key=lambda row: row["ratio"], default=of[0])
        text = f"{name}: mean {geometric_mean(of):.3f}, worst up to {SMALL} tokens {worst['ratio']:.3f} at "
        text += f"{worst['tokens']}, at best {best / read_tb_s:.1%} of the read rate"
        if sum(row["tokens"] <= FIT for row in of) > 2:
            text += f", fixed cost {fixed_us(of, 'ours_us'):.1f} us (theirs {fixed_us(of, 'theirs_us'):.1f})"
        yield text


def write(text: str, out: Path | None = None) -> None:
    """One line to the console, or appended to a file."""
    if out is None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        return
    with out.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def main() -> None:
    """Measure, print and, with --out, keep every point."""
    parser = argparse.ArgumentParser(prog="python -m kernels.against_vllm")
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)), help="token counts, comma-separated")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side is measured, in turn")
    parser.add_argument("--out", type=Path, help="JSON lines; must not exist")
    options = parser.parse_args()
    if options.out is not None and options.out.exists():
        parser.error(f"--out: {options.out} exists; name another file")
    tokens = [int(word) for word in options.tokens.split(",")]
    from kernels import measure_vllm

    limits = ceilings.measure()
    if options.out is not None:
        write(json.dumps({"backend": measure_vllm.backend()} | limits), options.out)
    rows = []
    with measure_vllm.configured():
        for shape in (SHAPES[name] for name in options.models):
            for count in tokens:
                rows.append(point(shape, count, rounds=options.rounds))
                write(f"{shape.name} {count}: {rows[-1]['ours_us']:.1f} / {rows[-1]['theirs_us']:.1f} us")
                if options.out is not None:
                    write(json.dumps(rows[-1]), options.out)
    write("\n".join(lines(rows, float(str(limits["read_tb_s"])))))


if __name__ == "__main__":
    main()
