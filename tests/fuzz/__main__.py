"""Fuzz one reader, guided by coverage: `python -m tests.fuzz trace NEW_FOLDER -runs=100000`, with the extra `fuzz`.

The kept corpus is where it starts; inputs with new coverage go to NEW_FOLDER. Options behind it are libFuzzer's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

COMPILED = ["sdsim.batch", "sdsim.streams"]
"""Compiled code cannot be followed."""

with atheris.instrument_imports(include=["sdsim"], exclude=COMPILED):
    from tests.fuzz import readers
    from tests.fuzz.words import changed

CORPUS = Path(__file__).with_name("corpus")
LIMITS = ("-timeout=5", "-rss_limit_mb=1500", "-max_len=4096", "-print_final_stats=1")
"""An input may take five seconds, and five hundred megabytes beyond what the interpreter and its packages hold."""


def main() -> None:
    """Fuzz the reader named by the first word."""
    name, new, *options = sys.argv[1:]
    Path(new).mkdir(parents=True, exist_ok=True)
    readers.survives(name, b"")  # what is loaded and compiled once is no input's doing
    atheris.Setup(
        [sys.argv[0], new, str(CORPUS / name), *LIMITS, *options],
        lambda data: readers.survives(name, data),
        custom_mutator=_mutated,
    )
    atheris.Fuzz()


def _mutated(data: bytes, most: int, seed: int) -> bytes:
    """Change words or bytes, by turns."""
    return changed(data, most, seed) if seed % 2 else bytes(atheris.Mutate(data, most))


if __name__ == "__main__":
    main()
