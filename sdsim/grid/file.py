"""A sweep file: `scenario`, a path or a scenario itself; `axes`, lists of values by dotted key; `zip`, axes in step.

```yaml
scenario: ../steady.yaml
axes:
  workload.rate: [8/s, 16/s]
  policy: [off, {kind: fixed, length: 3}]
  seed: [1, 2, 3]
```
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdsim.errors import ScenarioError, unknown
from sdsim.grid import Grid, Point, product
from sdsim.scenario import validated
from sdsim.scenario.file import Source, read_scenario
from sdsim.units import shown

KEYS = ("scenario", "axes", "zip")
MOST_POINTS = 100_000


def read_grid(path: Path, allow_code: bool = False) -> Grid:
    """Return the grid in the sweep file at *path*.

    Raises ScenarioError for mistakes in the file, where no point can be run (some may have mistakes), and without
    *allow_code* where any has a policy that is named as module:Class.
    """
    source = read_scenario(path)
    axes, zipped = _checked(source)
    base, folder, name = _base(source, path)
    points = [_point(values, _put(base, source, values), folder, name, allow_code) for values in product(axes, zipped)]
    if all(point.scenario is None for point in points):
        raise ScenarioError(*points[0].problems)
    return Grid(path.stem, tuple(axes), tuple(points))


def _checked(source: Source) -> tuple[dict[str, list[object]], list[list[str]]]:
    """Return the axes and the groups in step, or raise ScenarioError with all mistakes of form."""
    data = source.data if isinstance(source.data, Mapping) else {}
    for key in data:
        if key not in KEYS:
            source.complain((str(key),), f"{unknown('key', str(key)[:60], KEYS)}; correct or remove it")
    if not isinstance(data.get("scenario"), str | Mapping):
        source.complain(("scenario",), "missing; required: a scenario's path, or a scenario; add it")
    axes = data.get("axes", {})
    if not isinstance(axes, Mapping):
        source.complain(("axes",), f"found {shown(axes)}; allowed: lists by key; write workload.rate: [8/s, 16/s]")
        axes = {}
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            source.complain(("axes", key), f"found {shown(values)}; allowed: a list of values; write [value, ...]")
    source.refuse()
    zipped = _zipped(source, data.get("zip", []), axes)
    points = math.prod(len(values) for values in axes.values())
    for group in zipped:
        points //= len(axes[group[0]]) ** (len(group) - 1)
    if points > MOST_POINTS:
        source.complain(("axes",), f"found {points:,} points; allowed: {MOST_POINTS:,}; shorten the axes, or zip some")
    source.refuse()
    return dict(axes), zipped


def _zipped(source: Source, groups: Any, axes: Mapping[str, list[object]]) -> list[list[str]]:
    if not isinstance(groups, list) or not all(map(_names, groups)):
        message = f"found {shown(groups)}; allowed: lists of two axes or more; write [[workload.rate, slo.tpot]]"
        source.complain(("zip",), message)
        source.refuse()
    for key, count in Counter(key for group in groups for key in group).items():
        if key not in axes:
            source.complain(("zip",), f"{unknown('axis', str(key), axes)}; correct or remove it")
        elif count > 1:
            source.complain(("zip",), f"found {key} {count} times; allowed: once; remove it elsewhere")
    source.refuse()
    for group in groups:
        if len({len(axes[key]) for key in group}) > 1:
            lengths = ", ".join(f"{len(axes[key])} of {key}" for key in group)
            source.complain(("zip",), f"found {lengths}; allowed: as many values each; complete the shorter")
    source.refuse()
    return [list(group) for group in groups]


def _names(group: object) -> bool:
    return isinstance(group, list) and len(group) > 1 and all(isinstance(key, str) for key in group)


def _base(source: Source, path: Path) -> tuple[Source, Path, str]:
    """Return the base scenario as written, the folder that its paths start from, and its name."""
    given = source.data["scenario"]  # type: ignore[index]
    folder = path.absolute().parent
    if isinstance(given, str):
        file = folder / given
        return read_scenario(file), file.parent, file.stem
    places = {p[1:]: place for p, place in source.places.items() if p[:1] == ("scenario",)}
    return Source(source.name, given, places), folder, path.stem


def _put(base: Source, sweep: Source, values: dict[str, object]) -> Source:
    """Return the base with each of *values* put at its key, in the order of the axes."""
    source = Source(base.name, base.data, dict(base.places))
    for key, value in values.items():
        place = sweep.place(("axes", key))
        try:
            source.put(tuple(key.split(".")), value, place)
        except ValueError as error:
            source.problems.append((place, f"{place.text}: {key}: {error}"))
    return source


def _point(values: dict[str, object], source: Source, folder: Path, name: str, allow_code: bool) -> Point:
    """Return the point at *values*, as written in *source*: its scenario, or its mistakes."""
    if not allow_code:
        source.refuse_code()
    try:
        source.refuse()
        return Point(values, validated(source, folder, name, allow_code=True))
    except ScenarioError as error:
        return Point(values, None, error.problems)
