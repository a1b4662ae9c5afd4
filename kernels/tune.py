"""Times the candidate MoE configurations of each shape and token count, and writes the winners to tuned_h200.json,
which configs.py reads.

`python -m kernels.tune [--seconds N] [--out FILE] [model ...]`. Both GEMMs are timed apart, on cold weights and uniform
routing; the best pair of each block_m is then timed as a whole layer, since block_m decides the tile list of both.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels import configs, measure, moe, routing
from kernels.configs import Gemm, Moe
from kernels.shapes import SHAPES, Shape
from kernels.timing import sets_needed, time_calls

TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 4096, 8192, 2, 8, 32, 2048)
SETS = 4


def write(text: str) -> None:
    """One line to the console."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def quick(call: Callable[[int, Any], Tensor], cold_bytes: int, config: Gemm | Moe) -> float:
    """Microseconds of call(set number, config): fewer repetitions than a measurement has, enough to rank."""
    calls = [partial(call, i, config) for i in range(sets_needed(cold_bytes))]
    return time_calls(calls, cold_bytes, replays=3, least_calls=6, target_us=400.0).us_p50


def key_of(s: Shape) -> configs.MoeKey:
    """What names a shape's layer in the table."""
    return configs.MoeKey(s.experts, s.topk, s.hidden, s.expert_intermediate, s.expert_format)


class Bench:
    """The inputs of one (shape, tokens), on which every candidate is timed."""

    def __init__(self, shape: Shape, tokens: int, device: str = "cuda") -> None:
        self.shape, self.tokens = shape, tokens
        self.key = key_of(shape)
        generator = torch.Generator(device=device).manual_seed(tokens)
        self.xs = measure.activations(tokens, shape.hidden, device=device, sets=SETS)
        self.logits = [
            routing.inject_logits(
                routing.inject_topk_ids(tokens, shape.experts, shape.topk, generator=generator), shape.experts
            )
            for _ in range(SETS)
        ]
        self.routed = [routing.top_k(logits, shape.topk, shape.renormalise) for logits in self.logits]
        self.weights = measure.expert_weights(shape, device)
        distinct = routing.distinct_experts(self.routed[0][1])
        self.bytes = measure.moe_bytes(shape, tokens, distinct)

    def gemms(self, block_m: int) -> Moe:
        """The fastest gate+up and the fastest down of the candidates for *block_m*."""
        many = self.tokens > block_m
        weights = self.key.weights
        ups, downs = (configs.candidates(t, weights, block_m, many) for t in (configs.GATE_UP, configs.DOWN))
        first, second = moe.gemms(weights)
        tiles = [moe.tiles_for(ids, self.shape.experts, block_m) for _, ids in self.routed]
        hidden = [first(x, self.w(i)[0], self.routed[i][1], tiles[i], ups[0]) for i, x in enumerate(self.xs)]

        def up(i: int, config: Gemm) -> Tensor:
            r = i % SETS
            return first(self.xs[r], self.w(i)[0], self.routed[r][1], tiles[r], config)

        def down(i: int, config: Gemm) -> Tensor:
            r = i % SETS
            return second(hidden[r], self.w(i)[1], *self.routed[r], tiles[r], config)

        up_us = {c: quick(up, self.bytes * 2 // 3, c) for c in ups}
        down_us = {c: quick(down, self.bytes // 3, c) for c in downs}
        return Moe(min(ups, key=up_us.__getitem__), min(downs, key=down_us.__getitem__))

    def w(self, i: int) -> tuple[moe.Experts, moe.Experts]:
        """The i-th set's weights: 4 routings x 3 copies are 12 disjoint parts of memory."""
        return self.weights[i % len(self.weights)]

    def layer_us(self, config: Moe) -> float:
        """The whole layer under *config*."""
        s = self.shape

        def call(i: int, config: Moe) -> Tensor:
            r = i % SETS
            return moe.moe(self.xs[r], self.logits[r], *self.w(i), s.topk, s.renormalise, config=config)

        return quick(call, self.bytes, config)

    def best(self) -> tuple[Moe, float, float]:
        """The fastest configuration, its time, and the rule's."""
        found = {c: self.layer_us(c) for c in map(self.gemms, self.block_ms())}
        rule = configs.rule(self.key, self.tokens)
        found.setdefault(rule, self.layer_us(rule))
        config = min(found, key=found.__getitem__)
        return config, found[config], found[rule]

    def block_ms(self) -> list[int]:
        """The rule's block_m; where experts hold several tokens but tiles are not yet full, its neighbours too."""
        start = configs.block_m_for(self.key, self.tokens)
        per_expert = self.tokens * self.shape.topk / self.shape.experts
        near = {start, start // 2, 2 * start} if 4 <= per_expert <= 64 else {start}
        return sorted(near & configs.GATE_UP[self.key.weights].keys())


def tune(
    shapes: list[Shape], seconds: float, known: dict[tuple[configs.MoeKey, int], Moe]
) -> Iterator[dict[str, object]]:
    """Rows of the table, one per (shape, tokens), until time is up; *known* entries are skipped."""
    end = time.monotonic() + seconds
    for tokens in TOKENS:
        for shape in shapes:
            key = key_of(shape)
            if (key, tokens) in known or time.monotonic() > end:
                continue
            bench = Bench(shape, tokens)
            config, us, ruled = bench.best()
            rate = bench.bytes / us / 1e6
            write(f"{shape.name:18} T={tokens:5} {us:8.1f} us {rate:5.2f} TB/s, rule {ruled:8.1f} us: {config}")
            yield configs.as_row(key, tokens, config) | {"us": us, "rule_us": ruled}


def main() -> None:
    """Tune and write, entry by entry, so that an interruption keeps what was found."""
    parser = argparse.ArgumentParser(prog="python -m kernels.tune")
    parser.add_argument("models", nargs="*", default=[s.name for s in SHAPES.values() if s.experts])
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--out", type=Path, default=configs.TABLE)
    parser.add_argument("--again", action="store_true", help="time what the table holds already, and replace it")
    options = parser.parse_args()
    shapes = [SHAPES[m] for m in options.models]
    rows = json.loads(options.out.read_text())["moe"] if options.out.exists() else []
    known = {} if options.again else configs.table(options.out)
    for row in tune(shapes, options.seconds, known):
        rows = [*(r for r in rows if configs.key_of_row(r) != configs.key_of_row(row)), row]
        options.out.write_text(json.dumps({"gpu": torch.cuda.get_device_name(), "moe": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
