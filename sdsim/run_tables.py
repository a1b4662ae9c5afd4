"""The tables of a run folder, read back: columns of doubles, checked, since the files may be anybody's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdsim.errors import ScenarioError
from sdsim.files import regular_size
from sdsim.metrics import Columns
from sdsim.policy import FloatArray

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MOST_COLUMNS = 64
SMALL_ROWS = 10_000
BYTES_A_ROW = 4
"""Of a table with more than `SMALL_ROWS`, at least: each row has a time of its own, which hardly compresses."""
MOST_WORD_BYTES = 100
LARGEST = 2.0**62


def read_table(
    path: Path, columns: Sequence[str], coded: str, names: Sequence[str] | None, unknown: Sequence[str] = ()
) -> tuple[Columns, tuple[str, ...]]:
    """Return the table at *path* as doubles, the column *coded* as the place of its words in *names*, and these names.

    *columns* must be there. *names* of None are the words that occur, sorted. Only in the columns *unknown* may values
    be NaN. Raises ScenarioError for a file that is no such table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        size = regular_size(path)
        with pq.ParquetFile(path) as file:
            _check_shape(path, file, size, columns, coded)
            table = file.read(use_threads=False)
        words, codes = _coded(path, table.column(coded), names)
        plain = {name: _numbers(path, table, name, name in unknown) for name in table.column_names if name != coded}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise damaged(path, (str(error).splitlines() or ["not a table"])[0][:200]) from None
    return plain | {coded: codes}, words


def damaged(path: Path, found: str) -> ScenarioError:
    """Return the error of a file that is not as sdsim.run wrote it."""
    return ScenarioError(f"{path}: {found}; allowed: the file as sdsim.run wrote it; run the scenario again")


def _check_shape(path: Path, file: pq.ParquetFile, size: int, columns: Sequence[str], coded: str) -> None:
    import pyarrow.types as kinds

    schema, rows = file.schema_arrow, file.metadata.num_rows
    if lacking := [name for name in columns if name not in schema.names]:
        raise damaged(path, f"no column {', '.join(lacking)}")
    if len(schema.names) > MOST_COLUMNS or len(set(schema.names)) < len(schema.names):
        raise damaged(path, f"{len(schema.names)} columns, or two of a name")
    if rows > max(SMALL_ROWS, size // BYTES_A_ROW):
        raise damaged(path, f"{rows:,} rows in {size:,} bytes")
    for one in schema:
        number = kinds.is_integer(one.type) or kinds.is_floating(one.type)
        if not (kinds.is_string(one.type) if one.name == coded else number):
            raise damaged(path, f"a column {one.name[:60]} of {str(one.type)[:60]}")
    place = schema.get_field_index(coded)
    chunks = [file.metadata.row_group(i).column(place) for i in range(file.metadata.num_row_groups)]
    if sum(chunk.total_uncompressed_size for chunk in chunks) > MOST_WORD_BYTES * max(rows, SMALL_ROWS):
        raise damaged(path, f"long words in {coded}")


def _coded(path: Path, column: pa.ChunkedArray, names: Sequence[str] | None) -> tuple[tuple[str, ...], FloatArray]:
    found = column.combine_chunks().dictionary_encode()
    words = found.dictionary.to_pylist()
    if found.null_count or any(names is not None and word not in names for word in words):
        raise damaged(path, "a word that is none of its own")
    known = tuple(names if names is not None else sorted(words))
    place = np.array([known.index(word) for word in words], dtype=float)
    return known, place[np.asarray(found.indices)] if words else np.empty(0)


def _numbers(path: Path, table: pa.Table, name: str, unknown: bool) -> FloatArray:
    values = np.asarray(table.column(name), dtype=float)
    fine = np.abs(values) <= LARGEST
    if not np.all(fine | np.isnan(values) if unknown else fine):
        raise damaged(path, f"column {name[:60]}: a value that is not finite")
    return values
