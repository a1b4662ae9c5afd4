"""One speedup curve from four sources: the paper's points, the model, this project's executor, and real engines.

All are at the paper's sigma, each on its own hardware. A point says where it is from; `our model` stands twice: as
Algorithm 1 on the paper's device, and as kernel prices on an H200, in captured graphs and as each engine measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sdsim.models import load_model
from sdsim.moesd import Parameters
from sdsim.reproduction import h200
from sdsim.reproduction.fitting import predicted
from sdsim.reproduction.points import Point
from sdsim.reproduction.published import published

PAPER, ALGORITHM, PRICES, EXECUTOR = "paper", "Algorithm 1", "our model", "executor"
BEYOND = (128, 160, 192, 224, 256)
"""Batches after the paper's, to where engines are measured."""
GAMMAS = (2, 3, 4)
"""Those of Tables 1 and 2."""
Row = dict[str, Any]


def engine_model(engine: str) -> str:
    """Return what the prices of an *engine* are called."""
    return f"{PRICES} of {engine}"


def source_rows(parameters: Parameters, points: Sequence[Point], measured: Sequence[Row]) -> list[Row]:
    """Return a row for each point of the sweep's model in any source; *measured* is of `measured_rows`.

    `paired` tells whether a measured step without drafts stands beside it, None where that is no question.
    """
    sweep = published().sweep
    own = load_model(sweep.model).experts_per_token
    rows = [_row(PAPER, sweep.device, p.gamma, p.batch, p.speedup) for p in points if p.per_token == own]
    for gamma in GAMMAS:
        batches = [Point(own, gamma, batch, 1.0) for batch in sweep.batches]
        found = predicted(parameters, batches)
        rows += [_row(ALGORITHM, sweep.device, gamma, p.batch, float(x)) for p, x in zip(batches, found, strict=True)]
        priced = h200.curve(sweep.model, gamma, (*sweep.batches, *BEYOND))
        rows += [_row(PRICES, h200.GPU, gamma, row["batch"], row["speedup"]) for row in priced]
    return rows + _measured(row for row in measured if row["model"] == sweep.model and row["gamma"] in GAMMAS)


def _measured(steps: Iterable[Row]) -> list[Row]:
    """Return measured points; those of an engine each with its price."""
    rows = []
    for step in sorted(steps, key=lambda row: (row["source"], row["gamma"], row["batch"])):
        source, where = step["source"], (step["gpu"], step["gamma"], step["batch"])
        rows.append(_row(source, *where, step["speedup"], step["paired"]))
        if source != EXECUTOR:
            rows.append(_row(engine_model(source), *where, step["predicted_speedup"]))
    return rows


def _row(source: str, device: str, gamma: int, batch: int, speedup: float, paired: bool | None = None) -> Row:
    return {"source": source, "device": device, "gamma": gamma, "batch": batch, "speedup": speedup, "paired": paired}


def peak_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the highest speedup of each source and gamma of `source_rows`, after what the paper prints.

    Steps that are not paired count only where no other is. `points` is how many it is the highest of; None for a
    printed peak, whose batch is not printed either.
    """
    printed = [c for c in published().cells if (c.model, c.dataset, c.temperature) == _printed_setting()]
    peaks = [
        _row("paper, printed", cell.device, cell.gamma, 0, cell.speedup) | {"batch": None, "points": None}
        for cell in printed
    ]
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["source"], row["device"], row["gamma"]), []).append(row)
    return peaks + [_peak(group) for group in groups.values()]


def _peak(rows: Sequence[Row]) -> Row:
    trusted = [row for row in rows if row["paired"] is not False] or rows
    return max(trusted, key=lambda row: float(row["speedup"])) | {"points": len(trusted)}


def _printed_setting() -> tuple[str, str, float]:
    """Return the model, dataset and temperature of Figure 4: those of Table 1's first row."""
    first = published().cells[0]
    return first.model, first.dataset, first.temperature
