"""Measurements in a process of their own: the GPU's memory is free again when it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from sdsim.errors import ScenarioError

STDERR = 2


def run_module(module: str, words: Sequence[str], what: str) -> None:
    """Run `python -m module words`, its output on stderr; raise ScenarioError, naming *what*, if it fails."""
    command = [sys.executable, "-m", module, *words]
    code = subprocess.run(command, check=False, stdout=STDERR).returncode  # noqa: S603
    if code:
        raise ScenarioError(
            f"{what}: {module} ended with exit code {code}; its own messages are above; mend that first"
        )
