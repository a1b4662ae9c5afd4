"""What `reproduce` finds, as plain values: the fit, both tables, the curves of the figures, experts, and errata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdsim.models import load_model
from sdsim.moesd import Parameters
from sdsim.reproduction import h200
from sdsim.reproduction.counts import compare_counts, read_counts
from sdsim.reproduction.errata import errata
from sdsim.reproduction.fitting import FEWEST, efficiency, fit_answer, fit_points, fit_subsets, predicted
from sdsim.reproduction.measured import read_records
from sdsim.reproduction.peaks import WITHIN, not_covered, table_rows
from sdsim.reproduction.points import HOW_TO_GET, Point, read_points
from sdsim.reproduction.published import published
from sdsim.reproduction.sources import EXECUTOR, peak_rows, source_rows

GAMMA = 4
"""Draft length of Figures 2 and 3."""
Row = dict[str, Any]


def reproduce(points: Path | None, counts: Sequence[Path], measured: Sequence[Path]) -> Row:
    """Return the answer: what the paper prints, and what the given files add to it. Raises SdsimError.

    *points* were read off Figure 4, *counts* hold measured distinct experts, *measured* steps of engines.
    """
    read = None if points is None else read_points(points)
    found = [count for path in counts for count in read_counts(path)]
    steps = read_records(measured)
    fitted = fit_points(read) if read and len(read) >= FEWEST else published().fit
    fit = fit_answer(fitted, read)
    experts = compare_counts(found) if found else None
    sources = source_rows(fitted.parameters, read or [], steps)
    cells = table_rows(fitted.parameters)
    return {
        "paper": "arXiv 2505.19645",
        "fit": fit,
        "tables": {
            "tolerance": WITHIN,
            "cells": len(cells),
            "within": within(fitted.parameters),
            "within_of_subsets": sorted(within(one.parameters) for one in fit_subsets(read or [])),
            "not_covered": len(not_covered()),
            "rows": cells,
        },
        "peaks": peak_rows(sources),
        "sources": sources,
        "efficiency": efficiency_rows(fitted.parameters, steps),
        "sparsity": sparsity_rows(fitted.parameters, read or []),
        "experts": experts,
        "errata": errata(fit, experts),
        "lacking": lacking(read, found, steps),
    }


def within(parameters: Parameters) -> int:
    """Return how many cells of Tables 1 and 2 *parameters* reproduce."""
    return sum(row["within"] for row in table_rows(parameters))


def efficiency_rows(parameters: Parameters, steps: Sequence[Row]) -> list[Row]:
    """Return target efficiencies at Figure 2's and 3's gamma: of Algorithm 1, H200 prices and executor."""
    sweep = published().sweep
    found = efficiency(parameters, GAMMA, sweep.batches)
    rows = [
        _efficiency("Algorithm 1", sweep.model, batch, value) for batch, value in zip(sweep.batches, found, strict=True)
    ]
    for model in (sweep.model, h200.DENSE):
        priced = h200.curve(model, GAMMA, sweep.batches)
        rows += [_efficiency("our model", model, row["batch"], row["target_efficiency"]) for row in priced]
        mine = [s for s in steps if (s["model"], s["gamma"], s["source"]) == (model, GAMMA, EXECUTOR)]
        rows += [
            _efficiency(EXECUTOR, model, s["batch"], s["target_efficiency"]) for s in mine if s["target_efficiency"]
        ]
    return rows


def _efficiency(source: str, model: str, batch: int, value: float) -> Row:
    kind = "MoE" if load_model(model).experts else "dense"
    return {"source": source, "model": model, "kind": kind, "gamma": GAMMA, "batch": batch, "target_efficiency": value}


def sparsity_rows(parameters: Parameters, points: Sequence[Point]) -> list[Row]:
    """Return Figure 4: each number of experts per token, gamma and batch, None for what has no point."""
    sweep = published().sweep
    paper = {point[:3]: point.speedup for point in points}
    rows = []
    for k in sweep.experts_per_token:
        for gamma in sweep.gammas:
            fitted = predicted(parameters, [Point(k, gamma, batch, 1.0) for batch in sweep.batches])
            priced = h200.curve(sweep.model, gamma, sweep.batches, k)
            rows += [
                {
                    "experts_per_token": k,
                    "gamma": gamma,
                    "batch": row["batch"],
                    "paper": paper.get((k, gamma, row["batch"])),
                    "algorithm_1": float(x),
                    "our_model": row["speedup"],
                    "data_quality": row["data_quality"],
                }
                for row, x in zip(priced, fitted, strict=True)
            ]
    return rows


def lacking(points: Sequence[Point] | None, counts: Sequence[object], steps: Sequence[Row]) -> list[str]:
    """Return what could not be done, and which file would do it."""
    model = published().sweep.model
    mine = {step["source"] for step in steps if step["model"] == model}
    notes = []
    if points is None:
        notes.append(HOW_TO_GET)
    elif len(points) < FEWEST:
        notes.append(
            f"--points: {len(points)} are too few for ten parameters, the shipped ones stay; {FEWEST} would do"
        )
    if not counts:
        notes.append(
            "--counts: not given, so independence of experts (eq. 8) is held against nothing. Give a CSV file with the "
            "columns model, E, k, t, kind (consecutive, different requests, random) and unique_measured."
        )
    if EXECUTOR not in mine:
        notes.append(
            f"--measured: no steps of {model} by this project's executor. "
            f"tests/records/executor-{model}.jsonl has some, and "
            f"`python -m sdsim.crosscheck --on gpu --model {model} --out DIR` measures others."
        )
    if not mine - {EXECUTOR}:
        notes.append(
            f"--measured: no steps of {model} with drafts by a real engine. "
            f"`python -m sdsim.crosscheck --on vllm --model {model} --out DIR` measures them."
        )
    others = sorted({step["model"] for step in steps} - {model, h200.DENSE})
    if others:
        notes.append(f"--measured: steps of {', '.join(others)} are in no figure of the paper, and not shown.")
    cells = not_covered()
    notes.append(
        f"Table 1's {len(cells)} cells of {cells[0].model} have no sweep to fit a model to; Figure 3's dense curve "
        f"is of OPT-30b, ours of {h200.DENSE}."
    )
    return notes
