"""What a serving engine adds to its kernels: CUDA-graph padding, the capture limit, and time on the host.

An engine file (`data/engines/*.json`, or any path) holds these figures. `ideal` is the kernels in captured graphs
with no host time and no padding.
"""

from __future__ import annotations

import bisect
import json
import math
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from sdsim.errors import CalibrationError, unknown

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class EngineOverhead:
    """Overheads of one engine version. Times in s."""

    name: str
    capture_sizes: tuple[int, ...] = ()
    """Token counts with a captured graph, ascending; empty: any count, without padding."""
    host_step_s: float = 0.0
    """Host time of a step: scheduling, input preparation, output handling."""
    host_row_s: float = 0.0
    """Host time that each row adds."""
    host_draft_pass_s: float = 0.0
    """Host time of one draft pass."""
    eager_kernel_s: float = 0.0
    """Host time to launch one kernel outside a graph."""
    overlap: bool = True
    """Whether the host works while the GPU does: a step then takes the longer of the two."""

    def padded(self, tokens: int) -> int:
        """Return the token count that runs: the next captured size, or *tokens* itself above the largest."""
        if not self.capture_sizes or tokens > self.capture_sizes[-1]:
            return tokens
        return self.capture_sizes[bisect.bisect_left(self.capture_sizes, tokens)]

    def captured(self, tokens: int) -> bool:
        """Return whether a step of *tokens* replays a graph."""
        return not self.capture_sizes or tokens <= self.capture_sizes[-1]

    def host_seconds(self, rows: int, tokens: int, draft_passes: int, kernels: int) -> float:
        """Return the host's time for a step of *kernels* target kernels."""
        eager = 0.0 if self.captured(tokens) else kernels * self.eager_kernel_s
        return self.host_step_s + rows * self.host_row_s + draft_passes * self.host_draft_pass_s + eager

    def combine(self, gpu_s: float, host_s: float) -> float:
        """Return the step time from the GPU's and the host's."""
        return max(gpu_s, host_s) if self.overlap else gpu_s + host_s


def engine_names() -> list[str]:
    """Return the engines that ship."""
    folder = resources.files("sdsim").joinpath("data/engines")
    return sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json"))


def load_engine(name: str, folder: Path = Path()) -> EngineOverhead:
    """Return a shipped engine by name, or one from a JSON file, relative to *folder*."""
    if name in engine_names():
        text = resources.files("sdsim").joinpath(f"data/engines/{name}.json").read_text()
        return _parse(text, name)
    if not name.endswith(".json"):
        raise CalibrationError(f"engine: {unknown('engine', name, engine_names())}; or give the path of a .json file")
    path = folder / name
    try:
        return _parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"engine: cannot read {path}: {error}; name a shipped engine or a JSON file") from None


def _parse(text: str, place: str) -> EngineOverhead:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise CalibrationError(f"{place}:{error.lineno}: not JSON: {error.msg}; mend or replace the file") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise CalibrationError(
            f"{place}: engine schema {found!r}; this version reads {SCHEMA}; update sdsim or the file"
        )
    figures = {k: v for k, v in data.items() if k not in ("schema", "provenance")}
    problems = _problems(figures)
    if problems:
        raise CalibrationError(*(f"{place}: {p}" for p in problems))
    figures["capture_sizes"] = tuple(figures.get("capture_sizes", ()))
    return EngineOverhead(**figures)


def _problems(figures: dict[str, Any]) -> list[str]:
    known = {f.name for f in fields(EngineOverhead)}
    problems = [unknown("key", key, known) for key in figures if key not in known]
    for key, value in figures.items():
        if key.endswith("_s") and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            problems.append(f"{key}: {value!r}; allowed: finite seconds, 0 or more")
    sizes = figures.get("capture_sizes", [])
    if (
        not isinstance(sizes, list)
        or any(not isinstance(s, int) or s < 1 for s in sizes)
        or sizes != sorted(set(sizes))
    ):
        problems.append("capture_sizes: not an ascending list of positive integers")
    if not isinstance(figures.get("name"), str):
        problems.append("name: missing; give the engine and its version")
    return problems
