"""Small files read whole, as text or JSON: regular ones of bounded size, so that no name can fill the memory or hang.

What cannot be read is an OSError or a ValueError whose text is the reason; readers say where it stands and what to do.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 10_000_000
"""A JSON text of empty lists takes some 25 times its size in memory."""


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """Return the text of the file *path*.

    Raises OSError if it cannot be opened, ValueError if it is no regular file (a pipe or a device may never end), has
    more than *most* bytes, or is not UTF-8.
    """
    regular_size(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"over {most:,} bytes; smaller files are allowed")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: not UTF-8 text") from None


def regular_size(path: Path) -> int:
    """Return the bytes of the file *path*. Raises OSError if there is none, ValueError if it is no regular file."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("a folder" if path.is_dir() else "a pipe or device; a regular file is allowed")
    return found.st_size


def read_json(path: Path, most: int = MAX_BYTES) -> Any:
    """Return what the JSON file *path* holds; raises as `read_text` and `parse_json` do."""
    return parse_json(read_text(path, most))


def parse_json(text: str) -> Any:
    """Return what *text* holds. Raises ValueError with the line of the fault; NaN and infinities are faults too."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reason(error: OSError | ValueError) -> str:
    """Return why a file cannot be read, without its name."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word}, which is no JSON")
