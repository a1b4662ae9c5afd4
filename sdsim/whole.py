"""Files and folders that are there whole or not at all, whenever their writer ends: drafts beside, then renamed.

What takes long is kept by the line meanwhile, so that its end loses no more than the line that it was at.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdsim.errors import ScenarioError


def refuse_existing(path: Path) -> None:
    """Raise ScenarioError if there is something at *path*, or nothing may be made there: before all work."""
    if path.exists():
        raise ScenarioError(f"{path}: exists already; name another with --out, or remove it")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise ScenarioError(f"{path}: cannot be written: nothing may be made in {above}; name another with --out")


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make *folder* with what *fill* puts into it, whole or not at all. Raises ScenarioError if it cannot."""
    refuse_existing(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ScenarioError(f"{folder}: cannot be written: {error}; name another folder with --out") from None
    try:
        fill(draft)
        draft.chmod(0o755)
        draft.replace(folder)
    except OSError as error:
        raise ScenarioError(f"{folder}: cannot be written: {error}; free space or name another folder") from None
    finally:
        with suppress(OSError):
            shutil.rmtree(draft)


def write_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Make the file *path* with what *fill* writes, whole or not at all. Raises ScenarioError if it cannot."""
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(draft)
        draft.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        with suppress(OSError):
            draft.unlink()


@contextmanager
def kept_lines(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield what adds a line to the file *path*, behind those that are there; one that was cut short stays alone.

    Once it returns, the end of this process does not lose the line. Raises ScenarioError if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="ascii")
    except OSError as error:
        raise _unwritable(path, error) from None

    def add(line: str) -> None:
        try:
            file.write(f"{line}\n")
            file.flush()
        except OSError as error:
            raise _unwritable(path, error) from None

    try:
        if file.tell():
            add("")
        yield add
    finally:
        with suppress(OSError):  # what it holds back could not be written, and that was said
            file.close()


def _unwritable(path: Path, error: OSError) -> ScenarioError:
    return ScenarioError(f"{path}: cannot be written: {error}; free space or name another file with --out")
