"""GPUs: memory, rates and fixed costs of one device, from datasheets and from measurements where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from sdsim.errors import ScenarioError, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU. Rates are per second, in bytes and flops; `*_fraction` is the share of a rate that kernels reach."""

    name: str
    memory_bytes: int
    """What the driver reports."""
    bandwidth: float
    """Datasheet rate of the memory."""
    read_fraction: float
    """Of `bandwidth`, for pure reads of weights."""
    flops_bf16: float
    """Datasheet rate of dense (not sparse) matrix products."""
    flops_fp8: float
    """The same in fp8; 0 if the GPU has none."""
    flops_fraction: float
    """Of both, for large matrix products of random data."""
    launch_s: float
    """What a kernel inside a CUDA graph costs beyond its bytes and flops."""
    link_bandwidth: float
    """To the other GPUs, one direction: NVLink, or PCIe where there is none."""
    link_latency_s: float
    """Of one small all-reduce inside a CUDA graph."""


@lru_cache
def _gpus() -> dict[str, Gpu]:
    text = resources.files("sdsim").joinpath("data/gpus.yaml").read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return {name: Gpu(name=name, **figures) for name, figures in entries.items()}


def gpu_names() -> list[str]:
    """Return the names of the GPUs that ship."""
    return sorted(_gpus())


def load_gpu(name: str) -> Gpu:
    """Return a GPU by name, without regard to case."""
    gpu = _gpus().get(name.strip().lower())
    if gpu is None:
        raise ScenarioError(unknown("GPU", name, gpu_names()))
    return gpu


def gpu_of_device(device: str) -> str | None:
    """Return the GPU that a driver calls *device*, such as `NVIDIA H200`; None for one that does not ship."""
    return next((name for name in sorted(_gpus(), key=len, reverse=True) if name in device.lower()), None)


def check_gpu_name(name: str) -> None:
    """Raise ScenarioError if no GPU is called *name*."""
    load_gpu(name)
