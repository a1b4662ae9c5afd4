"""Time mixed steps on this GPU: `python -m sdsim.hardware.mixed --model M --draft D --out FILE.jsonl`.

A step verifies and drafts K tokens for each of n decode rows while it prefills a chunk of c prompt tokens. In a MoE the
chunk loads most experts anyway, so that verification adds few bytes, until the chunk makes the step compute-bound. FILE
has a line for the run and one for each (n, K, c): the measured parts, and what the simulator predicts for this GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sdsim.command import OK, run_command
from sdsim.drafts import make_draft
from sdsim.errors import ScenarioError
from sdsim.experts import Routing, make_routing
from sdsim.gpus import gpu_of_device, load_gpu
from sdsim.hardware.lines import Line, json_lines, say, whole_list
from sdsim.hardware.points import MISSING, PARTS
from sdsim.latency.calibrated import make_kernels
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import load_engine
from sdsim.latency.prices import even_step
from sdsim.models import Model, load_model


class Mix(NamedTuple):
    """Decode rows, draft length and chunk of a step."""

    rows: int
    draft_length: int
    chunk: int

    @property
    def tokens(self) -> int:
        """Target positions."""
        return self.rows * (1 + self.draft_length) + self.chunk


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    p = argparse.ArgumentParser("python -m sdsim.hardware.mixed", description="Time steps that decode and prefill.")
    p.add_argument("--model", required=True, metavar="M", help="the target: a name or the path of a config.json")
    p.add_argument("--draft", metavar="D", help="the draft, likewise; needed for draft lengths over 0")
    p.add_argument("--rows", default="1,4,16,64,128,256", metavar="N,...", help="decode rows")
    p.add_argument("--draft-length", default="0,1,2,4,8", metavar="K,...", help="draft lengths; 0 loads no drafter")
    p.add_argument("--chunk", default="0,128,256,512,1024,2048,4096", metavar="C,...", help="prompt tokens beside them")
    p.add_argument("--context", type=int, default=512, metavar="TOKENS", help="stored of each row (default 512)")
    p.add_argument("--most-tokens", type=int, default=8192, metavar="N", help="leave out steps of more positions")
    p.add_argument("--repeats", type=int, default=5, metavar="N", help="steps timed a point (default 5)")
    p.add_argument("--layers", type=int, metavar="N", help="run the target's first N layers only")
    p.add_argument("--calibration", metavar="FILE", help="predict with this calibration, or `roofline`")
    p.add_argument("--seed", type=int, default=0, help="of tokens, coins and expert ids")
    p.add_argument("--out", required=True, type=Path, metavar="FILE", help="the JSON lines to write")
    return p


def mixes(options: argparse.Namespace) -> list[Mix]:
    """Return the steps to time, OFF first: what others are compared with."""
    rows = whole_list("--rows", options.rows, 1, 4096)
    lengths = whole_list("--draft-length", options.draft_length, 0, 16)
    chunks = whole_list("--chunk", options.chunk, 0, 65536)
    if options.draft is None and lengths[-1]:
        raise ScenarioError("--draft: missing; needed for draft lengths over 0; name a model, such as qwen2-0.5b")
    if options.repeats < 1 or options.context < 1:
        raise ScenarioError("--repeats and --context: allowed: 1 or more")
    found = [Mix(n, k, c) for k in sorted({0, *lengths}) for n in rows for c in chunks]
    return [mix for mix in found if mix.tokens <= options.most_tokens]


class Prediction:
    """What the simulator says of the same steps; nothing where the device is no GPU that it knows."""

    def __init__(self, target: Model, draft: str | None, device: str, calibration: str | None) -> None:
        self._routing: Routing = make_routing(target.experts, target.experts_per_token)
        self._draft = make_draft("model", target, draft) if draft else None
        name = gpu_of_device(device)
        self._latency = None
        if name is not None:
            kernels = make_kernels(load_gpu(name), calibration)
            self._latency = ComposedLatency(target, self._draft, kernels, load_engine("ideal"))

    def line(self, mix: Mix, context: int) -> Line:
        """Return the predicted seconds by part, and experts, of a step."""
        shape = even_step(
            self._routing, mix.rows, mix.draft_length, context, "on" if mix.draft_length else "dropped", mix.chunk
        )
        experts = {"predicted_experts": shape.distinct_experts}
        if self._latency is None:
            return experts
        cost = self._latency.cost(shape)
        parts = {"step_s": cost.seconds, "target_s": cost.target_s, "rejection_s": cost.reject_s}
        parts |= {"draft_s": cost.draft_s}
        return experts | {f"predicted_{name}": s for name, s in parts.items()} | {"data_quality": cost.quality}


def sizes(steps: Sequence[Mix], context: int) -> Any:
    """Return the most that any of *steps* holds."""
    from sdsim.hardware.executor import even_shape
    from sdsim.hardware.layout import arrange
    from sdsim.hardware.model import Sizes

    longest = max(mix.draft_length for mix in steps)
    shapes = [even_shape(mix.rows, mix.draft_length, context, mix.chunk) for mix in steps]
    return Sizes(
        rows=max(mix.rows for mix in steps) + 1,
        tokens=max(mix.tokens for mix in steps),
        draft_length=longest,
        pages=max(int(arrange(shape).pages.sum()) for shape in shapes),
        positions=max(context, *(mix.chunk for mix in steps)) + 2 * (longest + 1),
    )


def measured(executor: Any, mix: Mix, context: int, repeats: int) -> Line:
    """Return a point's medians by part, and the tenths of the whole."""
    found = executor.time_point(mix.rows, mix.draft_length, context, repeats, mix.chunk)
    medians = {name: getattr(found, name).p50 for name in PARTS}
    spread = {"step_s_p10": found.step_s.p10, "step_s_p90": found.step_s.p90}
    return mix._asdict() | {"context": context} | medians | spread | {"distinct_experts": found.distinct_experts}


