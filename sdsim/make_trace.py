"""Write a generated request trace.

    python -m sdsim.make_trace --kind conv|code --seconds N --seed S --out FILE.jsonl.gz

The traffic is a Poisson process whose rate is constant piece by piece, fitted to the arrivals of the
Azure LLM inference traces of 2023; lengths come from the tables azure-conv and azure-code. The same
options give the same bytes.

conv  5.53 requests/s; a slow drift (28 %, one period in 3,500 s) times a lognormal factor with a
      memory of 4.5 s. Variance over mean of the counts in 1, 10 and 60 s, over seeds: 1.4, 4.0, 15
      (Azure: 1.4, 3.9, 16).
code  2.6 requests/s; bursts of lognormal length (2.25 s) and rate (12.5/s), between them pauses of
      about a second and, one in five, of lognormal length (38 s). Counts: 13, 72, 169 (Azure: 13, 72, 164).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sdsim.arrivals import Segments, piecewise, unit_arrivals
from sdsim.command import Parser, run_command
from sdsim.lengths import length_table
from sdsim.policy import FloatArray
from sdsim.streams import stream
from sdsim.whole import write_file

LABELS = {"conv": "chat", "code": "code"}
"""Class of every request of a kind."""

EXAMPLE = """example:
  python -m sdsim.make_trace --kind conv --seconds 600 --seed 1 --out chat.jsonl.gz"""

_SEGMENTS = 256


def conversation(generator: np.random.Generator) -> Segments:
    """Yield the rates of conversation traffic: drift times a first-order autoregressive factor in steps of 0.5 s."""
    step_s, memory_s, sigma, mean, drift, period_s = 0.5, 4.5, 0.18, 5.53, 0.28, 3500.0
    keep = math.exp(-step_s / memory_s)
    level, start_s = float(generator.standard_normal()), 0.0
    while True:
        levels = np.empty(_SEGMENTS)
        for i, shock in enumerate(generator.standard_normal(_SEGMENTS)):
            levels[i] = level = keep * level + math.sqrt(1.0 - keep * keep) * shock
        times = start_s + step_s * np.arange(_SEGMENTS)
        slow = 1.0 - drift * np.cos(2.0 * math.pi * times / period_s)
        yield np.full(_SEGMENTS, step_s), mean * slow * np.exp(sigma * levels - sigma * sigma / 2.0)
        start_s += step_s * _SEGMENTS


def coding(generator: np.random.Generator) -> Segments:
    """Yield the rates of code completion traffic: bursts and pauses in turn."""
    while True:
        bursts = _lognormal(generator, 2.25, 1.2)
        rates = _lognormal(generator, 12.5, 0.55)
        short = 0.4 + 0.7 * generator.standard_exponential(_SEGMENTS)
        pauses = np.where(generator.random(_SEGMENTS) < 0.2, _lognormal(generator, 38.0, 1.0), short)
        yield np.stack((pauses, bursts), axis=1).ravel(), np.stack((np.zeros(_SEGMENTS), rates), axis=1).ravel()


def _lognormal(generator: np.random.Generator, mean: float, sigma: float) -> FloatArray:
    return mean * np.exp(sigma * generator.standard_normal(_SEGMENTS) - sigma * sigma / 2.0)


LAWS = {"conv": conversation, "code": coding}


def lines(kind: str, seconds: float, seed: int) -> Iterator[str]:
    """Yield the lines of a trace: the requests of the first *seconds*, arrivals in whole ms."""
    names = ("make_trace", kind)
    table, label = length_table(f"azure-{kind}"), LABELS[kind]
    prompts, outputs = stream(seed, *names, "prompts"), stream(seed, *names, "outputs")
    units = unit_arrivals(stream(seed, *names, "arrivals"))
    for block in piecewise(units, LAWS[kind](stream(seed, *names, "rates"))):
        times = block[block < seconds]
        lengths = table(prompts.standard_normal(len(times)), outputs.standard_normal(len(times)))
        for time, prompt, output in zip(times.tolist(), *(side.tolist() for side in lengths), strict=True):
            tokens = f'"prompt_tokens": {prompt}, "output_tokens": {output}'
            yield f'{{"arrival_s": {time:.3f}, {tokens}, "class": "{label}"}}\n'
        if len(times) < len(block):
            return


def write(path: Path, kind: str, seconds: float, seed: int) -> tuple[int, str]:
    """Write the trace to *path*, and return how many requests it has and the SHA-256 of its text."""
    count, digest = 0, hashlib.sha256()

    def fill(draft: Path) -> None:
        nonlocal count
        with draft.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
            for line in lines(kind, seconds, seed):
                text = line.encode()
                file.write(text)
                digest.update(text)
                count += 1

    write_file(path, fill)
    return count, digest.hexdigest()


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.make_trace",
        description="Write a generated request trace.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--kind", choices=sorted(LAWS), required=True, help="conversation, or code completion")
    p.add_argument("--seconds", type=float, required=True, help="length of the trace, s")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl.gz")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    p = parser()
    options = p.parse_args(arguments)
    if not 0.0 < options.seconds <= 1e7:
        p.error(f"--seconds {options.seconds:g}; over 0 and up to 1e7 is allowed; give another length")
    count, digest = write(options.out, options.kind, options.seconds, options.seed)
    sys.stdout.write(f"{options.out}: {count} requests in {options.seconds:g} s; SHA-256 of the text {digest}\n")
    sys.stdout.write(f"replay it with --set 'workload={{kind: trace, format: jsonl, path: {options.out}}}'\n")
    return 0


if __name__ == "__main__":
    run_command(main)
