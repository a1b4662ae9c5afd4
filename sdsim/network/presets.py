"""The networks that ship, `data/networks.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

import yaml

from sdsim.errors import ScenarioError, unknown


@dataclass(frozen=True, slots=True)
class Preset:
    """One way to join GPUs. Rates in bytes/s and one direction."""

    name: str
    node: int
    """GPUs of a node."""
    inside: Literal["switch", "mesh"]
    """Within a node: every GPU on a switch, or a link of its own between each pair that shares the GPU's rate."""
    inside_fraction: float
    """Of the GPU's `link_bandwidth`, for large transfers."""
    nic_bytes_per_s: float
    """Of each GPU's adapter, into a fabric that never blocks."""
    nic_latency_s: float
    """From a GPU through both adapters to a GPU of another node."""


@lru_cache
def _presets() -> dict[str, Preset]:
    text = resources.files("sdsim").joinpath("data/networks.yaml").read_text(encoding="utf-8")
    return {name: Preset(name=name, **figures) for name, figures in yaml.safe_load(text).items()}


def network_names() -> list[str]:
    """Return the names of the networks that ship."""
    return sorted(_presets())


def load_network(name: str) -> Preset:
    """Return a network by name, without regard to case."""
    preset = _presets().get(name.strip().lower())
    if preset is None:
        raise ScenarioError(unknown("network", name, network_names()))
    return preset


def check_network_name(name: str) -> None:
    """Raise ScenarioError if no network is called *name*."""
    load_network(name)
