"""The mistakes of one trace file: the first few in full, the others counted."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from sdsim.errors import TraceError

SHOWN = 5
MOST = 1000
"""Mistakes after which a file is given up: it is another kind of file."""


class Mistakes:
    """Collects the mistakes of the file *path* and raises them together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._shown: list[str] = []

    def add(self, line: int, text: str) -> None:
        """Note the mistake *text* (what was found; what is allowed; what to do) in *line*, counted from 1."""
        self.count += 1
        if self.count <= SHOWN:
            self._shown.append(f"{self.path}:{line}: {text}")
        if self.count >= MOST:
            self._raise(f"... and {self.count - SHOWN} more; reading stopped there")

    def stop(self, text: str, line: int | None = None) -> NoReturn:
        """Raise at once: nothing after this mistake can be read."""
        place = self.path if line is None else f"{self.path}:{line}"
        self._raise(*self._more(), f"{place}: {text}")

    def check(self) -> None:
        """Raise if there were mistakes."""
        if self.count:
            self._raise(*self._more())

    def _more(self) -> list[str]:
        return [f"{self.path}: ... and {self.count - SHOWN} more"] if self.count > SHOWN else []

    def _raise(self, *last: str) -> NoReturn:
        raise TraceError(*self._shown, *last)
