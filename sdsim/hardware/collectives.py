"""Measure what several GPUs of one machine exchange: `python -m sdsim.hardware.collectives --out h200.jsonl`.

NCCL's all-reduce and all-to-all from 1 KB to 256 MB in captured graphs, then whole decode steps on this project's
kernels: a tensor-parallel one and an expert-parallel one. One process a GPU. The processes meet through a file and talk
over the loopback interface, so no network is needed. Each part has its share of the time; a part that fails or runs
over leaves what it measured, and a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sdsim.command import OK, run_command
from sdsim.errors import CalibrationError, ScenarioError
from sdsim.gpus import gpu_of_device
from sdsim.latency.collectives import SCHEMA
from sdsim.whole import write_file

MISSING = "hardware needs a checkout with kernels/, and torch and triton: pip install -e '.[gpu]' ({error})"
MODELS = {"tensor": "mixtral-8x7b", "expert": "qwen3-30b-a3b"}
GRACE_S = 20.0
"""What a part gets beyond its time to end by itself, and the ranks that are left when one has failed."""
LOCAL = {
    "NCCL_SOCKET_IFNAME": "lo",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_IB_DISABLE": "1",
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
}
"""Only this machine; without NVLink multicast, which a shared host may not allow."""
Row = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    p = argparse.ArgumentParser("python -m sdsim.hardware.collectives", description=__doc__.split("\n\n")[0])
    p.add_argument("--out", required=True, type=Path, metavar="FILE", help="the file of JSON lines to write")
    p.add_argument("--ranks", type=int, default=2, metavar="N", help="GPUs, default 2")
    p.add_argument("--backend", choices=["nccl", "gloo"], default="nccl", help="gloo: a trial on this machine's CPU")
    p.add_argument("--minutes", type=float, default=8.0, help="for all parts together, default 8")
    p.add_argument("--parts", default="collectives,tensor,expert", help="some of collectives, tensor, expert")
    p.add_argument("--tensor-model", default=MODELS["tensor"], metavar="M", help="a name or config.json")
    p.add_argument("--expert-model", default=MODELS["expert"], metavar="M", help="a name or config.json")
    p.add_argument("--layers", type=int, metavar="N", help="run the models' first N layers only")
    p.add_argument("--largest", type=int, default=2**28, metavar="BYTES", help="the largest collective")
    p.add_argument("--batches", default="2,8,32,64,128,256", help="rows of the steps, over all GPUs")
    p.add_argument("--q-lens", default="1,4,6", help="positions that each row verifies")
    p.add_argument("--context", type=int, default=1024, help="tokens of each row")
    p.add_argument("--replays", type=int, default=15, help="timings of each point")
    return p


def jobs(options: argparse.Namespace) -> dict[str, Row]:
    """Return what each part measures; raises ScenarioError for options that make no sense."""
    parts = options.parts.split(",")
    wrong = [part for part in parts if part not in ("collectives", "tensor", "expert")]
    if wrong:
        raise ScenarioError(f"--parts: {wrong[0]!r}; allowed: collectives, tensor, expert")
    if options.ranks < 2 or options.largest < 1024 or options.minutes <= 0 or options.replays < 2:
        raise ScenarioError("--ranks: 2 or more; --largest: 1024 or more; --minutes: over 0; --replays: 2 or more")
    numbers = {"batches": _numbers("--batches", options.batches), "q_lens": _numbers("--q-lens", options.q_lens)}
    if max(numbers["q_lens"]) > options.context:
        raise ScenarioError(f"--q-lens: {max(numbers['q_lens'])}; allowed: up to --context, {options.context}")
    shared = {"ranks": options.ranks, "backend": options.backend, "replays": options.replays}
    step = {"what": "step", "layers": options.layers, "context": options.context} | numbers | shared
    known = {
        "collectives": {"what": "collectives", "largest": options.largest} | shared,
        "tensor": {"parallel": "tensor", "model": options.tensor_model} | step,
        "expert": {"parallel": "expert", "model": options.expert_model} | step,
    }
    return {part: known[part] for part in parts}


def _numbers(option: str, text: str) -> list[int]:
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ScenarioError(f"{option}: {text!r}; allowed: whole numbers over 0, with commas between")
    return found


def run(part: str, job: Row, seconds: float) -> Iterator[Row]:
    """Yield the rows of one part, measured by a process for each rank, within *seconds*; last, what went wrong."""
    deadline = time.time() + seconds
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        shared = job | {"meeting": meeting, "deadline": deadline}
        output, errors = Path(folder, "rows"), Path(folder, "errors")
        ranks = [_start(shared | {"rank": rank}, output, errors) for rank in range(job["ranks"])]
        fault = _wait(ranks, deadline + GRACE_S)
        yield from _rows(output)
        if fault:
            tail = " | ".join(errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-6:])
            yield {"kind": "fault", "part": part, "error": fault, "log": tail[-1500:]}


def _start(job: Row, output: Path, errors: Path) -> subprocess.Popen[bytes]:
    environment = LOCAL | dict(os.environ)
    with output.open("ab") as out, errors.open("ab") as err:
        command = [sys.executable, "-m", "sdsim.hardware.rank", json.dumps(job)]
        return subprocess.Popen(command, stdout=out if job["rank"] == 0 else err, stderr=err, env=environment)  # noqa: S603


def _wait(ranks: list[subprocess.Popen[bytes]], deadline: float) -> str | None:
    """Wait for all ranks, end those that are left at *deadline* or after another's failure; return what failed."""
    fault = None
    while any(rank.poll() is None for rank in ranks):
        failed = [i for i, rank in enumerate(ranks) if rank.poll()]
        if failed and fault is None:
            fault, deadline = f"rank {failed[0]} ended with {ranks[failed[0]].returncode}", time.time() + GRACE_S
        if time.time() > deadline:
            fault = fault or "out of time"
            for rank in ranks:
                rank.kill()
        time.sleep(0.2)
    return fault or next((f"rank {i} ended with {r.returncode}" for i, r in enumerate(ranks) if r.returncode), None)


