"""Kill run, sweep, profile_gpu and report_html by turns: `python -m tests.faults --kills 200`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.faults.commands import COMMANDS, prepare
from tests.faults.kills import Killer


def main() -> None:
    """Kill as often as asked; raise AssertionError for anything lost or half written."""
    p = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    p.add_argument("--kills", type=int, default=200, metavar="N", help="in all, shared by the commands (default 200)")
    p.add_argument("--seed", type=int, default=0, help="of the moments")
    options = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        killer = Killer(Path(folder), options.seed)
        for i, name in enumerate(COMMANDS):
            kills = (options.kills + i) // len(COMMANDS)
            started = time.monotonic()
            killer.learn(name)
            found = killer.kill(name, kills)
            print(f"{name}: {dict(found)} in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
