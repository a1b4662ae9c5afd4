"""The calibration file: what `profile_gpu` measured on one GPU, as JSON rows with their provenance.

Needs the standard library only, so that the machine with the GPU can write it. A row is one kernel at one point:
`kernel`, `shape` (its dimensions, and `weights` where their format is not bf16), `tokens`, `distinct`, `batch`,
`context`, `q_len` as they apply, and `us_p50`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from sdsim.errors import CalibrationError

SCHEMA = 1
MAX_BYTES = 64_000_000
KERNELS = frozenset(
    {
        "moe",
        "gemm",
        "attention",
        "latent",
        "prefill",
        "norm",
        "rope",
        "silu_mul",
        "rejection",
        "draft",
        "eagle",
        "layers",
    }
)


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
        if path.stat().st_size > MAX_BYTES:
            raise CalibrationError(f"{path}: over {MAX_BYTES} bytes; allowed: less; profile fewer models")
        return parse(path.read_text(encoding="utf-8"), str(path), gpu)
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: cannot be read: {error}; name a file that profile_gpu wrote") from None


def parse(text: str, place: str, gpu: str) -> Calibration:
    """Return the calibration that *text* holds; *place* names it in errors."""
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise CalibrationError(
            f"{place}:{line}: not JSON, perhaps cut short: {error}; run profile_gpu again with --resume"
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
    good = [row for row in rows if not (isinstance(row, dict) and "error" in row)]
    problems = [f"{place}: row {i}: {p}" for i, row in enumerate(good) if (p := _problem(row))]
    rates = {}
    for key in ("read_tb_s", "matmul_tflop_s"):
        if not _positive(limits.get(key)):
            problems.append(f"{place}: ceilings.{key}: {limits.get(key)!r}; allowed: a finite number above 0")
        else:
            rates[key] = limits[key] * 1e12
    if problems:
        more = [f"{place}: and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise CalibrationError(*problems[:5], *more)
    provenance = data.get("provenance", {})
    return Calibration(
        Path(place).stem, data["gpu"], rates["read_tb_s"], rates["matmul_tflop_s"], tuple(good), provenance
    )


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _problem(row: Any) -> str | None:
    """Return what is wrong with a row, or None."""
    if not isinstance(row, dict) or row.get("kernel") not in KERNELS or not isinstance(row.get("shape"), dict):
        return "not a measurement: kernel and shape are missing or unknown; remove it, or profile again"
    if not _positive(row.get("us_p50")):
        return f"us_p50 {row.get('us_p50')!r}; allowed: finite microseconds above 0; profile this point again"
    for key in ("tokens", "distinct", "batch", "context", "q_len"):
        value = row.get(key)
        if value is not None and not (isinstance(value, int) and value >= 0):
            return f"{key} {value!r}; allowed: a whole number, 0 or more"
    return None
