"""Azure LLM inference traces (github.com/Azure/AzurePublicDataset, CC-BY-4.0).

TIMESTAMP,ContextTokens,GeneratedTokens with times such as 2023-11-16 18:15:46.6805900, or as in the
traces of 2024 with +00:00 behind. A fraction has up to nine digits; the last line may lack its end.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdsim.policy import FloatArray
from sdsim.trace_readers.csv_rows import CsvFormat
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.rows import Rows, in_order
from sdsim.units import shown

QUANTUM_S = 1e-6
_WIDTH = 36
_MARKS = (b"-", b"-", b" T", b":", b":")
_PATTERN = re.compile(r"(19|20|21)\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,9})?(\+00:00)?")


def read(path: Path, _seed: int, mistakes: Mistakes) -> Iterator[Rows]:
    """Yield the rows of the trace *path*, times in s since the midnight before its first row."""
    return in_order(_format().read(path, mistakes), QUANTUM_S, mistakes)


def _format() -> CsvFormat:
    return CsvFormat(
        name="azure",
        header="TIMESTAMP,ContextTokens,GeneratedTokens",
        time="TIMESTAMP",
        prompt="ContextTokens",
        output="GeneratedTokens",
        time_dtype=f"S{_WIDTH}",
        seconds=_Clock().seconds,
        time_fault=_fault,
    )


class _Clock:
    """Turns times of day into seconds since the first day's midnight: exact, where seconds since 1970 are not."""

    def __init__(self) -> None:
        self._midnight: np.datetime64 | None = None

    def seconds(self, texts: npt.NDArray[np.bytes_]) -> FloatArray:
        if b"+" in texts.tobytes():
            texts = np.char.replace(texts, b"+00:00", b"").astype(texts.dtype)
        if not _plain(np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), _WIDTH)):
            raise ValueError("time")
        times = texts.astype(np.str_).astype("datetime64[ns]")
        if self._midnight is None:
            self._midnight = times[0].astype("datetime64[D]").astype("datetime64[ns]")
        return (times - self._midnight).astype(np.int64) / 1e9


def _plain(letters: npt.NDArray[np.uint8]) -> bool:
    """Return whether each row is as `_PATTERN` says, but for ranges: NumPy also reads `now`, `2023` and zones."""
    date, fraction = letters[:, :19], letters[:, 20:]
    digits = (date >= ord("0")) & (date <= ord("9"))
    marks = [4, 7, 10, 13, 16]
    return bool(
        np.delete(digits, marks, axis=1).all()
        and all(np.isin(date[:, place], list(allowed)).all() for place, allowed in zip(marks, _MARKS, strict=True))
        and np.isin(date[:, :2].astype(np.int64) @ [10, 1] - 11 * ord("0"), (19, 20, 21)).all()
        and np.isin(letters[:, 19], list(b".\0")).all()
        and (((fraction >= ord("0")) & (fraction <= ord("9"))) | (fraction == 0)).all()
        and not letters[:, 29:].any()
    )


def _fault(name: str, text: str) -> str | None:
    text = text.strip()
    try:
        if _PATTERN.fullmatch(text):
            dt.datetime.fromisoformat(text[:19])
            return None
    except ValueError:
        pass
    return f"{name} is {shown(text)}; 2023-11-16 18:15:46.6805900 is the form allowed; correct the line or delete it"
