"""A grid of runs: a base scenario, axes over its keys, and the cells of every point.

`file` reads one, `journal` keeps the cells that are done, `table` writes all, `estimate` says what they will cost.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sdsim.experiment import Cell, cells
from sdsim.fingerprint import run_digest
from sdsim.scenario import Scenario
from sdsim.simulation import replace_policy

Axes = Mapping[str, Sequence[object]]
COVERED = frozenset({"policy", "engine", "seed", "seeds"})
"""Keys whose values every row has anyway."""


@dataclass(frozen=True, slots=True)
class Point:
    """One choice of a value on every axis: the scenario it gives, or what is wrong with it."""

    values: dict[str, object]
    scenario: Scenario | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class GridCell:
    """One row of the result: a run of a point, or a point that cannot be run."""

    point: Point
    cell: Cell | None

    @cached_property
    def key(self) -> str:
        """What the run rests on, as a digest: equal keys have equal results."""
        if self.cell is None:
            return json.dumps([self.point.values, self.point.problems])
        run = replace_policy(self.cell.scenario, self.cell.policy, self.cell.seed, self.cell.engine)
        return run_digest(run.resolved())


@dataclass(frozen=True)
class Grid:
    """The points of a sweep, in the order of its axes; the last turns fastest."""

    name: str
    axes: tuple[str, ...]
    points: tuple[Point, ...]

    def cells(self) -> list[GridCell]:
        """Return the rows: every engine, policy and seed of each point; one for a point that cannot be run."""
        return [
            GridCell(point, cell)
            for point in self.points
            for cell in (cells(point.scenario) if point.scenario else [None])
        ]

    def shown(self, point: Point) -> dict[str, Any]:
        """Return the values of *point* as a table holds them: in s and 1/s, words as written, the rest as JSON."""
        return {key: self._shown[key, json.dumps(point.values[key])] for key in self.axes if key not in COVERED}

    @cached_property
    def _shown(self) -> dict[tuple[str, str], Any]:
        found: dict[tuple[str, str], Any] = {}
        for point in sorted(self.points, key=lambda point: point.scenario is None):
            resolved = point.scenario.resolved() if point.scenario else {}
            for key, value in point.values.items():
                found.setdefault((key, json.dumps(value)), _plain(_at(resolved, key.split(".")), value))
        return found


def _at(data: object, path: Sequence[str]) -> object:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _plain(resolved: object, written: object) -> object:
    """Return a number or a word for the value of an axis."""
    if isinstance(resolved, bool | int | float):
        return resolved
    return written if written is None or isinstance(written, str | int | float) else json.dumps(written)


def product(axes: Axes, zipped: Sequence[Sequence[str]]) -> Iterator[dict[str, object]]:
    """Yield every choice of values: all combinations of *axes*, those *zipped* in step."""
    together = {key: tuple(group) for group in zipped for key in group}
    groups = list(dict.fromkeys(together.get(key, (key,)) for key in axes))
    columns = [list(zip(*(axes[key] for key in group), strict=True)) for group in groups]
    for rows in itertools.product(*columns):
        values = {
            key: value for group, row in zip(groups, rows, strict=True) for key, value in zip(group, row, strict=True)
        }
        yield {key: values[key] for key in axes}
