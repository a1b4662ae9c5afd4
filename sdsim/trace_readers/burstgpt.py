"""BurstGPT traces (github.com/HPMLL/BurstGPT, CC-BY-4.0; Wang et al. 2024).

Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type with times
in seconds, whole ones; the first edition has no session and no elapsed time. A response of 0 tokens is
a failed request.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdsim.policy import FloatArray
from sdsim.trace_readers.csv_rows import CsvFormat
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.rows import Rows, in_order, not_negative, seconds_fault, text_number

QUANTUM_S = 1.0


def read(path: Path, _seed: int, mistakes: Mistakes) -> Iterator[Rows]:
    """Yield the rows of the trace *path*."""
    return in_order(_FORMAT.read(path, mistakes), QUANTUM_S, mistakes)


def _seconds(times: npt.NDArray[np.generic]) -> FloatArray:
    return not_negative(times.astype(np.float64))


def _fault(name: str, text: str) -> str | None:
    return seconds_fault(name, text, text_number(text))


_FORMAT = CsvFormat(
    name="burstgpt",
    header="Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
    time="Timestamp",
    prompt="Request tokens",
    output="Response tokens",
    time_dtype="f8",
    seconds=_seconds,
    time_fault=_fault,
)
