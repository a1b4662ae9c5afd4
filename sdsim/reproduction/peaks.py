"""Tables 1 and 2's peak speedups from the model fitted on one device, hardware ratios, sigma and one time per device.

- The target's times carry over by bytes and flops: over t tokens they are (1 / bandwidth) f(t / ridge), so another
  device keeps the ten parameters, with s raised to the ratio of the ridge points.
- One printed time per device (humaneval, temperature 0, the longest gamma: `T_AR`) sets their level, at the batch
  where the device's own speedup then peaks.
- The draft runs on one GPU whatever their number and waits for the host: it and the rejection take the milliseconds
  that they take on the sweep's device.
- sigma scales a curve and moves no peak, so a device has one peak for each gamma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from sdsim.models import load_model
from sdsim.moesd import Parameters, draft_time, reject_time, target_time
from sdsim.policy import FloatArray
from sdsim.reproduction.published import Cell, Device, published

WITHIN = 0.10
"""Relative error of a cell that counts as reproduced."""
OTHER_BATCH = 0.10
"""Relative difference of two T_AR of one device that are of different batches."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Curves:
    """One device's modelled speedup per unit of sigma, over the sweep's batches."""

    parameters: Parameters
    device: Device
    home: Device
    """Where the parameters were fitted."""
    per_token: int
    experts: int

    def target(self, tokens: FloatArray) -> FloatArray:
        """Return the target's forward of *tokens* tokens, up to a factor that the reference sets."""
        p = replace(self.parameters, s=self.parameters.s ** (self.home.ridge / self.device.ridge))
        return target_time(p, self.experts, self.device.ridge, tokens, self.per_token)

    def speedups(self, gamma: int, batch: FloatArray, level: float, draft_level: float) -> FloatArray:
        """Return eq. 4 without sigma at each *batch*: *level* is ms per unit of the target, *draft_level* of drafts."""
        draft = draft_level * draft_time(self.parameters, self.home.ridge, batch)
        reject = draft_level * reject_time(self.parameters, batch)
        decode, verify = level * self.target(batch), level * self.target(batch * gamma)
        return (gamma + 1) * decode / (gamma * draft + verify + reject)

    def level(self, gamma: int, batch: FloatArray, t_ar_ms: float, draft_level: float | None) -> float:
        """Return the level at which the target takes *t_ar_ms* at the peak of *gamma*; None drafts at that level too.

        Each batch proposes the level that makes it take so long; the one nearest to the peak that follows wins.
        """
        levels = t_ar_ms / self.target(batch)
        peaks = [
            int(np.argmax(self.speedups(gamma, batch, x, x if draft_level is None else draft_level))) for x in levels
        ]
        return float(levels[np.argmin(np.abs(np.array(peaks) - np.arange(len(batch))))])


def table_rows(parameters: Parameters) -> list[Row]:
    """Return a row for each cell of the sweep's model: printed, predicted, the error, and why where it misses."""
    paper = published()
    cells = [cell for cell in paper.cells if cell.model == paper.sweep.model]
    home = _reference(cells, paper.sweep.device)
    batch = np.array(paper.sweep.batches, float)
    draft_level = _curves(parameters, paper.sweep.device).level(home.gamma, batch, home.t_ar_ms, None)
    rows = []
    for name in paper.devices:
        curves, reference = _curves(parameters, name), _reference(cells, name)
        level = curves.level(reference.gamma, batch, reference.t_ar_ms, draft_level)
        for cell in (c for c in cells if c.device == name):
            gains = curves.speedups(cell.gamma, batch, level, draft_level)
            rows.append(_row(cell, reference, float(gains.max()), int(batch[gains.argmax()])))
    return [row | {"why": "" if row["within"] else _why(row, rows)} for row in rows]


def _curves(parameters: Parameters, device: str) -> Curves:
    paper = published()
    model = load_model(paper.sweep.model)
    home = paper.devices[paper.sweep.device]
    return Curves(parameters, paper.devices[device], home, model.experts_per_token, model.experts)


def _reference(cells: Sequence[Cell], device: str) -> Cell:
    """Return the cell whose T_AR sets the level of *device*: its first row, at the longest gamma."""
    mine = [c for c in cells if c.device == device]
    first = [c for c in mine if (c.dataset, c.temperature) == (mine[0].dataset, mine[0].temperature)]
    return max(first, key=lambda c: c.gamma)


def _row(cell: Cell, reference: Cell, gain: float, batch: int) -> Row:
    found = cell.sigma * gain
    error = found / cell.speedup - 1
    names = ("table", "device", "dataset", "temperature", "gamma", "sigma", "t_ar_ms", "t_sd_ms")
    return {name: getattr(cell, name) for name in names} | {
        "printed": cell.speedup,
        "predicted": found,
        "error": error,
        "within": abs(error) <= WITHIN,
        "peak_batch": batch,
        "t_ar_over_reference": cell.t_ar_ms / reference.t_ar_ms,
        "printed_round": cell.round_cost,
        "predicted_round": cell.sigma * (cell.gamma + 1) / found,
    }


def _why(row: Row, rows: Sequence[Row]) -> str:
    """Return what sets a missed cell apart, from the printed numbers around it."""
    ratio = row["t_ar_over_reference"]
    if abs(ratio - 1) > OTHER_BATCH:
        size = "larger" if ratio > 1 else "smaller"
        return f"its T_AR is {ratio:.2f} of the reference's: it was measured at a {size} batch than the model's peak"
    same = [r for r in rows if (r["device"], r["gamma"]) == (row["device"], row["gamma"])]
    if len({r["error"] > 0 for r in same}) == 1:
        off = median(r["error"] for r in same)
        side, cost = ("low", "less") if off < 0 else ("high", "more")
        home = published().sweep.device
        all_of = f"all {len(same)} cells of this device and gamma are {side} ({off:+.0%})"
        return f"{all_of}, as if drafts cost {cost} than on {home}"
    rest = median(r["printed_round"] for r in same if r is not row)
    return (
        f"its round cost {row['printed_round']:.2f} decode steps, the other {len(same) - 1} of this device and gamma "
        f"{rest:.2f} (median): scatter of one sweep"
    )


def not_covered() -> list[Cell]:
    """Return the printed cells of models without a sweep over sparsities, which nothing can be fitted to."""
    paper = published()
    return [cell for cell in paper.cells if cell.model != paper.sweep.model]
