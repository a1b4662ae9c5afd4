"""The calibration file: what `profile_gpu` measured on one GPU, as JSON rows with their provenance.

Needs the standard library only, so that the machine with the GPU can write it. A row is one kernel at one point:
`kernel`, `shape` (its dimensions, and `weights` where their format is not bf16), `tokens`, `distinct`, `batch`,
`context`, `q_len` as they apply, `us_p50`, and the `bytes` and `flops` of the point. All of it is data of anybody's:
what a price needs of a row is checked here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from sdsim.errors import CalibrationError
from sdsim.files import parse_json, read_text, reason
from sdsim.units import shown

SCHEMA = 1
FORMATS = ("bf16", "fp8", "mxfp4")
"""What a shape's weights may be in; bf16 where it does not say."""
HEADS = ("heads", "kv_heads", "head_dim")
DIMENSIONS = {
    "gemm": ("inputs", "outputs"),
    "moe": ("experts", "topk", "hidden", "intermediate"),
    "attention": HEADS,
    "latent": ("heads", "rank", "rope"),
    "prefill": HEADS,
    "rope": HEADS,
    "norm": ("hidden",),
    "silu_mul": ("intermediate",),
    "rejection": ("vocab",),
}
"""What tells one shape of a kernel from another."""
SIZES = {
    "gemm": ("tokens",),
    "moe": ("tokens", "distinct"),
    "attention": ("batch", "context", "q_len"),
    "latent": ("batch", "context", "q_len"),
    "prefill": ("tokens", "context"),
    "rope": ("tokens",),
    "norm": ("tokens",),
    "silu_mul": ("tokens",),
    "rejection": ("tokens",),
}
"""What tells one point of a shape from another."""
CHECKS = frozenset({"draft", "eagle", "layers"})
"""Kernels that check the composition of the others, and price nothing."""
MOST_ROWS, MOST_POINTS, MOST_EXPERTS = 10_000, 500, 4096
"""Of a file, of one shape, of one layer: several times what is profiled, and tables of them fit any memory."""
LARGEST = 2**24
MICROSECONDS = (1e-3, 1e9)
WORK = (0, 1e24)
RATES = {"read_tb_s": (1e-3, 1e6), "matmul_tflop_s": (1e-3, 1e9)}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured rows of one GPU. Rates in bytes/s and flop/s."""

    name: str
    gpu: str
    read_bytes_per_s: float
    flops_per_s: float
    rows: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]

    def of(self, kernel: str) -> list[dict[str, Any]]:
        """Return the rows of *kernel*."""
        return [row for row in self.rows if row["kernel"] == kernel]


def shipped_calibrations() -> dict[str, str]:
    """Return the newest shipped calibration of each GPU: GPU name to file name."""
    folder = resources.files("sdsim").joinpath("data/calibrations")
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".json")) if folder.is_dir() else []
    return {name.split("-", 1)[0]: name for name in names}


@lru_cache
def load_shipped(gpu: str) -> Calibration | None:
    """Return the shipped calibration of *gpu*, or None; read once a process, since every run of a comparison asks."""
    name = shipped_calibrations().get(gpu)
    if name is None:
        return None
    text = resources.files("sdsim").joinpath(f"data/calibrations/{name}").read_text(encoding="utf-8")
    return parse(text, name, gpu)


def load_calibration(path: Path, gpu: str) -> Calibration:
    """Return the calibration in *path*; raises CalibrationError if it is not one, or not of *gpu*."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path}: cannot be read: {reason(error)}; name a file that profile_gpu wrote") from None
    return parse(text, str(path), gpu)


def parse(text: str, place: str, gpu: str) -> Calibration:
    """Return the calibration that *text* holds; *place* names it in errors."""
    try:
        data = parse_json(text)
    except ValueError as error:
        raise CalibrationError(
            f"{place}: not JSON, perhaps cut short: {error}; run profile_gpu again with --resume"
        ) from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise CalibrationError(f"{place}: calibration schema {found!r}; this version reads {SCHEMA}; update sdsim")
    if data.get("gpu") != gpu:
        message = (
            f"{place}: measured on {data.get('gpu')!r}, the scenario runs on {gpu!r}; profile that GPU, or drop it"
        )
        raise CalibrationError(message)
    return _checked(data, place)


