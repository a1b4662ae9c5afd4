"""The lines of a text file, plain or gzip, in blocks of bounded size.

The compression is told by the file's first bytes, not by its name. A line is at most 1 MB, and a
compressed file at most 4 GiB of text that is not a hundred times its size, as requests never are: so no
file, however made, fills the memory or the day.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from sdsim.errors import did_you_mean
from sdsim.trace_readers.mistakes import Mistakes

BLOCK_BYTES = 2**18
LINE_BYTES = 10**6
TEXT_BYTES = 4 * 2**30
MOST_DENSE = 100
"""Text bytes of a compressed byte, once there are `DENSE_BYTES` of text."""
DENSE_BYTES = 2**25

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


class Lines(NamedTuple):
    """Some lines of a file, without their ends."""

    first: int
    """Number of the first line, from 1."""
    lines: list[bytes]
    cut: bool = False
    """Whether the last line is the file's last and has no line end."""


def blocks(path: Path, mistakes: Mistakes) -> Iterator[Lines]:
    """Yield the lines of the file *path*; empty lines at its end are left out, and CRLF counts as one end."""
    first, rest = 1, b""
    for data in _chunks(path, mistakes):
        rest = data.removeprefix(_BOM) if first == 1 and not rest else rest + data
        if rest.find(b"\n", 0, LINE_BYTES) < 0 and len(rest) > LINE_BYTES:
            mistakes.stop(f"a line over {LINE_BYTES:,} bytes; shorter ones are allowed; is this a trace?", first)
        end = rest.rfind(b"\n", 0, len(rest.rstrip())) + 1
        if end:
            lines = rest[: end - 1].replace(b"\r\n", b"\n").removesuffix(b"\r").split(b"\n")
            yield Lines(first, lines)
            first, rest = first + len(lines), rest[end:]
        if len(rest) > LINE_BYTES and b"\n" in rest:
            mistakes.stop("a megabyte of empty lines; lines of a trace are allowed; is this a trace?", first)
    if rest.strip():
        line, end_of_line, _ = rest.partition(b"\n")
        yield Lines(first, [line.removesuffix(b"\r")], cut=not end_of_line)


def _chunks(path: Path, mistakes: Mistakes) -> Iterator[bytes]:
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == _GZIP
            raw.seek(0)
            yield from _unzipped(raw, mistakes) if compressed else _pieces(raw)
    except FileNotFoundError:
        mistakes.stop(f"no such file{_neighbour(path)}; give the path of a trace, relative to the scenario's folder")
    except IsADirectoryError:
        mistakes.stop("a folder; this format reads one file; give the file's path")
    except OSError as error:
        mistakes.stop(f"cannot be read: {error.strerror or error}; a readable file is needed; check its permissions")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(BLOCK_BYTES):
        yield data


def _unzipped(raw: IO[bytes], mistakes: Mistakes) -> Iterator[bytes]:
    total = 0
    try:
        with gzip.open(raw) as file:
            for data in _pieces(cast(IO[bytes], file)):
                total += len(data)
                if total > TEXT_BYTES:
                    mistakes.stop(
                        f"decompresses to more than {TEXT_BYTES / 2**30:g} GiB; up to that is read; "
                        "split the file, or decompress it and use limit"
                    )
                if total > DENSE_BYTES and total > MOST_DENSE * raw.tell():
                    mistakes.stop(
                        f"{total / 1e6:,.0f} MB of text in the first {raw.tell():,} bytes; up to {MOST_DENSE} times "
                        "the size is allowed; is this a trace? if so, decompress it"
                    )
                yield data
    except EOFError:
        mistakes.stop("the gzip file is cut off; a whole file is needed; copy or download it again")
    except (gzip.BadGzipFile, zlib.error) as error:
        mistakes.stop(f"the gzip file is damaged ({error}); an intact file is needed; copy or download it again")


def _neighbour(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f" (nor a folder {path.parent})"
    return did_you_mean(path.name, names)
