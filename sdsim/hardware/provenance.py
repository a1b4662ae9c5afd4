"""Where, with what and when something was measured on a GPU."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import triton

QUERY = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"


def provenance(command: str) -> dict[str, Any]:
    """Return the GPU, its driver and clocks, the libraries, the commit, the date, and *command* with its arguments."""
    return _gpu() | {
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": " ".join([f"python -m {command}", *sys.argv[1:]]),
    }


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"device": "Triton interpreter"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "nvidia_smi": _clocks(),
    }


def _clocks() -> dict[str, str]:
    seen = output_of("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader").splitlines()
    return dict(zip(QUERY.split(","), (w.strip() for w in seen[0].split(",")), strict=True)) if seen else {}


def _commit() -> str:
    """Return the checkout's commit, or what SDSIM_COMMIT says where there is no repository."""
    named = os.environ.get("SDSIM_COMMIT")
    return named or output_of("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD") or "unknown"


def output_of(*words: str) -> str:
    """Return what a program prints; nothing if it is not there."""
    try:
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()  # noqa: S603
    except OSError:
        return ""
