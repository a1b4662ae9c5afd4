"""Algorithm 1 on the points of Figure 4: the ten parameters, how well they fit, and how well they predict other points.

The bounds are appendix C.2's, from bytes and peak rates. Two things in them are not printed and are taken here: the
dense part is all parameters outside the feed-forwards, and the longest rejection is `LONGEST_REJECT_MS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sdsim.models import Model, load_model
from sdsim.moesd import Parameters, bounds, fit, model_speedup, target_time
from sdsim.policy import FloatArray
from sdsim.reproduction.points import Point, as_measurements
from sdsim.reproduction.published import Fit, published

LONGEST_REJECT_MS = 2.0
STARTS = 8
NEAR_A_BOUND = 1e-3
"""Of the bound: the optimiser stops just inside."""
FEWEST = 11
"""Points: one more than there are parameters."""
Row = dict[str, Any]


def paper_bounds() -> tuple[Parameters, Parameters]:
    """Return the lowest and highest parameters on the sweep's device, times in ms."""
    sweep = published().sweep
    device, model = published().devices[sweep.device], load_model(sweep.model)
    draft = load_model(published().drafts[sweep.model])
    per_ms = 1e-3 * device.bandwidth
    return bounds(
        model.weight_bytes * _outside_feed_forwards(model) / per_ms,
        model.expert_bytes * model.moe_layers * model.expert_parameters / per_ms,
        draft.weights_bytes / (1e-3 * device.gpu.bandwidth),
        LONGEST_REJECT_MS,
    )


def _outside_feed_forwards(model: Model) -> float:
    routed = model.experts * model.expert_parameters + model.shared_parameters
    return model.parameters - model.moe_layers * routed - model.dense_layers * model.dense_ffn_parameters


def fit_points(points: Sequence[Point]) -> Fit:
    """Return the parameters of the least squared error on *points*."""
    device, model = published().devices[published().sweep.device], load_model(published().sweep.model)
    found, rmse = fit(as_measurements(list(points)), model.experts, device.ridge, paper_bounds(), STARTS)
    return Fit(found, len(points), rmse)


def fit_subsets(points: Sequence[Point]) -> list[Fit]:
    """Return a fit to every 11th of *points*, as the paper does, from each of the first 11 on."""
    stride = published().sweep.stride
    parts = [points[first::stride] for first in range(stride)]
    return [fit_points(part) for part in parts if len(part) >= FEWEST]


def predicted(parameters: Parameters, points: Sequence[Point]) -> FloatArray:
    """Return the modelled speedup of each of *points* on the sweep's device."""
    device, model = published().devices[published().sweep.device], load_model(published().sweep.model)
    return model_speedup(parameters, model.experts, device.ridge, as_measurements(list(points)))


def efficiency(parameters: Parameters, gamma: int, batches: Sequence[int]) -> list[float]:
    """Return the modelled target efficiency at each of *batches* on the sweep's device, B gamma tokens verified."""
    device, model = published().devices[published().sweep.device], load_model(published().sweep.model)
    batch = np.array(batches, float)
    once, verify = (
        target_time(parameters, model.experts, device.ridge, batch * n, model.experts_per_token) for n in (1, gamma)
    )
    return [float(x) for x in once / verify]


def fit_answer(fitted: Fit, points: Sequence[Point] | None) -> Row:
    """Return the fit as plain values; with *points*, its errors on them and those of the paper's way to fit."""
    low, high = (asdict(p) for p in paper_bounds())
    values = asdict(fitted.parameters)
    answer: Row = {
        "source": "shipped" if points is None else "points",
        "points": fitted.points,
        "rmse": fitted.rmse,
        "parameters": values,
        "bounds": {k: [low[k], high[k] if math.isfinite(high[k]) else None] for k in values},
        "at_a_bound": [k for k, v in values.items() if _near(v, low[k]) or _near(v, high[k])],
        "errors": None,
    }
    return answer if points is None else answer | {"errors": _errors(fitted.parameters, points)}


def _near(value: float, bound: float) -> bool:
    return math.isfinite(bound) and abs(value - bound) <= NEAR_A_BOUND * max(abs(bound), NEAR_A_BOUND)


def _errors(parameters: Parameters, points: Sequence[Point]) -> Row:
    """Return errors by K and gamma, and those of the paper's stride, on its own points and on the others."""
    measured = np.array([p.speedup for p in points])
    wrong = predicted(parameters, points) - measured
    keys = sorted({(p.per_token, p.gamma) for p in points})
    mine = {key: np.array([(p.per_token, p.gamma) == key for p in points]) for key in keys}
    return {
        "half_sum_of_squares": float((wrong**2).sum() / 2),
        "relative_rmse": _rms(wrong / measured),
        "by_curve": [
            {
                "experts_per_token": k,
                "gamma": g,
                "points": int(m.sum()),
                "rmse": _rms(wrong[m]),
                "bias": float(wrong[m].mean()),
            }
            for (k, g), m in mine.items()
        ],
        "stride": _strided(points, measured),
    }


def _strided(points: Sequence[Point], measured: FloatArray) -> Row | None:
    """Return the error of a fit to every 11th point on those and on the others, None where there are too few."""
    stride = published().sweep.stride
    chosen = np.arange(len(points)) % stride == 0
    if chosen.sum() < FEWEST:
        return None
    fitted = fit_points([p for p, used in zip(points, chosen, strict=True) if used])
    wrong = predicted(fitted.parameters, points) - measured
    return {
        "points": fitted.points,
        "rmse_on_them": _rms(wrong[chosen]),
        "rmse_on_the_others": _rms(wrong[~chosen]),
        "half_sum_of_squares": float((wrong**2).sum() / 2),
    }


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))
