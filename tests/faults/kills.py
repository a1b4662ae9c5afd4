"""Commands killed at random moments, again and again: what they write is whole or absent, and complete in the end."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.faults.commands import COMMANDS, content, start

LONGEST_S = 60


class Killer:
    """Kills commands in *folder*, which `prepare` made; *wait_s* is how long each takes undisturbed."""

    def __init__(self, folder: Path, seed: int) -> None:
        # Forked from a process that holds everything imported, so that the moments are those of the work.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.faults.warm"])
        self.folder = folder
        self._random = random.Random(seed)
        self._whole: dict[str, dict[str, bytes]] = {}
        self._seconds: dict[str, float] = {}

    def learn(self, name: str) -> None:
        """Run the command *name* undisturbed, twice: what it writes, and how long it takes at best."""
        taken = []
        for _ in range(2):
            self._clear(name)
            started = time.monotonic()
            self._finish(name)
            taken.append(time.monotonic() - started)
        self._seconds[name] = min(taken)
        self._whole[name] = content(self.folder / COMMANDS[name].out)
        self._clear(name)

    def kill(self, name: str, kills: int) -> Counter[str]:
        """Kill the command *name* so many times at work, each time going on where it ended; return what was found."""
        found: Counter[str] = Counter()
        lost, out = 0, self.folder / COMMANDS[name].out
        while found["kills"] < kills:
            process = self.start(name)
            process.join(self._random.uniform(0, self._seconds[name]))
            lost += process.is_alive()
            found["kills" if process.is_alive() else "completed"] += 1
            process.kill()
            process.join()
            if out.exists():
                found["whole"] += 1
                self._check(name, lost)
                lost = 0
            else:
                found["absent"] += 1
        if self._begun(name):
            self.complete(name, lost)
        return found

    def complete(self, name: str, lost: int = 0) -> None:
        """Let the command *name* go on to its end; raise AssertionError for other bytes, or more done again than lost.

        *lost*: its processes that were killed at work.
        """
        self._finish(name)
        self._check(name, lost)

    def _begun(self, name: str) -> bool:
        return any(self.folder.glob(f"{COMMANDS[name].out}.*"))

    def start(self, name: str, *more: str, under: Callable[[], None] | None = None) -> BaseProcess:
        """Return the command *name*, started with *more* words *under* a limit; it goes on if it was begun."""
        resumed = ("--resume",) if COMMANDS[name].resumes and self._begun(name) else ()
        process = self._processes.Process(
            target=start, args=(name, str(self.folder), *resumed, *more), kwargs={"under": under}
        )
        process.start()
        return process

    def _finish(self, name: str) -> None:
        process = self.start(name)
        process.join(LONGEST_S)
        assert process.exitcode == 0, f"{name}: {process.exitcode}: {self.said(name)}"

    def _check(self, name: str, lost: int) -> None:
        """Raise AssertionError unless the output is what it should be, and *lost* kills cost one step each at most."""
        found, whole = content(self.folder / COMMANDS[name].out), self._whole[name]
        assert found == whole, f"{name}: other bytes in {[file for file in whole if found.get(file) != whole[file]]}"
        assert "Traceback" not in self.said(name), self.said(name)
        if (log := self.folder / f"{COMMANDS[name].out}.log").exists():
            again = Counter(log.read_text().splitlines())
            assert again.total() <= len(again) + lost, f"{name}: {again.total() - len(again)} again after {lost} kills"
        self._clear(name)

    def said(self, name: str) -> str:
        """Return what the command *name* wrote on stderr since it began."""
        said = self.folder / f"{name}.err"
        return said.read_text() if said.exists() else ""

    def _clear(self, name: str) -> None:
        out = COMMANDS[name].out
        for path in (*self.folder.glob(f"{out}*"), *self.folder.glob(f".{out}*"), *self.folder.glob(f"{name}.err")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