def surface(rows: Sequence[Line]) -> list[str]:
    """Return a table: how much longer the target takes when it verifies K drafts a row, by rows and chunk."""
    off = {(r["rows"], r["chunk"]): r["target_s"] for r in rows if not r["draft_length"]}
    lengths = sorted({r["draft_length"] for r in rows} - {0})
    by_mix = {(r["rows"], r["draft_length"], r["chunk"]): r["target_s"] for r in rows}
    head = f"{'rows':>5} {'chunk':>6} {'OFF ms':>9}" + "".join(f"{f'K={k}':>8}" for k in lengths)
    table = ["Target time with K drafts a row over OFF", head]
    for (n, c), base in sorted(off.items()):
        cells = [f"{by_mix[n, k, c] / base:8.3f}" if (n, k, c) in by_mix else " " * 8 for k in lengths]
        table.append(f"{n:5d} {c:6d} {1e3 * base:9.3f}" + "".join(cells))
    return table


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    steps = mixes(options)
    if not steps:
        raise ScenarioError(f"--most-tokens: {options.most_tokens}; no step has so few positions; raise it")
    try:
        from sdsim.hardware.executor import Executor, device_name
        from sdsim.hardware.model import Pair, pick_device
        from sdsim.hardware.provenance import provenance
        from sdsim.hardware.shape import whole_shape
    except ImportError as error:
        raise ScenarioError(MISSING.format(error=error)) from None
    model, room = load_model(options.model), sizes(steps, options.context)
    target = whole_shape(model, options.layers)
    drafter = whole_shape(load_model(options.draft)) if options.draft else None
    device = pick_device()
    predicted = Prediction(
        replace(model, layers=target.layers), options.draft, device_name(device), options.calibration
    )
    executor = Executor(Pair(target, drafter, room, device=device), room, options.seed)
    head = {"kind": "mixed steps", "model": target.name, "draft": drafter.name if drafter else None}
    head |= {"layers": target.layers, "device": device_name(device), "repeats": options.repeats}
    rows: list[Line] = []
    with json_lines(options.out, head | {"provenance": provenance("sdsim.hardware.mixed")}) as append:
        for mix in steps:
            rows.append(measured(executor, mix, options.context, options.repeats))
            append(rows[-1] | predicted.line(mix, options.context))
            say(f"{len(rows):4d}/{len(steps)} {mix.rows:4d} rows K={mix.draft_length} chunk {mix.chunk:5d} "
                f"{1e3 * rows[-1]['step_s']:9.3f} ms")  # fmt: skip
    for line in surface(rows):
        say(line)
    return OK


if __name__ == "__main__":
    run_command(main)