def _checked(data: dict[str, Any], place: str) -> Calibration:
    rows, limits = data.get("rows"), data.get("ceilings")
    if not isinstance(rows, list) or not isinstance(limits, dict) or not rows:
        raise CalibrationError(f"{place}: rows or ceilings missing; run profile_gpu again")
    if len(rows) > MOST_ROWS:
        raise CalibrationError(f"{place}: {len(rows):,} rows; allowed: {MOST_ROWS:,}; profile fewer models")
    good = [row for row in rows if not (isinstance(row, dict) and "error" in row)]
    problems = [f"{place}: row {i}: {p}" for i, row in enumerate(good) if (p := _problem(row))]
    for key, span in RATES.items():
        if not _between(limits.get(key), *span):
            problems.append(f"{place}: ceilings.{key}: {_found(limits, key)}; allowed: {_spoken(span)}; profile again")
    if not problems:
        problems = [f"{place}: {p}" for p in _crowded(good)]
    if problems:
        more = [f"{place}: and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise CalibrationError(*problems[:5], *more)
    read, computed = (limits[key] * 1e12 for key in RATES)
    return Calibration(Path(place).stem, data["gpu"], read, computed, tuple(good), data.get("provenance", {}))


def _problem(row: Any) -> str | None:
    """Return what is wrong with a row, or None."""
    kernel = row.get("kernel") if isinstance(row, dict) else None
    if not isinstance(kernel, str) or kernel not in (*DIMENSIONS, *CHECKS) or not isinstance(row.get("shape"), dict):
        return "not a measurement: kernel and shape are missing or unknown; remove it, or profile again"
    if not _between(row.get("us_p50"), *MICROSECONDS):
        return f"{_found(row, 'us_p50')}; allowed: {_spoken(MICROSECONDS)} us; profile this point again"
    if kernel in CHECKS:
        return None
    return _shape_problem(row["shape"], kernel) or _size_problem(row, kernel)


def _shape_problem(shape: dict[str, Any], kernel: str) -> str | None:
    for name in DIMENSIONS[kernel]:
        if not _whole(shape.get(name), MOST_EXPERTS if name == "experts" else LARGEST):
            return f"shape: {_found(shape, name)}; allowed: a whole number over 0; profile this point again"
    if "weights" in shape and shape["weights"] not in FORMATS:
        return f"shape: {_found(shape, 'weights')}; allowed: {', '.join(FORMATS)}; profile this point again"
    if kernel == "rejection" and not isinstance(shape.get("mode"), str):
        return f"shape: {_found(shape, 'mode')}; allowed: sample or greedy; profile this point again"
    return None


def _size_problem(row: dict[str, Any], kernel: str) -> str | None:
    for name in SIZES[kernel]:
        if not _whole(row.get(name), LARGEST):
            return f"{_found(row, name)}; allowed: a whole number over 0; profile this point again"
    for name in ("bytes", "flops"):
        if not _between(row.get(name), *WORK):
            return f"{_found(row, name)}; allowed: {_spoken(WORK)}; profile this point again"
    return None


def _crowded(rows: list[dict[str, Any]]) -> list[str]:
    """Return the shapes of more points than a table takes."""
    shapes = Counter(
        (row["kernel"], row["shape"].get("weights"), *(row["shape"][name] for name in DIMENSIONS[row["kernel"]]))
        for row in rows
        if row["kernel"] in DIMENSIONS
    )
    return [
        f"{count:,} points of {kernel} {shape}; allowed: {MOST_POINTS} of a shape; remove some"
        for (kernel, _, *shape), count in shapes.items()
        if count > MOST_POINTS
    ]


def _between(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _found(values: dict[str, Any], name: str) -> str:
    return f"{name} {shown(values[name])}" if name in values else f"{name} missing"


def _spoken(span: tuple[float, float]) -> str:
    return f"a number from {span[0]:g} to {span[1]:g}"
