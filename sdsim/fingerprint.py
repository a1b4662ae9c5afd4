"""What results rest on, as short digests: the package itself, the files that a scenario reads, a whole run."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy

SOURCES = frozenset({".py", ".json", ".yaml", ".csv"})


@cache
def package_digest() -> str:
    """Return the digest of sdsim's code and data, and of the libraries whose versions may move a figure."""
    root = Path(__file__).resolve().parent
    files = sorted(path for path in root.rglob("*") if path.suffix in SOURCES)
    return texts_digest([f"numpy {np.__version__} scipy {scipy.__version__}\n", *_lines(root, files)])


def run_digest(resolved: dict[str, Any]) -> str:
    """Return the digest of one run: its scenario as resolved, the files that this names, and the package."""
    named = {str(path): path_digest(path) for path in sorted(set(_files(resolved)))}
    return texts_digest([json.dumps([resolved, named, package_digest()], sort_keys=True)])


@cache
def path_digest(path: Path) -> str:
    """Return the digest of a file, or of all files in a folder; each is read once a process."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return texts_digest(_lines(path, files))


def _files(value: Any) -> Iterator[Path]:
    """Yield the files and folders that a resolved scenario names, and those of its policies' modules."""
    if isinstance(value, dict):
        for one in value.values():
            yield from _files(one)
        module = sys.modules.get(str(value.get("kind", "")).partition(":")[0])
        if module is not None and module.__file__ is not None:
            yield Path(module.__file__)
    elif isinstance(value, list):
        for one in value:
            yield from _files(one)
    elif isinstance(value, str) and Path(value).is_absolute() and Path(value).exists():
        yield Path(value)


def _lines(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        yield f"{path.relative_to(root).as_posix()} {content}\n"


def texts_digest(texts: Iterable[str]) -> str:
    """Return the digest of *texts*, one behind the other."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:32]
