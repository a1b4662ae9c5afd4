"""Run folders, read back: what `Result.write` wrote, as the `Result` it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sdsim.errors import ScenarioError
from sdsim.files import read_json, reason
from sdsim.metrics import Columns
from sdsim.recorder import DRAFTER_CODES, REQUEST_COLUMNS, STEP_COLUMNS
from sdsim.result import Result
from sdsim.scenario import validated
from sdsim.scenario.file import read_scenario

FILES = ("scenario.yaml", "summary.json", "requests.parquet", "steps.parquet")


def find_runs(folder: Path) -> list[Path]:
    """Return the single runs at *folder*: itself, or its parts in the order of its summary, seeds ascending.

    Raises ScenarioError where there is none.
    """
    if is_run(folder):
        return [folder]
    parts = [part for part in sorted(folder.iterdir()) if is_run(part)] if folder.is_dir() else []
    if not parts:
        found = "holds no run" if folder.is_dir() else "no such folder"
        allowed = f"allowed: a folder that sdsim.run wrote, with {', '.join(FILES)}, or one of several such"
        raise ScenarioError(f"{folder}: {found}; {allowed}; check the path, or run with --out {folder}")
    ranks = _ranks(folder)
    heads = {part: _summary(part) for part in parts}
    last = len(ranks)
    return sorted(parts, key=lambda p: (ranks.get((heads[p]["engine"], heads[p]["policy"]), last), heads[p]["seed"]))


def is_run(folder: Path) -> bool:
    """Return whether *folder* holds every file of a run."""
    return all((folder / name).is_file() for name in FILES)


def _ranks(folder: Path) -> dict[tuple[str, str], int]:
    """Return the place of each engine and policy in the summary of several runs."""
    if not (folder / "summary.json").is_file():
        return {}
    runs = _object(folder / "summary.json").get("runs", [])
    return {(run["engine"], run["policy"]): i for i, run in enumerate(runs)}


def read_run(folder: Path, name: str | None = None, allow_code: bool = False) -> Result:
    """Return the run in *folder*; its scenario is called *name*, by default as the folder.

    Raises ScenarioError for a file that is missing, damaged, or of another version, and without *allow_code* for a
    policy that is named as module:Class.
    """
    summary = _summary(folder)
    file = folder / "scenario.yaml"
    scenario = validated(read_scenario(file), folder.absolute(), str(name or file), allow_code)
    requests, classes = _read(folder / "requests.parquet", REQUEST_COLUMNS, "request_class", None)
    steps, _ = _read(folder / "steps.parquet", STEP_COLUMNS, "drafter", tuple(DRAFTER_CODES))
    return Result(scenario, summary, requests, steps, classes)


def _read(
    path: Path, columns: tuple[str, ...], coded: str, names: tuple[str, ...] | None
) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of a table as float64, the *coded* one by its place in *names*, and these names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, str(error).splitlines()[0]) from None
    lacking = [column for column in columns if column not in table.column_names]
    if lacking:
        raise _damaged(path, f"no column {', '.join(lacking)}")
    words = np.array(table.column(coded).to_pylist(), dtype=object)
    known = names or tuple(sorted(set(words)))
    plain = {c: np.asarray(table.column(c), dtype=float) for c in table.column_names if c != coded}
    codes = {word: float(i) for i, word in enumerate(known)}
    return plain | {coded: np.array([codes[word] for word in words], dtype=float)}, known


def _summary(folder: Path) -> dict[str, Any]:
    summary = _object(folder / "summary.json")
    lacking = [key for key in ("policy", "engine", "seed", "ttft_s") if key not in summary]
    if lacking:
        raise _damaged(folder / "summary.json", f"no {', '.join(lacking)}")
    return summary


def _object(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, reason(error)) from None
    if not isinstance(found, dict):
        raise _damaged(path, "not one JSON object")
    return found


def _damaged(path: Path, found: str) -> ScenarioError:
    return ScenarioError(f"{path}: {found}; allowed: the file as sdsim.run wrote it; run the scenario again")