def _rows(output: Path) -> Iterator[Row]:
    """Yield the whole lines of *output* that are rows: libraries may print too."""
    for line in output.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "kind" in row:
            yield row


def head(options: argparse.Namespace) -> Row:
    """Return the file's first line: schema, GPU, and how the measurements were made."""
    import torch

    from sdsim.hardware.provenance import output_of, provenance

    found = provenance("sdsim.hardware.collectives")
    if options.backend == "nccl":
        if torch.cuda.device_count() < options.ranks:
            seen = f"{torch.cuda.device_count()} GPUs"
            raise ScenarioError(
                f"--ranks: {options.ranks}, torch sees {seen}; use fewer, or --backend gloo for a trial"
            )
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        found["topology"] = output_of("nvidia-smi", "topo", "-m").splitlines()
    found["environment"] = {name: (LOCAL | dict(os.environ))[name] for name in LOCAL}
    device = found["device"] if options.backend == "nccl" else "cpu"
    return {"schema": SCHEMA, "gpu": gpu_of_device(device) or device, "provenance": found}


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    todo = jobs(options)
    if options.out.exists():
        raise CalibrationError(f"{options.out}: exists already; name another file")
    if not options.out.absolute().parent.is_dir():
        raise ScenarioError(f"--out: {options.out}: no such folder; make it first")
    try:
        rows = [head(options)]
    except ImportError as error:
        raise ScenarioError(MISSING.format(error=error)) from None
    end = time.time() + 60 * options.minutes
    for left, (part, job) in zip(range(len(todo), 0, -1), todo.items(), strict=True):
        for row in run(part, job, max(1.0, (end - time.time()) / left)):
            rows.append(row)
            sys.stderr.write(_described(row) + "\n")
        _write(options.out, rows)
    return OK


def _described(row: Row) -> str:
    if row["kind"] == "fault":
        return f"{row['part']}: {row['error']}: {row['log']}"
    what = ("op", "bytes") if row["kind"] == "collective" else ("model", "parallel", "batch", "q_len")
    spread = f"{row['us_p10']:.1f} to {row['us_p90']:.1f}"
    return " ".join(f"{row[key]!s:>12}" for key in what) + f" {row['us_p50']:12.1f} us ({spread})"


def _write(path: Path, rows: list[Row]) -> None:
    """Write *rows* whole: what is there after a part is not lost with the next."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    write_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    run_command(main)
