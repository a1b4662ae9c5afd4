"""What a replica's GPUs take to exchange activations: measured where that was done, else from the network's links.

A file of measurements is what `sdsim.hardware.collectives` wrote: JSON lines, the first with `schema`, `gpu` and
`provenance`, then rows of one kind each. Rows of kind `collective` hold `op` (all_reduce: `bytes` that each rank has;
all_to_all: `bytes` that each rank sends to the others in all), `ranks` of one node, and `us_p50`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from sdsim.errors import CalibrationError
from sdsim.gpus import Gpu
from sdsim.latency.quality import FREE, Price, Quality
from sdsim.latency.tables import Curve
from sdsim.network import Network, load_network

SCHEMA = 1
OPS = ("all_reduce", "all_to_all")
MAX_BYTES = 16_000_000
Points = dict[tuple[str, int], dict[int, float]]
"""By op and ranks: bytes to seconds."""


@dataclass(frozen=True)
class MeasuredCollectives:
    """Points of one GPU model; *steps* are the rows of composed steps."""

    name: str
    gpu: str
    points: Points
    steps: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]

    def link(self, gpu: Gpu) -> tuple[float, float] | None:
        """Return latency, s, and rate, B/s, of the link that the all-reduce over two GPUs implies; None without one."""
        points = self.points.get(("all_reduce", 2), {})
        if len(points) < 2:
            return None
        small, large = min(points), max(points)
        slope = (points[large] - points[small]) / (large - small)
        return points[small], 1 / slope if slope > 0 else gpu.link_bandwidth


class Collectives:
    """Prices collectives over the first GPUs of *network*, which *measured* was measured on, if given."""

    def __init__(self, network: Network, measured: MeasuredCollectives | None = None) -> None:
        self.network = network
        points = measured.points if measured is not None else {}
        self._curves = {key: Curve(list(found.items())) for key, found in points.items()}

    def all_reduce(self, size: float, ranks: int) -> Price:
        """Price the sum of *size* bytes that each of *ranks* GPUs has."""
        return self._price("all_reduce", size, ranks)

    def all_to_all(self, size: float, ranks: int) -> Price:
        """Price an exchange in which each of *ranks* GPUs sends *size* bytes in all to the others."""
        return self._price("all_to_all", size, ranks)

    def _price(self, op: str, size: float, ranks: int) -> Price:
        if ranks < 2 or not size:
            return FREE
        curve = self._curves.get((op, ranks))
        if curve is not None and ranks <= self.network.preset.node:
            return curve.price(math.ceil(size))
        seconds = getattr(self.network, op)(size, range(ranks))
        return Price(seconds, Quality.EXTRAPOLATED)


def make_collectives(gpu: Gpu, gpus: int, network: str, measured: MeasuredCollectives | None) -> Collectives:
    """Return the prices among *gpus* GPUs of one replica; links go by *measured* where there is one."""
    preset = load_network(network)
    link = measured.link(gpu) if measured is not None else None
    if link is not None:
        gpu = replace(gpu, link_latency_s=link[0], link_bandwidth=link[1] / preset.inside_fraction)
    return Collectives(Network([gpu] * gpus, preset), measured)


@lru_cache
def load_shipped_collectives(gpu: str) -> MeasuredCollectives | None:
    """Return the newest measurements that ship for *gpu*, or None."""
    folder = resources.files("sdsim").joinpath("data/collectives")
    names = sorted(f.name for f in folder.iterdir() if f.name.startswith(f"{gpu}-")) if folder.is_dir() else []
    if not names:
        return None
    return parse_collectives(folder.joinpath(names[-1]).read_text(encoding="utf-8"), names[-1], gpu)


def load_collectives(path: Path, gpu: str) -> MeasuredCollectives:
    """Return the measurements in *path*; raises CalibrationError if they are none, or not of *gpu*."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CalibrationError(
                f"{path}: over {MAX_BYTES} bytes; allowed: less; name a file of measured collectives"
            )
        return parse_collectives(path.read_text(encoding="utf-8"), str(path), gpu)
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: cannot be read: {error}; name a file that sdsim.hardware.collectives wrote"
        raise CalibrationError(message) from None


def gpu_of_file(path: Path) -> str:
    """Return the GPU that the measurements in *path* say they were made on; "" if they do not."""
    try:
        with path.open(encoding="utf-8") as lines:
            return str(json.loads(lines.readline() or "{}").get("gpu", ""))
    except (OSError, ValueError, AttributeError) as error:
        raise CalibrationError(f"{path}: cannot be read: {error}; name a file of measured collectives") from None


def check_collectives(name: str, folder: Path, gpu: str) -> None:
    """Raise CalibrationError unless *name*, relative to *folder*, holds collectives of *gpu*."""
    load_collectives(folder / name, gpu)


def parse_collectives(text: str, place: str, gpu: str) -> MeasuredCollectives:
    """Return the measurements that *text* holds; *place* names them in errors."""
    rows = [_row(line, f"{place}:{number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    head = rows[0] if rows else {}
    if head.get("schema") != SCHEMA:
        raise CalibrationError(f"{place}:1: schema {head.get('schema')!r}; this version reads {SCHEMA}; measure again")
    if head.get("gpu") != gpu:
        found = f"measured on {head.get('gpu')!r}, the scenario runs on {gpu!r}"
        raise CalibrationError(f"{place}: {found}; measure that GPU, or drop the file")
    points: Points = {}
    for number, row in enumerate(rows[1:], 2):
        if row.get("kind") == "collective" and "error" not in row:
            op, ranks, size, seconds = _collective(row, f"{place}:{number}")
            points.setdefault((op, ranks), {})[size] = seconds
    if not points:
        raise CalibrationError(f"{place}: no collective in it; allowed: one or more; measure again")
    steps = tuple(row for row in rows[1:] if row.get("kind") == "step" and "error" not in row)
    return MeasuredCollectives(Path(place).stem, gpu, points, steps, head.get("provenance", {}))


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CalibrationError(f"{place}: not JSON, perhaps cut short: {error}; remove the line") from None
    if not isinstance(row, dict):
        raise CalibrationError(f"{place}: found {row!r:.60}; allowed: an object a line; remove the line")
    return row


def _collective(row: dict[str, Any], place: str) -> tuple[str, int, int, float]:
    op, ranks, size, us = (row.get(key) for key in ("op", "ranks", "bytes", "us_p50"))
    if op not in OPS or not isinstance(ranks, int) or not isinstance(size, int) or ranks < 2 or size < 1:
        found = f"op {op!r}, ranks {ranks!r}, bytes {size!r}"
        raise CalibrationError(
            f"{place}: {found}; allowed: {' or '.join(OPS)}, 2 ranks or more, 1 byte or more; mend it"
        )
    if not isinstance(us, int | float) or isinstance(us, bool) or not math.isfinite(us) or us <= 0:
        raise CalibrationError(f"{place}: us_p50 {us!r}; allowed: finite microseconds above 0; measure again")
    return op, ranks, size, us * 1e-6
