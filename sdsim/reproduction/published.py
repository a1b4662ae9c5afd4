"""What the paper prints (`data/moesd.yaml`): its devices, its sweep, and Tables 1 and 2 as cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from sdsim.gpus import Gpu, load_gpu
from sdsim.moesd import Parameters


@dataclass(frozen=True, slots=True)
class Device:
    """One node of the paper: *count* GPUs that share the target; the draft runs on one of them."""

    name: str
    gpu: Gpu
    count: int

    @property
    def bandwidth(self) -> float:
        """Peak memory rate of all GPUs together, B/s."""
        return self.count * self.gpu.bandwidth

    @property
    def ridge(self) -> float:
        """Peak flops over peak bytes per second (eq. 1)."""
        return self.gpu.flops_bf16 / self.gpu.bandwidth


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One peak speedup of Table 1 or 2, with the times and the sigma printed beside it."""

    table: int
    device: str
    model: str
    dataset: str
    temperature: float
    gamma: int
    t_ar_ms: float
    t_sd_ms: float
    sigma: float
    speedup: float

    @property
    def round_cost(self) -> float:
        """What a round of the cell took, in decode steps of the same batch: sigma (gamma + 1) / speedup (eq. 4)."""
        return self.sigma * (self.gamma + 1) / self.speedup


@dataclass(frozen=True, slots=True)
class Sweep:
    """The measurements of Figure 4 and appendix C.2."""

    device: str
    model: str
    experts_per_token: tuple[int, ...]
    gammas: tuple[int, ...]
    batches: tuple[int, ...]
    stride: int


@dataclass(frozen=True, slots=True)
class Fit:
    """The ten parameters as this project fitted them; times in ms on the sweep's device."""

    parameters: Parameters
    points: int
    rmse: float
    """Root mean square error, in speedup."""


@dataclass(frozen=True, slots=True)
class Published:
    """All of `data/moesd.yaml`."""

    devices: dict[str, Device]
    sweep: Sweep
    cells: tuple[Cell, ...]
    mse: dict[int, float]
    """Table 3's error by stride."""
    figure_1: dict[str, dict[str, int]]
    """Of each model in Figure 1: experts_per_token, experts, and experts as captioned."""
    drafts: dict[str, str]
    fit: Fit

    def tokens(self, gamma: int) -> float | None:
        """Return the tokens of a round at `sigma`, None where no sigma is printed."""
        sigma = self.sigma(gamma)
        return None if sigma is None else sigma * (gamma + 1)

    def sigma(self, gamma: int) -> float | None:
        """Return the sigma of the sweep's setting (humaneval, temperature 0), None where none is printed.

        Figure 4 rescales every speedup to the sigma of the unchanged model, so it holds for all its points.
        """
        s = self.sweep
        found = (c for c in self.cells if (c.device, c.model, c.gamma) == (s.device, s.model, gamma))
        return next((c.sigma for c in found), None)


@lru_cache
def published() -> Published:
    """Return what the paper prints."""
    text = resources.files("sdsim").joinpath("data/moesd.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    sweep: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found["sweep"].items()}
    fit = found["fit"]
    return Published(
        {name: Device(name, load_gpu(d["gpu"]), d["count"]) for name, d in found["devices"].items()},
        Sweep(**sweep),
        tuple(cell for row in found["tables"] for cell in _cells(row)),
        found["mse"],
        found["figure_1"],
        found["pairs"],
        Fit(Parameters(**fit["parameters"]), fit["points"], fit["rmse"]),
    )


def _cells(row: dict[str, Any]) -> list[Cell]:
    """Return the cells of one printed row, a gamma each."""
    shared = {name: value for name, value in row.items() if name != "cells"}
    names = ("t_ar_ms", "t_sd_ms", "sigma", "speedup")
    return [
        Cell(**shared, gamma=gamma, **dict(zip(names, values, strict=True))) for gamma, values in row["cells"].items()
    ]
