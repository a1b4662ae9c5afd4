"""Step prices as SGLang's DSpark scheduler takes them: t = bias + alpha(rows) + theta(rows + drafts verified).

`--speculative-dspark-sps-table-path` names such a file (SGLang 0.5.23, `dspark_sps.py`); the engine's own profiler
fills it on a running server, here the prices of a `StepCosts` do. A step's time is not quite such a sum, since how
many experts a token adds depends on the rows too, so what the sum misses is reported with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdsim.errors import CalibrationError
from sdsim.policy import FloatArray, StepCosts

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KEYS = ("bias_seconds", "bs_probes", "alpha_seconds", "m_probes", "theta_seconds")


def dspark_costs(
    cost: StepCosts, draft_length: int, context: float = 1024.0, rows: Sequence[int] = ROWS
) -> tuple[dict[str, Any], float]:
    """Return the additive table of steps that draft *draft_length* tokens, and its largest relative error.

    Fitted by least squares of the relative error over *rows* and 0 to *draft_length* drafts verified a row, at the mean
    KV length *context*, tokens. The error is that of the points fitted.
    """
    points = [(n, n * (1 + k)) for n in rows for k in range(draft_length + 1)]
    seconds = np.array([cost.verify_seconds(n, m, context, 0, draft_length) for n, m in points])
    tokens = [t for t in (1 << i for i in range(40)) if rows[0] < t < rows[-1] * (1 + draft_length)]
    tokens = sorted({rows[0], *tokens, rows[-1] * (1 + draft_length)})
    batches, verified = np.array([n for n, _ in points]), np.array([m for _, m in points])
    design = np.hstack([_hats(batches, rows), _hats(verified, tokens)[:, 1:]])
    fitted = np.linalg.lstsq(design / seconds[:, None], np.ones(len(points)), rcond=None)[0]
    alpha, theta = fitted[: len(rows)], np.append(0.0, fitted[len(rows) :])
    bias = float(alpha.min())
    if bias <= 0:
        raise CalibrationError(
            f"step prices: a fitted step of no tokens takes {bias:g} s; allowed: above 0; check them"
        )
    table = {
        "bias_seconds": bias,
        "bs_probes": list(rows),
        "alpha_seconds": (alpha - bias).tolist(),
        "m_probes": tokens,
        "theta_seconds": theta.tolist(),
    }
    return table, float(np.abs(design @ fitted / seconds - 1.0).max())


def read_dspark_seconds(table: Mapping[str, Any], rows: int, drafts: int) -> float:
    """Return the step time, s, that SGLang reads off *table*: interpolated, and level beyond the probes."""
    missing = [key for key in KEYS if key not in table]
    if missing:
        raise CalibrationError(f"DSpark cost table: no {', '.join(missing)}; allowed: {', '.join(KEYS)}")
    alpha = np.interp(rows, table["bs_probes"], table["alpha_seconds"])
    return float(table["bias_seconds"] + alpha + np.interp(rows + drafts, table["m_probes"], table["theta_seconds"]))


def _hats(at: FloatArray, nodes: Sequence[int]) -> FloatArray:
    """Return (points, nodes) the weight of each node in the linear interpolation at each point."""
    return np.stack([np.interp(at, nodes, unit) for unit in np.eye(len(nodes))], axis=1)
