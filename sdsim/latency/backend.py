"""Another kernel backend's tables laid over a GPU's own calibration.

An engine runs its own MoE and attention kernels, and the libraries' for the rest. Where a shape was timed on the
engine's kernel its rows replace ours; a shape that was not is priced by our rows times the ratio of the two backends,
the median over the shapes timed on both, by kernel and token count.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from statistics import median
from typing import Any

from sdsim.errors import CalibrationError
from sdsim.latency.calibration import Calibration, parse

Row = Mapping[str, Any]
Ratios = dict[tuple[str, int], float]


@lru_cache
def load_backend(backend: str, gpu: str) -> Calibration:
    """Return the newest shipped tables of *backend* on *gpu*; raises CalibrationError where there are none."""
    folder = resources.files("sdsim").joinpath(f"data/calibrations/{backend}")
    names = sorted(f.name for f in folder.iterdir() if f.name.startswith(f"{gpu}-")) if folder.is_dir() else []
    if not names:
        message = (
            f"kernels {backend!r} were not measured on {gpu!r}; use engine ideal, or `profile_gpu --engine` on that GPU"
        )
        raise CalibrationError(message)
    return parse(folder.joinpath(names[-1]).read_text(encoding="utf-8"), f"{backend}/{names[-1]}", gpu)


def with_backend(own: Calibration, other: Calibration) -> Calibration:
    """Return *own* with the kernels of *other* in place of its own."""
    replaced = {row["kernel"] for row in other.rows}
    timed = {_shape(row) for row in other.rows}
    ratios = _ratios(own, other)
    kept = [
        dict(row, us_p50=row["us_p50"] * _ratio(ratios, row)) if row["kernel"] in replaced else row
        for row in own.rows
        if _shape(row) not in timed
    ]
    return replace(own, name=f"{own.name}+{other.name}", rows=(*kept, *other.rows))


def _shape(row: Row) -> tuple[Any, ...]:
    dims = tuple(sorted((k, v) for k, v in row["shape"].items() if k != "renormalise"))
    return row["kernel"], dims


def _bucket(row: Row) -> int:
    return round(math.log2(max(row.get("tokens") or 1, 1)))


def _ratios(own: Calibration, other: Calibration) -> Ratios:
    """Return the median of other over own where both timed the same point, by kernel and power of two of tokens."""
    points = {_point(row): row["us_p50"] for row in own.rows}
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in other.rows:
        if _point(row) in points:
            found[row["kernel"], _bucket(row)].append(row["us_p50"] / points[_point(row)])
    return {key: median(values) for key, values in found.items()}


def _point(row: Row) -> tuple[Any, ...]:
    return (*_shape(row), *(row.get(size) for size in ("tokens", "distinct", "batch", "context", "q_len")))


def _ratio(ratios: Ratios, row: Row) -> float:
    """Return the ratio at the nearest token count of the row's kernel, 1 where no point was timed on both."""
    here = _bucket(row)
    near = [(abs(bucket - here), ratio) for (kernel, bucket), ratio in ratios.items() if kernel == row["kernel"]]
    return min(near)[1] if near else 1.0
