"""What is fuzzed: a reader of files, given bytes. It answers, or raises SdsimError; anything else is a fault.

What a reader has let in is used once, for a price or a request, since that is where a bad value would come out.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from sdsim.errors import SdsimError
from sdsim.gpus import load_gpu
from sdsim.grid.file import read_grid
from sdsim.latency.calibrated import CalibratedKernels
from sdsim.latency.calibration import parse
from sdsim.latency.engine_overhead import load_engine
from sdsim.matrices import Matrix
from sdsim.models import load_model
from sdsim.run_folder import FILES, find_runs, read_run
from sdsim.scenario import load_scenario, scenario_from_mapping
from sdsim.simulation import simulate
from sdsim.trace_readers import FORMATS, open_trace

MEMORY = Path("/dev/shm")
MOST_SAID = 20_000
SIZES = np.array([1, 7, 300, 100_000])
RUN = {
    "model": "qwen3-30b-a3b",
    "draft": "eagle3",
    "gpus": "1 x h200",
    "workload": {"kind": "poisson", "rate": 40, "limit": 4, "lengths": {"prompt": 40, "output": 4}},
    "acceptance": {"kind": "iid", "rate": 0.8},
    "policy": {"kind": "fixed", "length": 2},
}


@cache
def folder() -> Path:
    """Return this process's own folder, in memory where there is one."""
    return Path(tempfile.mkdtemp(prefix="sdsim-fuzz-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))


def scenario(data: bytes) -> None:
    """Read *data* as a scenario, or behind a 0 as a sweep."""
    path = folder() / "x.yaml"
    path.write_bytes(data.removeprefix(b"0\n"))
    if data.startswith(b"0\n"):
        read_grid(path)
        return
    found = load_scenario(path)
    if scenario_from_mapping(found.resolved(), found.folder) != found:
        raise AssertionError("a resolved scenario is another one")


def trace(data: bytes) -> None:
    """Read *data* behind its first byte, which tells the format, as a trace; take its first requests."""
    kind = FORMATS[data[0] % len(FORMATS)] if data else FORMATS[0]
    path = folder() / ("client-0-trace.csv" if kind == "servegen" else "trace")
    path.write_bytes(data[1:])
    last = 0.0
    for rows in itertools.islice(open_trace(kind, path), 2):
        if not (np.all(np.diff(rows.arrival_s, prepend=last) >= 0) and np.all(rows.prompt_tokens >= 0)):
            raise AssertionError("requests out of order, or of no size")
        last = float(rows.arrival_s[-1])


def calibration(data: bytes) -> None:
    """Read *data* as a calibration and price with it, or behind a 0 as the figures of an engine."""
    if data.startswith(b"0\n"):
        (folder() / "engine.json").write_bytes(data[2:])
        load_engine("engine.json", folder())
        return
    kernels = CalibratedKernels(parse(data.decode(errors="replace"), "x.json", "h200"), load_gpu("h200"))
    model = load_model("qwen3-30b-a3b")
    prices = [
        *kernels.dense(SIZES, Matrix(2048, 128), 2.0).seconds,
        kernels.experts(model, 1.0).price(3, 9.5).seconds,
        kernels.attention(model, 1.0).verify(4, 12, 900, 2700),
        kernels.attention(model, 1.0).prefill(1, 700, 300, 9000),
        *kernels.norms(model, SIZES).seconds,
        *kernels.sampling(SIZES, 151936).seconds,
    ]
    if not all(math.isfinite(price) and price >= 0 for price in prices):
        raise AssertionError(f"a price of {prices}")


@cache
def _run() -> Path:
    run = folder() / "run"
    run.mkdir()
    simulate(scenario_from_mapping(RUN)).write(run)
    return run


def result(data: bytes) -> None:
    """Read a good run folder of which the file that the first byte tells holds the rest of *data*."""
    run, other = _run(), folder() / "other"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(run, other)
    (other / FILES[data[0] % len(FILES) if data else 0]).write_bytes(data[1:])
    found = [read_run(one) for one in find_runs(other)]
    str(found[0])


READERS: dict[str, Callable[[bytes], None]] = {
    "scenario": scenario,
    "trace": trace,
    "calibration": calibration,
    "result": result,
}


def survives(name: str, data: bytes) -> None:
    """Give *data* to the reader *name*; its errors must be short and say something."""
    try:
        READERS[name](data)
    except SdsimError as error:
        text = str(error)
        if not text or len(text) > MOST_SAID or not all(line.isprintable() for line in text.split("\n")):
            raise AssertionError(f"an error of {len(text)} characters, perhaps not printable") from error
