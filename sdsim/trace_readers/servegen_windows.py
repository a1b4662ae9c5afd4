"""The windows of a ServeGen client: how many requests arrive in each, and how unevenly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdsim.policy import FloatArray
from sdsim.trace_readers.kinds import looks_like, wrong_format
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.rows import text_number
from sdsim.trace_readers.text import blocks
from sdsim.units import shown

WINDOW_S = 600.0
"""Length of a window where the file has only one."""
MAX_REQUESTS = 3 * 10**6
"""Of all clients together in a window, which is generated at once."""
COLUMNS = "start, rate, CV, Gamma or Weibull, shape, scale"


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a client."""

    start_s: float
    length_s: float
    requests: int
    law: str
    """`Gamma` or `Weibull`; empty without requests."""
    shape: float

    def arrivals(self, generator: np.random.Generator) -> FloatArray:
        """Return ascending arrival times, s."""
        draw = generator.standard_gamma if self.law == "Gamma" else generator.weibull
        reached = np.cumsum(draw(self.shape, self.requests + 1))
        share = reached[:-1] / reached[-1] if reached[-1] > 0.0 else np.zeros(self.requests)
        return self.start_s + self.length_s * np.minimum(share, np.nextafter(1.0, 0.0))


def read_windows(file: Path) -> list[Window]:
    """Return the windows of the client trace *file*."""
    mistakes = Mistakes(file)
    rows = [row for row in _rows(file, mistakes) if row is not None]
    mistakes.check()
    if not rows:
        mistakes.stop(f"an empty file; lines of {COLUMNS} are needed; give another client")
    starts = [row[0] for row in rows]
    lengths = np.diff(starts, append=starts[-1] + (starts[-1] - starts[-2] if len(starts) > 1 else WINDOW_S))
    windows = [
        Window(start, float(length), round(rate * length), law, shape)
        for (start, rate, law, shape), length in zip(rows, lengths, strict=True)
    ]
    for window in windows:
        if window.requests > MAX_REQUESTS:
            found = f"{window.requests:,} requests in the window at {window.start_s:g} s"
            mistakes.stop(f"{found}; up to {MAX_REQUESTS:,} are allowed; correct its rate")
    return windows


def _rows(file: Path, mistakes: Mistakes) -> Iterator[tuple[float, float, str, float] | None]:
    before = -1.0
    for block in blocks(file, mistakes):
        for number, line in enumerate(block.lines, block.first):
            text = line.decode(errors="replace")
            if number == 1 and looks_like(text) not in (None, "servegen"):
                mistakes.stop(wrong_format(text, "servegen", COLUMNS), 1)
            fields = [field.strip() for field in text.split(",")]
            fault = _fault(fields, before)
            if fault:
                mistakes.add(number, f"{fault}; {COLUMNS} are allowed; correct the line or delete it")
                continue
            before = float(fields[0])
            yield before, float(fields[1]), fields[3], float(fields[4])


def _fault(fields: Sequence[str], before: float) -> str | None:
    if len(fields) != 6:
        return f"{len(fields)} columns, not 6"
    start, rate, _cv, law, shape, _scale = fields
    for name, text in (("start", start), ("rate", rate), ("shape", shape)):
        number = text_number(text)
        if number is None or not 0.0 <= number <= 1e9:
            return f"{name} is {shown(text)}"
    if float(start) <= before:
        return f"start {start} is not after the line before"
    if float(rate) > 0.0 and (law not in ("Gamma", "Weibull") or float(shape) == 0.0):
        return f"law {shown(law)} with shape {shape}"
    return None
