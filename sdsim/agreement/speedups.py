"""What the measured and the predicted steps say of speculation: the speedup, and the best draft length of each batch.

Both speedups use the tokens that the acceptance law expects of a step: the coins of 48 steps of a single sequence vary
by 10%, which is no matter of step times. Rows without a measured step of their batch at draft length 0 have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdsim.agreement.figures import relative_error

Row = dict[str, Any]
MEASURED, PREDICTED = "measured_speedup", "predicted_speedup"


def with_speedups(rows: Sequence[Row]) -> list[Row]:
    """Return *rows* with their speedups over draft length 0, None without it."""
    bases = {_place(row): row for row in rows if not row["draft_length"]}
    return [row | _speedups(row, bases.get(_place(row))) for row in rows]


def _place(row: Row) -> tuple[Any, ...]:
    return row["model"], row["engine"], row["gpu"], row["prompt"] or row["context"], row["batch"]


def _speedups(row: Row, base: Row | None) -> Row:
    if base is None:
        return {MEASURED: None, PREDICTED: None, "speedup_error": None}
    measured, predicted = (row["tokens_per_step"] * base[f"{k}_s"] / row[f"{k}_s"] for k in ("measured", "predicted"))
    return {MEASURED: measured, PREDICTED: predicted, "speedup_error": relative_error(predicted, measured)}


def best_lengths(rows: Sequence[Row]) -> list[Row]:
    """Return for each batch the draft length that was best, the one predicted to be, and what choosing that costs.

    The regret is the share of the best measured speedup that the predicted length misses. Only batches that were
    measured at two draft lengths or more are there.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["draft_length"])):
        if row["draft_length"] and row[MEASURED] is not None:
            groups.setdefault((_place(row), row["draft"]), []).append(row)
    bases = {_place(row): row for row in rows if not row["draft_length"]}
    return [_choice([bases[place], *group]) for (place, _), group in groups.items()]


def _choice(rows: Sequence[Row]) -> Row:
    best, chosen = (max(rows, key=lambda row: float(row[key])) for key in (MEASURED, PREDICTED))
    last = rows[-1]
    return {
        **{k: last[k] for k in ("model", "draft", "engine", "gpu", "prompt", "batch")},
        "measured_best": best["draft_length"],
        "predicted_best": chosen["draft_length"],
        "regret": 1.0 - chosen[MEASURED] / best[MEASURED],
    }
