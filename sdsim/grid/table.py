"""The result of a sweep: one row a cell, one column an axis, a figure or what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdsim.errors import SdsimError
from sdsim.experiment import Cell, told_apart
from sdsim.grid import Grid, GridCell
from sdsim.grid.journal import Outcome
from sdsim.scenario import PolicySpec
from sdsim.whole import write_file

MACHINES = frozenset({"wall_s", "steps_per_wall_s"})
"""Figures of the machine that ran it, not of the run."""
NAMES = ("policy", "policy_spec", "engine", "seed")


def outcome(cell: Cell) -> Outcome:
    """Run *cell*; return its summary, flattened to dotted keys, or what went wrong under `error`."""
    try:
        summary = cell.run().summary
    except SdsimError as error:
        return {"error": "; ".join(error.problems)}
    except Exception as error:  # a policy of a user's may raise anything, and costs its own cell only
        return {"error": f"{type(error).__name__}: {error}"}
    return dict(_flat({key: value for key, value in summary.items() if key not in MACHINES})) | {"error": None}


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, one in value.items():
        if isinstance(one, Mapping):
            yield from _flat(one, f"{above}{key}.")
        else:
            yield f"{above}{key}", one


def rows(grid: Grid, todo: Sequence[GridCell], outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Return the rows of *todo*: the point, the run's names, its figures, and `error`, None where all is well."""
    found = []
    for one in todo:
        if one.cell is None:
            found.append({**grid.shown(one.point), "error": "; ".join(one.point.problems)})
            continue
        cell, result = one.cell, outcomes[one.key]
        spec = json.dumps(cell.policy.model_dump(), sort_keys=True)
        names = {"policy": cell.policy.kind, "policy_spec": spec, "engine": cell.engine, "seed": cell.seed}
        found.append(grid.shown(one.point) | names | result)
    ran = [(i, one.cell.policy) for i, one in enumerate(todo) if one.cell is not None]
    for (i, _), name in zip(ran, _labels(found, ran), strict=True):
        found[i]["policy"] = name
    return found


def _labels(found: Sequence[dict[str, Any]], ran: Sequence[tuple[int, PolicySpec]]) -> list[str]:
    return told_apart((str(found[i]["policy"]), spec) for i, spec in ran)


CELLS = b"cells"
"""The key of a table's metadata under which stands what its cells rest on."""


def write_table(found: Sequence[Mapping[str, Any]], axes: Sequence[str], path: Path, cells: str) -> None:
    """Write *found* as parquet, whole or not at all: the same rows give the same bytes.

    *cells*, the digest of what they rest on, is kept with them for `tabled_cells`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    figures = dict.fromkeys(key for row in found for key in row)
    ordered = dict.fromkeys([*(key for key in axes if key in figures), *NAMES, *figures])
    names = [name for name in ordered if name != "error"]
    columns = {name: _column([row.get(name) for row in found]) for name in names}
    columns["error"] = pa.array([row["error"] for row in found], pa.string())
    table = pa.table(columns).replace_schema_metadata({CELLS: cells.encode()})
    write_file(path, lambda draft: pq.write_table(table, draft))


def tabled_cells(path: Path) -> str | None:
    """Return the digest that the table at *path* was written with; None if there is no such table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    return str(metadata.get(CELLS, b"").decode()) or None


def _column(values: Sequence[Any]) -> Any:
    """Return an array of whole numbers, numbers or text, whichever holds all of *values*; numbers if there are none."""
    import pyarrow as pa

    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {float, int}:
        return pa.array(values, pa.int64() if kinds == {int} else pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])
