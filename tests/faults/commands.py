"""The commands that are killed: what each writes, how it goes on, and what of it must be the same in the end."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdsim.command import run_command
from sdsim.grid.table import MACHINES
from sdsim.report_html import main as report_main
from sdsim.run import main as run_main
from sdsim.sweep import main as sweep_main
from tests.faults.fake_gpu import profile

SCENARIO = """
model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
workload: {kind: poisson, rate: 50/s, limit: 60, lengths: {prompt: 200, output: 40}}
acceptance: {kind: iid, rate: 0.8}
policy: [goodput, off]
slo: {ttft: 2s, tpot: 20ms}
"""
SWEEP = """
scenario: base.yaml
axes: {workload.rate: [20/s, 60/s], policy: [off, {kind: fixed, length: 3}], seed: [1, 2, 3]}
"""
Main = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Command:
    """A command that writes *out*, a file or a folder, in a folder that `prepare` made; *resumes* with --resume."""

    main: Main
    words: tuple[str, ...]
    out: str
    resumes: bool = False


QUIET = ("--quiet", "--jobs", "2", "--out")
COMMANDS = {
    "run": Command(run_main, ("base.yaml", "--no-plots", *QUIET, "ran"), "ran"),
    "sweep": Command(sweep_main, ("many.yaml", *QUIET, "many.parquet"), "many.parquet", True),
    "profile": Command(profile, ("--out", "h200.json"), "h200.json", True),
    "report": Command(report_main, ("given", "--out", "report.html"), "report.html"),
}


def prepare(folder: Path, scenario: str = SCENARIO) -> None:
    """Write into *folder* what the commands read."""
    (folder / "base.yaml").write_text(scenario)
    (folder / "many.yaml").write_text(SWEEP)
    words = "--quiet", "--no-plots", "--jobs", "1", "--out", str(folder / "given")
    assert run_main([str(folder / "base.yaml"), *words]) == 0


MOST_BYTES = 4096


def full_disk() -> None:
    """Let this process write no file beyond a size, as where a disk is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))


def unprivileged() -> None:
    """Let this process write what its permissions say, even if it is root's: it gives up all capabilities (capset)."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert os.geteuid() or ctypes.CDLL(None).capset(header, none) == 0


def start(name: str, folder: str, *more: str, under: Callable[[], None] | None = None) -> None:
    """Run the command *name* in *folder*, with *more* words, as a process and a group of its own does, and exit.

    *under*: called first, a limit of the process.
    """
    os.setpgrp()
    if under is not None:
        under()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(f"{name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    command = COMMANDS[name]
    sys.argv = [name, *command.words, *more]
    run_command(command.main)


def content(path: Path) -> dict[str, bytes]:
    """Return the files of the output *path*, without what the clock says; raise if one of them is not whole."""
    if path.is_file():
        return {"": path.read_bytes()}
    found = {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    return {name: _unclocked(text) if name.endswith(".json") else text for name, text in found.items()}


def _unclocked(text: bytes) -> bytes:
    summary = json.loads(text)
    for run in summary.get("runs", [summary]):
        for key in MACHINES:
            del run[key]
    return json.dumps(summary).encode()
