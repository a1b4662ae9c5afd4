"""What this GPU reaches: device copy, a read-only sum, a bf16 matrix product on random data, an empty graph, an empty
kernel.

`python -m kernels.ceilings` prints them as JSON. Each rate is measured short (first milliseconds) and sustained (after
two seconds), since clocks fall under load.
"""

import json
import statistics
import subprocess
import sys
import time
from functools import partial

import torch
import triton
import triton.language as tl

from kernels._triton import SMS
from kernels.timing import Call, null_call, null_us, replay_us, time_calls

GIB = 2**30


@triton.jit
def _read_only(x, out, chunk, block: tl.constexpr, unroll: tl.constexpr):
    # Sums as integers: no conversion, and every bit must arrive. The rows of a pass are independent loads in flight.
    base = x + tl.program_id(0).to(tl.int64) * chunk
    i = tl.arange(0, unroll)[:, None] * block + tl.arange(0, block)[None, :]
    total = tl.zeros((unroll, block), tl.int32)
    for start in range(0, chunk, block * unroll):
        total += tl.load(base + start + i)
    tl.store(out + tl.program_id(0), tl.sum(tl.sum(total, 1), 0))


def random_bf16(*size: int) -> torch.Tensor:
    """Normal values on the GPU."""
    return torch.empty(size, dtype=torch.bfloat16, device="cuda").normal_()


def read_call(x: torch.Tensor, programs: int, block: int, unroll: int, num_warps: int) -> Call:
    """A launch that reads all of x int32 [n] once; n must be a multiple of programs * block * unroll."""
    chunk = x.numel() // programs
    if chunk * programs != x.numel() or chunk % (block * unroll):
        raise ValueError(f"{x.numel()} elements do not divide into {programs} programs of passes of {block * unroll}")
    out = torch.empty((programs,), dtype=torch.int32, device=x.device)

    def call() -> torch.Tensor:
        _read_only[(programs,)](x, out, chunk, block, unroll, num_warps=num_warps)
        return out

    return call


READERS = [
    (waves, *pass_) for waves in (4, 8, 64) for pass_ in ((1024, 4, 8), (1024, 8, 8), (2048, 8, 16))
]  # programs per SM, then elements a row, rows a pass and warps


def read_tb_s(gib: int = 2) -> tuple[float, dict[str, float]]:
    """The best of several read-only kernels, TB/s, and every candidate's."""
    n = gib * GIB // 4 // (SMS * 64 * 16384) * (SMS * 64 * 16384)
    sets = [torch.randint(-(2**31), 2**31 - 1, (n,), dtype=torch.int32, device="cuda") for _ in range(3)]
    rates = {}
    for waves, block, unroll, warps in READERS:
        calls = [read_call(x, SMS * waves, block, unroll, warps) for x in sets]
        timing = time_calls(calls, 4 * n, replays=5)
        rates[f"{SMS * waves}x{block}x{unroll}w{warps}"] = 4 * n / timing.us_p50 / 1e6
    return max(rates.values()), rates


def copy_tb_s(gib: int = 2) -> float:
    """Device-to-device copy, TB/s of bytes read plus bytes written."""
    n = gib * GIB // 2
    pairs = [(random_bf16(n), random_bf16(n)) for _ in range(3)]
    timing = time_calls([partial(torch.neg, a, out=b) for a, b in pairs], 4 * n, replays=5)
    return 4 * n / timing.us_p50 / 1e6


def matmul_calls(size: int = 8192) -> list[Call]:
    """bf16 products of random square matrices."""
    sets = [[random_bf16(size, size) for _ in range(3)] for _ in range(3)]
    return [partial(torch.mm, a, b, out=c) for a, b, c in sets]


def matmul_tflop_s(calls: list[Call], size: int = 8192) -> float:
    """TFLOP/s of the product, the GPU cool: a short run."""
    return 2 * size**3 / time_calls(calls, 6 * size**2, replays=5, least_calls=6).us_p50 / 1e6


def sustained(calls: list[Call], seconds: float) -> float:
    """Microseconds per call at the end of *seconds* of nothing else."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(4):
            for call in calls:
                call()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        last = replay_us(graph, 5)
    return statistics.median(last) / (4 * len(calls))


def empty_graph_us() -> float:
    """Host plus device microseconds of replaying a graph of one empty kernel, back to back."""
    call = null_call()
    call()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call()
    graph.replay()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(1000):
        graph.replay()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def clocks() -> dict[str, str]:
    """What nvidia-smi reads now; nothing is set."""
    fields = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_throttle_reasons.active"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    return dict(zip(fields.split(","), (v.strip() for v in text.splitlines()[0].split(",")), strict=False))


def measure(seconds: float = 2.0) -> dict[str, object]:
    """All ceilings; about *seconds* x 2 plus ten seconds."""
    properties = torch.cuda.get_device_properties(0)
    before = clocks()
    read, readers = read_tb_s()
    copy = copy_tb_s()
    products = matmul_calls()
    flop = 2 * 8192**3
    short = matmul_tflop_s(products)
    n = 2 * GIB // 4 // (SMS * 64 * 16384) * (SMS * 64 * 16384)
    x = [torch.randint(-(2**31), 2**31 - 1, (n,), dtype=torch.int32, device="cuda") for _ in range(3)]
    reads = [read_call(v, SMS * 8, 1024, 8, 8) for v in x]
    return {
        "gpu": properties.name, "sms": properties.multi_processor_count, "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory, "torch": torch.__version__, "triton": triton.__version__,
        "cuda": torch.version.cuda, "read_tb_s": read, "readers_tb_s": readers, "copy_tb_s": copy,
        "matmul_tflop_s": short, "matmul_sustained_tflop_s": flop / sustained(products, seconds) / 1e6,
        "clocks_after_matmul": clocks(), "read_sustained_tb_s": 4 * n / sustained(reads, seconds) / 1e6,
        "null_kernel_us": null_us(), "graph_launch_us": empty_graph_us(), "clocks_before": before,
        "clocks_after": clocks(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=1) + "\n")
