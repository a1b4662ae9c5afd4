"""A GPU that is not there, for `profile_gpu`: it measures a few points, and may fail at one of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sdsim.profile_gpu import main

COUNT = 40
SECONDS = 0.003
"""What a measurement takes."""


class Point(NamedTuple):
    """A measurement to make."""

    key: str
    tier: int = 0


POINTS = [Point(f"gemm/2048x128/t{tokens}") for tokens in range(1, COUNT + 1)]
MIDDLE = POINTS[COUNT // 2]


def row(point: Point) -> dict[str, Any]:
    """Return what measuring *point* gives, each time alike."""
    tokens = int(point.key.rpartition("t")[2])
    time.sleep(SECONDS)
    figures = {"us_p10": 4.0, "us_p50": 5.0 + tokens / 100, "us_p90": 6.0, "tb_s": 1.0, "tflop_s": 2.0}
    sizes = {"kernel": "gemm", "shape": {"inputs": 2048, "outputs": 128}, "tokens": tokens}
    return {"key": point.key, **sizes, **figures, "bytes": 5e5 * tokens, "flops": 5e5 * tokens}


CUDA_ERROR = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
FULL = {"error": "CUDA out of memory. Tried to allocate 20.00 GiB"}
FAULTS = ("ceilings", "point", "memory")


def profile(words: Sequence[str]) -> int:
    """Run profile_gpu on it, its measurements logged in OUT.log.

    Behind the word `--fault` stands one of FAULTS: the GPU fails before the points, in the middle of them, or has no
    room for the point there.
    """
    words, fault = _without_fault(words)
    log = Path(words[words.index("--out") + 1] + ".log")

    def run(points: Sequence[Point], known: Collection[str], seconds: float) -> Iterator[dict[str, Any]]:
        for point in points:
            if point.key in known:
                continue
            if fault == "point" and point is MIDDLE:
                raise RuntimeError(CUDA_ERROR)
            found = {"key": point.key, "kernel": "gemm"} | FULL if fault == "memory" and point is MIDDLE else row(point)
            with log.open("a") as file:
                file.write(f"{point.key}\n")
            yield found

    def ceilings() -> dict[str, float]:
        if fault == "ceilings":
            raise RuntimeError(CUDA_ERROR)
        return {"read_tb_s": 4.5, "matmul_tflop_s": 700.0}

    _put("kernels.suite", points=lambda shapes: POINTS, run=run)
    _put("kernels.ceilings", measure=ceilings)
    _put("kernels.shapes", SHAPES={"m": "m"})
    _put("sdsim.hardware.shape", tensor_shard=lambda shape, ranks: shape)
    _put("sdsim.hardware.provenance", provenance=lambda command: {"device": "NVIDIA H200"})
    return main(["--model", "m", *words])


def _without_fault(words: Sequence[str]) -> tuple[list[str], str | None]:
    if "--fault" not in words:
        return list(words), None
    at = words.index("--fault")
    return [*words[:at], *words[at + 2 :]], words[at + 1]


def _put(name: str, **content: object) -> None:
    """Let *name* be a module of *content*, for this process."""
    import kernels

    module = ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    if name.startswith("kernels."):
        setattr(kernels, name.partition(".")[2], module)
