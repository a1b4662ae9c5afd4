"""Where the paper's text and its own numbers disagree, each with the numbers that show it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from sdsim.models import load_model
from sdsim.moesd import full_activation_tokens
from sdsim.reproduction import h200
from sdsim.reproduction.published import Cell, published

SLIGHT = 0.005
"""Relative error of N(t) that counts as none."""
Row = dict[str, Any]


def errata(fit: Row, counts: Row | None) -> list[Row]:
    """Return what was found wrong: where, what is printed, and what the numbers say.

    *fit* is the fit's answer, *counts* the measured experts' one if there is any.
    """
    found = [_line_11(), _verified_tokens(), _mean_error(fit), _caption(), _draft_cost(), _ridge_points()]
    return [*found, *_independence(counts["models"] if counts else [])]


def _erratum(where: str, printed: str, found: str) -> Row:
    return {"where": where, "printed": printed, "found": found}


def _line_11() -> Row:
    """Algorithm 1's speedup never reaches sigma (gamma + 1) / 2, yet printed speedups do."""
    beyond = [c for c in published().cells if c.speedup >= c.sigma * (c.gamma + 1) / 2]
    top = max(beyond, key=lambda c: c.speedup / (c.sigma * (c.gamma + 1) / 2))
    limit = top.sigma * (top.gamma + 1) / 2
    return _erratum(
        "Algorithm 1, line 11",
        "divides by draft + ar + verify + reject",
        f"that stays below sigma (gamma + 1) / 2, which {len(beyond)} printed cells reach or exceed "
        f"({top.device}, gamma {top.gamma}: {top.speedup} against {limit:.2f}); eq. 4 divides by gamma draft + verify "
        "+ reject, and is used here",
    )


def _verified_tokens() -> Row:
    """A verification holds gamma + 1 positions a row, since the bonus token comes from it."""
    model, gamma = published().sweep.model, 4
    short, whole = (
        {row["batch"]: row["target_efficiency"] for row in h200.curve(model, k, (1, 8, 128))}
        for k in (gamma - 1, gamma)
    )
    said = ", ".join(f"{short[b]:.2f} becomes {whole[b]:.2f} at batch {b}" for b in whole)
    return _erratum(
        "eq. 2 to 4, Algorithm 1, line 7",
        "a verification of B gamma tokens",
        f"engines verify gamma + 1 positions a row: on an H200 target efficiency at gamma {gamma} of {said}",
    )


def _mean_error(fit: Row) -> Row:
    """Table 3's MSE is a sum: as a mean it would be an error as large as the speedups."""
    mse = published().mse
    stride = max(mse)
    text = (
        f"as means, {mse[stride]} and {mse[1]} are errors of {math.sqrt(mse[stride]):.2f} and {math.sqrt(mse[1]):.2f} "
    )
    speedups = [c.speedup for c in published().cells]
    text += f"in speedups of {min(speedups)} to {max(speedups)}: they can only be sums"
    if fit["errors"]:
        text += f" (half the sum of squares of the fit here: {fit['errors']['half_sum_of_squares']:.2f})"
    return _erratum("Table 3", "mean squared errors", text)


def _caption() -> Row:
    """Figure 1's caption has an expert count that its model does not have."""
    name, shape = next((n, s) for n, s in published().figure_1.items() if s["captioned"] != s["experts"])
    k, experts = shape["experts_per_token"], load_model(name).experts
    return _erratum(
        "Figure 1, caption", f"{name}: rho = {k}/{shape['captioned']}", f"its config.json routes {k} of {experts}"
    )


def _draft_cost() -> Row:
    """What one more draft token costs a round, from cells of one row that differ in gamma alone."""
    paper = published()
    rows: dict[tuple[str, str, float], dict[int, float]] = {}
    for cell in _sweep_cells():
        rows.setdefault(_row_key(cell), {})[cell.gamma] = cell.round_cost
    slopes = [(row[max(row)] - row[min(row)]) / (max(row) - min(row)) for row in rows.values()]
    measured = h200.curve(paper.sweep.model, 4, (8,))[0]["draft_over_decode"]
    return _erratum(
        "section 3.1",
        "a draft pass is usually under a tenth of a decode step",
        f"one more draft adds {median(slopes):.2f} decode steps to a round of Tables 1 and 2 (median of {len(slopes)} "
        f"rows; a little of it is verification); the draft alone is {measured:.3f} on an H200 in captured graphs, "
        "batch 8",
    )


def _sweep_cells() -> list[Cell]:
    """Return the cells of the model that Tables 1 and 2 share."""
    return [cell for cell in published().cells if cell.model == published().sweep.model]


def _row_key(cell: Cell) -> tuple[str, str, float]:
    return cell.device, cell.dataset, cell.temperature


def _ridge_points() -> Row:
    """Section 4.1's comparisons of devices, cell by cell."""
    cells = {(*_row_key(c), c.gamma): c.speedup for c in _sweep_cells()}
    said = []
    for higher, lower in (("2xH800", "2xA800"), ("4xL40", "4xA800")):
        pairs = [(x, cells[lower, *key[1:]]) for key, x in cells.items() if key[0] == higher]
        said.append(f"{higher} beats {lower} in {sum(a > b for a, b in pairs)} of {len(pairs)} cells")
    return _erratum("section 4.1", "a higher ridge point yields a larger speedup", ", ".join(said))


def _independence(models: Sequence[Row]) -> list[Row]:
    """Figure 1 is said to verify eq. 8; return nothing unless N(t) is above some counts."""
    above = [model for model in models if model["independent_worst"] > SLIGHT]
    if not above:
        return []
    over = sorted(above, key=lambda model: float(model["independent_worst"]))
    least, worst = over[0], over[-1]
    threshold = full_activation_tokens(worst["experts"], worst["per_token"])
    text = f"N(t) is above what {len(over)} of {len(models)} models touch, by {least['independent_worst']:.0%} to "
    text += f"{worst['independent_worst']:.0%} where it is worst ({worst['model']}: {worst['worst_tokens']} tokens; "
    text += f"eq. 9 expects 95% of the experts from {threshold} on)"
    return [_erratum("section 3.2, eq. 8", "measurements verify N(t)", text)]
