"""The errors that sdsim raises on purpose.

SdsimError                   anything a user can mend; the commands print it and exit with 2
├── ScenarioError            a scenario file, an option, a model or GPU name
├── CalibrationError         a calibration or engine file
├── CapacityError            a model or a request that can never fit the replica's memory
├── PolicyError              an unknown policy, wrong parameters, or an illegal plan
└── TraceError               a request trace

Every message says where, what was found, what is allowed and what to do, on one line a mistake.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SdsimError(Exception):
    """One or more mistakes, one line each; what no terminal should get of a file's words is written as escapes."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(map(_printable, problems))
        super().__init__("\n".join(self.problems))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class ScenarioError(SdsimError):
    """A scenario file, a command-line option, or a name in them is wrong."""


class CalibrationError(SdsimError):
    """A calibration or engine file is missing, truncated, or for something else."""


class CapacityError(SdsimError):
    """A model or a request can never fit into the replica's memory."""


class PolicyError(SdsimError):
    """A policy is unknown, built with wrong parameters, or returned an illegal plan."""


class TraceError(SdsimError):
    """A request trace is missing or malformed."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean x?` for the nearest of *allowed*, or an empty string."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


MANY = 16
"""Names up to which an error lists them all; of more, the nearest."""


def unknown(kind: str, word: str, allowed: Iterable[str]) -> str:
    """Return the sentence for a *word* that names no *kind*: what is allowed, and the nearest."""
    names = sorted(allowed)
    shown, more = names, ""
    if len(names) > MANY:
        shown = sorted(difflib.get_close_matches(word, names, n=MANY // 2, cutoff=0.0))
        more = f" and {len(names) - len(shown)} more"
    return f"unknown {kind} {word!r}; known: {', '.join(shown) or 'none'}{more}{did_you_mean(word, names)}"


MOST_SAID = 300
"""Characters of another library's message that an error repeats."""


def gpu_failure(where: str, error: RuntimeError) -> str:
    """Return the sentence for a GPU, or a driver, that gave up."""
    found = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:MOST_SAID]}"
    return f"{where}: the GPU failed: {found}; a GPU that measures is needed; see nvidia-smi"
