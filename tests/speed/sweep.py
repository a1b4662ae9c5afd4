"""How much faster two processes sweep than one: `python -m tests.speed.sweep` from the checkout.

Measured in processor time, so that other work on the machine does not count. On two free cores a sweep takes as long as
what one process does alone (imports, reading, writing), and then half of the cells and at worst half of the longest.
The wall times beside it say the same where the machine is free.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

SWEEP = """
scenario: {folder}/scenarios/steady.yaml
axes:
  seeds: [1]
  workload.limit: [1000]
  workload.rate: [4/s, 6/s, 8/s, 12/s, 16/s]
  policy: [off, {{kind: fixed, length: 2}}, {{kind: fixed, length: 4}}, goodput]
  seed: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
"""
ROOT = Path(__file__).resolve().parent.parent.parent


class Cost(NamedTuple):
    """Seconds of one sweep: by the clock, and of the processor in the main process and in its workers."""

    wall_s: float
    main_s: float
    workers_s: float


def cost(file: Path, jobs: int) -> Cost:
    """Sweep *file* in a process of its own and return what it took."""
    report = (
        "import resource, sys; from sdsim.sweep import main; main(sys.argv[1:]);"
        "used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)];"
        "print(*(one.ru_utime + one.ru_stime for one in used))"
    )
    out = file.with_suffix(f".{jobs}.parquet")
    out.unlink(missing_ok=True)
    words = [sys.executable, "-c", report, str(file), "--jobs", str(jobs), "--quiet", "--out", str(out)]
    started = time.perf_counter()
    said = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    main_s, workers_s = map(float, said.split())
    return Cost(time.perf_counter() - started, main_s, workers_s)


def longest_s(file: Path) -> float:
    """Return the processor seconds of the longest of every tenth cell."""
    from sdsim.grid.file import read_grid
    from sdsim.grid.table import outcome

    longest = 0.0
    for one in read_grid(file).cells()[::10]:
        started = time.process_time()
        assert one.cell is not None
        outcome(one.cell)
        longest = max(longest, time.process_time() - started)
    return longest


def main(rounds: int) -> None:
    """Print the best of *rounds* of each."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speed.yaml"
        file.write_text(SWEEP.format(folder=ROOT))
        one, two = (
            min((cost(file, jobs) for _ in range(rounds)), key=lambda c: c.main_s + c.workers_s) for jobs in (1, 2)
        )
        same = file.with_suffix(".1.parquet").read_bytes() == file.with_suffix(".2.parquet").read_bytes()
        longest = longest_s(file)
    print(f"one process: {one.main_s:.2f} s of processor, {one.wall_s:.2f} s by the clock")
    print(f"two: {two.main_s:.2f} s alone and {two.workers_s:.2f} s shared, {two.wall_s:.2f} s by the clock")
    print(f"tables {'are the same bytes' if same else 'DIFFER'}")
    ideal, worst = (one.main_s / (two.main_s + (two.workers_s + tail) / 2) for tail in (0.0, longest))
    print(f"speedup {worst:.3f} to {ideal:.3f} in processor time, {one.wall_s / two.wall_s:.2f} by the clock")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
