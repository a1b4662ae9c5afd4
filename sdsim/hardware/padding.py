"""Does padding of captured batches load experts? `python -m sdsim.hardware.padding --model M --out FILE.jsonl`.

An engine runs a batch of T tokens in the graph of P >= T tokens; what fills the rest goes through the router too. Here
the router itself chooses, on random weights, and its choices are counted, for three fillings: `none` (a graph of T),
`same` (one token at the start of a text, P - T times) and `stale` (what earlier batches left there: other tokens). FILE
has a line for the run and one for each batch and filling: the step's seconds, its distinct experts, and what the
simulator says: `stale` tokens count as tokens, `same` ones together as a single one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdsim.command import OK, run_command
from sdsim.errors import ScenarioError
from sdsim.experts import make_routing
from sdsim.hardware.lines import Line, json_lines, say, whole_list
from sdsim.hardware.points import MISSING
from sdsim.latency.engine_overhead import load_engine, padded
from sdsim.models import load_model

FILLINGS = ("none", "same", "stale")
CONTEXT = 64
"""Tokens that a real row has stored."""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    p = argparse.ArgumentParser(
        "python -m sdsim.hardware.padding", description="Time batches padded to a graph's size."
    )
    p.add_argument("--model", required=True, metavar="M", help="a MoE model: a name or the path of a config.json")
    p.add_argument("--tokens", default="3,5,9,17,25,33,49,65,97,129", metavar="T,...", help="tokens of the batches")
    p.add_argument("--engine", default="vllm-0.22.1", help="whose captured sizes (default vllm-0.22.1)")
    p.add_argument("--to", type=int, metavar="P", help="pad every batch to P tokens instead")
    p.add_argument("--repeats", type=int, default=10, metavar="N", help="batches a point (default 10)")
    p.add_argument("--layers", type=int, metavar="N", help="run the first N layers only")
    p.add_argument("--seed", type=int, default=0, help="of weights and tokens")
    p.add_argument("--out", required=True, type=Path, metavar="FILE", help="the JSON lines to write")
    return p


def expected(filling: str, tokens: int, padding: int, experts: int, topk: int) -> float:
    """Return the distinct experts of a layer under uniform routing."""
    extra = {"none": 0, "same": min(padding, 1), "stale": padding}[filling]
    count = tokens + extra
    return make_routing(experts, topk).distinct_uniform_rows(count, count)


class Batches:
    """A target whose routers choose, and batches of one token a row: *rows* of them at most."""

    def __init__(self, shape: Any, rows: int, device: str, seed: int) -> None:
        import torch

        from kernels.layer import PAGE, Cache
        from sdsim.hardware.graphs import Graphs, Timer
        from sdsim.hardware.model import Pair, Sizes

        torch.manual_seed(seed)
        per = -(-(CONTEXT + 1) // PAGE)
        sizes = Sizes(rows=rows, tokens=rows, draft_length=0, pages=rows * per, positions=CONTEXT + 1)
        self.shape, self.device, self.graphs = shape, device, Graphs(device)
        self._timed = Timer(device)
        self.target = Pair(shape, None, sizes, device=device).target
        self.cache = Cache(rows, CONTEXT + 1, shape.head_dim, device)
        self.tokens = torch.zeros(rows, dtype=torch.int32, device=device)
        self.lengths = torch.ones(rows, dtype=torch.int32, device=device)
        self.chosen = [torch.zeros((rows, shape.topk), dtype=torch.int32, device=device) for _ in self.target.layers]

    def fill(self, tokens: int, filling: str) -> None:
        """Draw new tokens; those beyond *tokens* are padding."""
        self.tokens.random_(self.shape.vocab)
        self.lengths.fill_(CONTEXT + 1)
        if filling == "same":
            self.tokens[tokens:] = 0
            self.lengths[tokens:] = 1

    def step(self, run: int) -> float:
        """Run *run* tokens; return the seconds on the GPU."""
        seconds, _ = self._timed([self.graphs.get(run, lambda: self._call(run))])
        return seconds[0]

    def _call(self, run: int) -> Any:
        from kernels.layer import Rows

        rows = [Rows(1, self.cache.block_table[:run], self.lengths[:run], CONTEXT + 1)]
        tokens = self.tokens[:run]
        return lambda depth: _drop(self.target.states(tokens, rows, depth=depth))

    def distinct(self, run: int) -> float:
        """Run once more without a graph, noting what the routers choose; return the mean distinct experts."""
        for layer, chosen in zip(self.target.layers, self.chosen, strict=True):
            layer.routed = chosen
        self._call(run)(None)
        for layer in self.target.layers:
            layer.routed = None
        return sum(int(ids[:run].unique().numel()) for ids in self.chosen) / len(self.chosen)


def _drop(_result: object) -> None:
    """Take a result whose value nobody reads."""


def measured(batches: Batches, tokens: int, run: int, filling: str, repeats: int) -> Line:
    """Return one batch and filling: medians over *repeats* fresh batches."""
    import numpy as np

    size = tokens if filling == "none" else run
    seconds, experts = [], []
    for i in range(repeats + 1):
        batches.fill(tokens, filling)
        took = batches.step(size)
        if i:  # the first one warms up
            seconds.append(took)
            experts.append(batches.distinct(size))
    low, median, high = np.quantile(seconds, (0.1, 0.5, 0.9)).tolist()
    shape = batches.shape
    return {
        "tokens": tokens, "run": size, "filling": filling, "step_s": median, "step_s_p10": low, "step_s_p90": high,
        "distinct_experts": sum(experts) / repeats,
        "predicted_experts": expected(filling, tokens, size - tokens, shape.experts, shape.topk),
    }  # fmt: skip


def batch_sizes(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Return (tokens, tokens of the graph) of each batch that a graph pads."""
    counts = whole_list("--tokens", options.tokens, 1, 4096)
    if options.repeats < 1:
        raise ScenarioError(f"--repeats: {options.repeats}; allowed: 1 or more")
    sizes = load_engine(options.engine).capture_sizes(max(counts), 0) if options.to is None else (options.to,)
    found = [(count, padded(count, sizes)) for count in counts]
    kept = [(count, run) for count, run in found if run > count]
    if not kept:
        raise ScenarioError(f"--tokens: {options.tokens}; no graph of {sizes or 'that engine'} pads any; name others")
    return kept


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    todo = batch_sizes(options)
    try:
        from sdsim.hardware.executor import device_name
        from sdsim.hardware.model import pick_device
        from sdsim.hardware.provenance import provenance
        from sdsim.hardware.shape import whole_shape
    except ImportError as error:
        raise ScenarioError(MISSING.format(error=error)) from None
    shape = whole_shape(load_model(options.model), options.layers)
    if not shape.experts:
        raise ScenarioError(f"--model: {shape.name} has no experts; allowed: a MoE model; name one")
    device = pick_device()
    batches = Batches(shape, max(run for _, run in todo), device, options.seed)
    head = {"kind": "padding", "model": shape.name, "layers": shape.layers, "device": device_name(device)}
    head |= {"repeats": options.repeats, "provenance": provenance("sdsim.hardware.padding")}
    with json_lines(options.out, head) as append:
        for tokens, run in todo:
            for filling in FILLINGS:
                line = measured(batches, tokens, run, filling, options.repeats)
                append(line)
                say(f"{tokens:4d} tokens in {line['run']:4d}, {filling:5}: {1e3 * line['step_s']:8.3f} ms, "
                    f"{line['distinct_experts']:6.2f} experts ({line['predicted_experts']:.2f} predicted)")  # fmt: skip
    return OK


if __name__ == "__main__":
    run_command(main)
