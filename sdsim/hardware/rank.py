"""One GPU's part in the measurements of `sdsim.hardware.collectives`, which starts a process for each.

`python -m sdsim.hardware.rank JOB`, JOB being JSON. All ranks walk the same points; the first one writes a line each.
What a point takes is the slowest rank's time.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels import routing
from kernels._triton import UPCAST
from sdsim.hardware.graphs import LEAST_LEAD_S, hold_back
from sdsim.hardware.parallel_layer import ExpertLayer, ParallelModel, TensorLayer
from sdsim.hardware.shape import expert_shard, tensor_shard, whole_shape
from sdsim.models import load_model

TARGET_S = 4e-3
"""A graph is made to run about this long, so that the ranks' different starts weigh little."""
SHORTEST_S = 5e-6
DOUBLINGS = 100
"""A buffer is summed this often at most between fillings: bfloat16 holds 2^127."""
POINT_TIMEOUT = timedelta(seconds=90)
Row = dict[str, Any]


class Ranks:
    """This process among the others: *control* passes Python objects, the default group the measured data."""

    def __init__(self, job: Row) -> None:
        self.rank, self.ranks, self.nccl = job["rank"], job["ranks"], job["backend"] == "nccl"
        self.device = f"cuda:{self.rank}" if self.nccl else "cpu"
        self.dtype = torch.float32 if UPCAST else torch.bfloat16
        self.deadline = job["deadline"]
        if self.nccl:
            torch.cuda.set_device(self.rank)
        place = {"rank": self.rank, "world_size": self.ranks}
        dist.init_process_group(job["backend"], init_method=job["meeting"], timeout=POINT_TIMEOUT, **place)
        self.flag = torch.zeros(1, device=self.device)
        self.control = dist.new_group(backend="gloo", timeout=POINT_TIMEOUT)

    def agree(self, mine: object) -> list[Any]:
        """Return what every rank brings."""
        found: list[Any] = [None] * self.ranks
        dist.all_gather_object(found, mine, group=self.control)
        return found

    def late(self) -> bool:
        """Return whether the first rank finds the time over."""
        return bool(self.agree(time.time() > self.deadline)[0])

    def synchronise(self) -> None:
        """Wait for the GPU and for the other ranks."""
        if self.nccl:
            torch.cuda.synchronize()
        dist.barrier(group=self.control)

    def repeated(self, calls: list[Callable[[], object]], count: int) -> Callable[[], object]:
        """Return what runs *count* calls, taken in turn: a captured graph, or on a CPU a loop."""

        def run() -> None:
            for i in range(count):
                calls[i % len(calls)]()

        if not self.nccl:
            return run
        graph = torch.cuda.CUDAGraph()
        self.synchronise()
        # the watchdog's thread may ask for events meanwhile, which a global capture would take for a mistake
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
        replay: Callable[[], object] = graph.replay
        return replay

    def seconds(self, run: Callable[[], object]) -> float:
        """Return how long *run* takes on this GPU, s.

        The GPUs are held back until the hosts have launched everything, and start together after a small sum.
        """
        self.synchronise()
        if not self.nccl:
            started = time.perf_counter()
            run()
            return time.perf_counter() - started
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        hold_back(LEAST_LEAD_S)
        dist.all_reduce(self.flag)
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return 1e-3 * float(start.elapsed_time(stop))

    def time(self, calls: list[Callable[[], object]], refill: Callable[[], object], replays: int, most: int) -> Row:
        """Return the microseconds of a call: tenths and median over *replays* of the slowest rank's mean.

        *refill* restores the inputs; *most* calls are captured at most.
        """
        refill()
        for call in calls[:3]:
            call()
        refill()
        first = max(max(self.agree(self.seconds(calls[0]))), SHORTEST_S)
        count = max(1, min(math.ceil(TARGET_S / first), most)) if self.nccl else 1
        run = self.repeated(calls, count)
        refill()
        self.seconds(run)
        mine = [self.seconds(run) / count for _ in range(replays)]
        slowest = sorted(1e6 * max(one) for one in zip(*self.agree(mine), strict=True))
        tenths = statistics.quantiles(slowest, n=10, method="inclusive")
        return {"us_p10": tenths[0], "us_p50": statistics.median(slowest), "us_p90": tenths[-1], "calls": count}


