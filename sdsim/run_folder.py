"""Run folders, read back: what `Result.write` wrote, as the `Result` it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdsim.errors import ScenarioError
from sdsim.files import read_json, reason
from sdsim.recorder import DRAFTER_CODES, REQUEST_COLUMNS, STEP_COLUMNS
from sdsim.result import Result
from sdsim.run_tables import LARGEST, damaged, read_table
from sdsim.scenario import validated
from sdsim.scenario.file import read_scenario
from sdsim.units import shown

SPREAD = ("mean", "p50", "p90", "p99")
FIGURES: dict[str | None, tuple[str, ...]] = {
    None: (
        "output_tokens_per_s",
        "output_tokens_per_gpu_s",
        "goodput_rps",
        "slo_attainment",
        "preemptions",
        "steps",
        "mean_batch",
        "simulated_s",
        "wall_s",
        "steps_per_wall_s",
    ),
    "requests": ("offered", "finished", "unfinished"),
    **dict.fromkeys(("ttft_s", "tpot_s", "itl_s", "e2e_s"), SPREAD),
    "speculation": ("mean_draft_length", "acceptance_length", "acceptance_rate", "wasted_fraction", "off_fraction"),
    "moe": ("distinct_experts_mean",),
    "data_quality": ("measured", "interpolated", "extrapolated"),
}
"""The figures of a summary, and the part that they stand in: numbers, or null."""
UNDONE = ("first_token_s", "finish_s")
UNDEFINED = ("distinct_experts",)
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
    path = folder / "summary.json"
    runs = _object(path).get("runs", [])
    try:
        return {(str(run["engine"]), str(run["policy"])): i for i, run in enumerate(runs)}
    except (TypeError, KeyError):
        raise damaged(path, "runs without engine and policy") from None


def read_run(folder: Path, name: str | None = None, allow_code: bool = False) -> Result:
    """Return the run in *folder*; its scenario is called *name*, by default as the folder.

    Raises ScenarioError for a file that is missing, damaged, or of another version, and without *allow_code* for a
    policy that is named as module:Class.
    """
    summary = _summary(folder)
    file = folder / "scenario.yaml"
    scenario = validated(read_scenario(file), folder.absolute(), str(name or file), allow_code)
    requests, classes = read_table(folder / "requests.parquet", REQUEST_COLUMNS, "request_class", None, UNDONE)
    steps, _ = read_table(folder / "steps.parquet", STEP_COLUMNS, "drafter", tuple(DRAFTER_CODES), UNDEFINED)
    return Result(scenario, summary, requests, steps, classes)


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    summary = _object(path)
    for key in ("policy", "engine"):
        if not isinstance(summary.get(key), str):
            raise damaged(path, f"{key}: {shown(summary.get(key))}")
    if not (isinstance(summary.get("seed"), int) and 0 <= summary["seed"] < 2**63):
        raise damaged(path, f"seed: {shown(summary.get('seed'))}")
    for group, keys in FIGURES.items():
        part = summary if group is None else summary.get(group)
        for key in keys:
            if not isinstance(part, dict) or not _figure(part.get(key, "")):
                raise damaged(path, f"{key if group is None else group}: {shown(part)}")
    return summary


def _figure(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and abs(value) <= LARGEST)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise damaged(path, reason(error)) from None
    if not isinstance(found, dict):
        raise damaged(path, "not one JSON object")
    return found
