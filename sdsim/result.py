"""What a run leaves behind, in memory and as a folder.

A run folder holds scenario.yaml (as resolved, rerunnable), summary.json, requests.parquet and steps.parquet. It is
written beside its place and renamed, so that it is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sdsim.metrics import Columns
from sdsim.recorder import DRAFTER_CODES
from sdsim.scenario import Scenario

FRACTIONAL = frozenset({"arrival_s", "first_token_s", "finish_s", "start_s", "seconds", "distinct_experts"})
"""All other columns are whole numbers."""
UNITS = {"_s": "s", "_tokens": "tokens", "_blocks": "KV blocks", "seconds": "s", "draft_length": "tokens"}


@dataclass(frozen=True)
class Result:
    """One run: its scenario, its summary (the `--json` object), and its records as columns of float64."""

    scenario: Scenario
    summary: dict[str, Any]
    requests: Columns
    steps: Columns
    class_names: tuple[str, ...]

    @property
    def policy(self) -> str:
        """The policy's label."""
        return str(self.summary["policy"])

    def write(self, folder: Path) -> None:
        """Write the run's files into *folder*, which exists."""
        text = yaml.safe_dump(self.scenario.resolved(), sort_keys=False, allow_unicode=True)
        (folder / "scenario.yaml").write_text(text, encoding="utf-8")
        (folder / "summary.json").write_text(to_json(self.summary) + "\n", encoding="utf-8")
        write_parquet(self.requests, folder / "requests.parquet", {"request_class": self.class_names})
        write_parquet(self.steps, folder / "steps.parquet", {"drafter": tuple(DRAFTER_CODES)})

    def __repr__(self) -> str:
        """Return the summary as a table, for a REPL."""
        title = f"Result of {self.scenario.name}: {self.policy}, seed {self.summary['seed']}"
        return "\n".join([title, *_table(self.summary)])


def _table(summary: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each latency, then one for each other figure; what is undefined is a dash."""
    spreads = {name: one for name, one in summary.items() if isinstance(one, dict) and "p50" in one}
    points = list(next(iter(spreads.values())))
    yield f"{'':24}" + "".join(f"{point:>10}" for point in points)
    for name, one in spreads.items():
        yield f"{name:24}" + "".join(f"{_figure(one[point]):>10}" for point in points)
    for name, one in summary.items():
        if isinstance(one, dict) and name not in spreads:
            yield f"{name:24}" + ", ".join(f"{key} {_figure(value)}" for key, value in one.items())
        elif name not in spreads:
            yield f"{name:24}{_figure(one)}"


def _figure(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def to_json(summary: Any, indent: int | None = None) -> str:
    """Return strict JSON: NaN and infinities are mistakes, not values."""
    return json.dumps(summary, allow_nan=False, indent=indent)


def write_parquet(columns: Columns, path: Path, names: dict[str, tuple[str, ...]]) -> None:
    """Write columns with their units as metadata; coded columns become the *names* they stand for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays, schema = [], []
    for name, values in columns.items():
        if name in names:
            array = pa.array(np.array(names[name], dtype=object)[values.astype(np.int64)], pa.string())
        else:
            array = pa.array(values if name in FRACTIONAL else values.astype(np.int64))
        unit = next((u for suffix, u in UNITS.items() if name.endswith(suffix)), "")
        schema.append(pa.field(name, array.type, metadata={"unit": unit}))
        arrays.append(array)
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(schema)), path)
