"""One timer for everything: calls over rotated cold inputs in a CUDA graph, replayed; median, p10 and p90 per call.

A graph removes the host's launch time. Rotation keeps data out of the 60 MB L2: as many input sets as hold four times
its size, three at least. Outputs are poisoned with NaN before and checked after, so that a kernel that writes nothing
cannot look fast. Never zeros as inputs: they read up to 13% faster in a matrix product.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._triton import L2_BYTES, cdiv

Call = Callable[[], object]
MAX_NODES = 24_000  # a graph's kernels: instantiating more takes longer than replaying them


@dataclass(frozen=True)
class Timing:
    """Microseconds per call over the replays of one graph."""

    us_p10: float
    us_p50: float
    us_p90: float
    calls: int
    replays: int
    sets: int


def sets_needed(cold_bytes: int) -> int:
    """Input sets that hold four times the L2, at least three."""
    return max(3, cdiv(4 * L2_BYTES, max(1, cold_bytes)))


def poison(outputs: Sequence[Tensor]) -> None:
    """Fill with NaN, or with -7 where a type has none."""
    for out in outputs:
        out.fill_(float("nan") if out.is_floating_point() else -7)


def check_written(outputs: Sequence[Tensor]) -> None:
    """Raise when an element still is what `poison` wrote."""
    for i, out in enumerate(outputs):
        bad = out.float().isnan() if out.is_floating_point() else out == -7  # 8-bit floats have no test of their own
        if bool(bad.any()):
            count = int(bad.sum())
            raise RuntimeError(f"output {i} {tuple(out.shape)}: {count} elements are NaN or were never written")


def _tensors(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for t in result if isinstance(t, Tensor)] if isinstance(result, tuple) else []


def capture(calls: Sequence[Call], count: int) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A graph of *count* calls, taken from *calls* in turn, and the outputs of its last three."""
    graph = torch.cuda.CUDAGraph()
    kept: list[object] = []
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for i in range(count):
            kept = [*kept[-2:], calls[i % len(calls)]()]  # dropped outputs give their memory to later calls
    return graph, [t for result in kept for t in _tensors(result)]


def replay_us(graph: torch.cuda.CUDAGraph, replays: int) -> list[float]:
    """Microseconds of each of *replays* replays, after one that warms up."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(replays)]  # type: ignore[no-untyped-call]
    graph.replay()
    for start, stop in events:
        start.record()
        graph.replay()
        stop.record()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(stop) for start, stop in events]


def time_calls(
    calls: Sequence[Call], cold_bytes: int, *, replays: int = 10, least_calls: int = 20, target_us: float = 1500.0,
    launches: int = 1,
) -> Timing:  # fmt: skip
    """Time *calls*, one per input set, that each read *cold_bytes* which must come from memory (0: inputs warm by
    nature).

    Activations are warm by nature: the kernel before has just written them. *launches* is the kernels per call, which
    bounds the graph; short graphs are lengthened toward *target_us*, so that the two events weigh little.
    """
    sets = len(calls)
    if cold_bytes and sets < sets_needed(cold_bytes):
        need = sets_needed(cold_bytes)
        raise ValueError(f"{sets} input sets of {cold_bytes} cold bytes stay in L2: {need} are needed")
    for call in calls[:: max(1, sets // 4)]:
        call()  # compiles, and creates the libraries' handles, outside the capture
    count = cdiv(least_calls, sets) * sets
    graph, outputs = capture(calls, count)
    first = min(replay_us(graph, 2))
    more = min(int(target_us / first), MAX_NODES // (count * launches))
    if more > 1:
        count *= more
        del graph, outputs
        graph, outputs = capture(calls, count)
    poison(outputs)
    us = sorted(t / count for t in replay_us(graph, replays))
    check_written(outputs)
    tenths = statistics.quantiles(us, n=10, method="inclusive")
    return Timing(tenths[0], statistics.median(us), tenths[-1], count, replays, sets)


@triton.jit
def _null(x):
    tl.store(x, 1.0)


def null_call() -> Call:
    """A launch that does nothing to speak of: what any kernel costs inside a graph."""
    x = torch.empty(1, device="cuda")

    def call() -> Tensor:
        _null[(1,)](x, num_warps=1)
        return x

    return call


def null_us(replays: int = 10) -> float:
    """Microseconds per empty kernel inside a graph."""
    return time_calls([null_call()], 0, replays=replays, target_us=1000.0).us_p50