def collective_points(ranks: Ranks, job: Row) -> Iterator[Row]:
    """Yield a row for each operation and size; see `sdsim.latency.collectives` for what `bytes` means."""
    width = torch.empty((), dtype=ranks.dtype).element_size()
    for size in (2**i for i in range(10, int(math.log2(job["largest"])) + 1)):
        for op in ("all_reduce", "all_to_all"):
            sent = 1 if op == "all_reduce" else ranks.ranks / (ranks.ranks - 1)
            elements = -(-math.ceil(size * sent / width) // ranks.ranks) * ranks.ranks
            yield {"kind": "collective", "op": op, "ranks": ranks.ranks, "bytes": size} | _collective(
                ranks, op, elements, job["replays"]
            )


def _collective(ranks: Ranks, op: str, elements: int, replays: int) -> Row:
    sets = max(3, min(40, 2**22 // elements))
    buffers = [torch.empty(elements, dtype=ranks.dtype, device=ranks.device) for _ in range(sets)]
    received = torch.empty_like(buffers[0])

    def refill() -> None:
        for buffer in buffers:
            buffer.normal_()

    def exchange(i: int) -> Callable[[], object]:
        if op == "all_reduce":
            return lambda: dist.all_reduce(buffers[i])
        return lambda: dist.all_to_all_single(received, buffers[i])

    most = max(1, sets * DOUBLINGS // (replays + 5))
    return ranks.time([exchange(i) for i in range(sets)], refill, replays, most)


def step_points(ranks: Ranks, job: Row) -> Iterator[Row]:
    """Yield a row for each composed step of a whole model: layers, final norm, head and, if divided, its logits."""
    shape, expert = whole_shape(load_model(job["model"]), job["layers"]), job["parallel"] == "expert"
    context, batches, widths = job["context"], job["batches"], job["q_lens"]
    mine = -(-max(batches) // ranks.ranks) if expert else max(batches)
    shard = expert_shard(shape, ranks.ranks) if expert else tensor_shard(shape, ranks.ranks)
    kind = ExpertLayer if expert else TensorLayer
    model = ParallelModel(kind, shard, mine, context, not expert, ranks.dtype, ranks.device)
    for batch in (b for b in batches if b % ranks.ranks == 0 or not expert):
        for q_len in widths:
            rows = batch // ranks.ranks if expert else batch
            distinct = _inject(ranks, model, shard, batch * q_len)
            x = torch.empty((rows * q_len, shape.hidden), dtype=ranks.dtype, device=ranks.device)
            yield {
                "kind": "step", "model": shape.name, "parallel": job["parallel"], "ranks": ranks.ranks,
                "layers": shape.layers, "batch": batch, "q_len": q_len, "context": context, "distinct": distinct,
            } | _step(ranks, model, x, (rows, q_len, context), job["replays"])  # fmt: skip


def _inject(ranks: Ranks, model: ParallelModel, shard: Any, tokens: int) -> int | None:
    """Give every layer expert ids of its shard, under the uniform law; return how many distinct ones the first has."""
    if not shard.experts:
        return None
    generator = torch.Generator(device=ranks.device).manual_seed(tokens)
    for layer in model.layers:
        layer.expert_ids = routing.inject_topk_ids(tokens, shard.experts, shard.topk, generator=generator)
    return int(routing.distinct_experts(model.layers[0].expert_ids))


def _step(ranks: Ranks, model: ParallelModel, x: Tensor, at: tuple[int, int, int], replays: int) -> Row:
    kept: list[Tensor] = []

    def call() -> None:
        kept[:] = [model.step(x, *at)]

    row = ranks.time([call], x.normal_, replays, 3)
    if not bool(kept[0].isfinite().all()):
        raise RuntimeError("the step's logits are not finite")
    return row


POINTS = {"collectives": collective_points, "step": step_points}


def main(words: list[str]) -> None:
    """Measure the job's points until they or the time end; the first rank prints a row a line."""
    warnings.simplefilter("ignore")
    job = json.loads(words[0])
    ranks = Ranks(job)
    for row in POINTS[job["what"]](ranks, job):
        if ranks.rank == 0:
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
        if ranks.late():
            break
    ranks.synchronise()
    sys.stdout.flush()
    os._exit(0)  # a communicator that graphs used may hang when it is torn down


if __name__ == "__main__":
    main(sys.argv[1:])
