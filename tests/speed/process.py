"""A run as a whole process: its answer, its time and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent


class Measured(NamedTuple):
    """The JSON of a run, its seconds by the clock and of the processor, and the most memory it held, MB."""

    summary: dict[str, Any]
    wall_s: float
    cpu_s: float
    peak_mb: float


def measured(scenario: str) -> Measured:
    """Run the YAML text *scenario* in a process of its own: start, imports, reading and printing included."""
    with tempfile.TemporaryDirectory() as folder:
        file, answer = Path(folder) / "scenario.yaml", Path(folder) / "answer.json"
        file.write_text(scenario)
        started = time.perf_counter()
        with answer.open("wb") as out:
            process = subprocess.Popen([sys.executable, "-m", "sdsim.run", str(file), "--json"], cwd=ROOT, stdout=out)
            _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        if status:
            raise SystemExit(f"sdsim.run ended with status {os.waitstatus_to_exitcode(status)}")
        cpu_s = used.ru_utime + used.ru_stime
        return Measured(json.loads(answer.read_text()), wall_s, cpu_s, used.ru_maxrss / 1024)
