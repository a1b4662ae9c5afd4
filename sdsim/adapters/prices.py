"""Step prices as a file: what a latency model says on a grid, interpolated between its points.

The grid's axes are the decode rows, the drafts verified a row, the draft length, the mean context and the prompt
tokens. Between points a price is linear along each axis, below the first it is the first's, above the last it goes on
as straight as between the last two. Draft lengths are looked up, not interpolated. `python -m sdsim.price_table`
writes the file.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdsim.errors import PolicyError
from sdsim.policy import FloatArray, StepCosts

FORMAT = "sdsim-prices-1"
AXES = ("rows", "drafts_per_row", "draft_lengths", "contexts", "prefill_tokens")


class PriceTable:
    """Implements `sdsim.policy.StepCosts` on a grid of prices, s."""

    def __init__(self, axes: Mapping[str, Sequence[int]], seconds: FloatArray, off_seconds: FloatArray) -> None:
        self._rows, self._drafts, self.draft_lengths, self._contexts, self._prompts = (tuple(axes[a]) for a in AXES)
        self._place = {length: at for at, length in enumerate(self.draft_lengths)}
        self._seconds = np.moveaxis(seconds, 2, 0)
        self._off_seconds = off_seconds

    def step_seconds(self, rows: int, draft_length: int, context: float, prefill_tokens: int = 0) -> float:
        """See `StepCosts.step_seconds`."""
        return self.verify_seconds(rows, rows * (1 + draft_length), context, prefill_tokens, draft_length)

    def verify_seconds(
        self, rows: int, verify_tokens: int, context: float, prefill_tokens: int = 0, draft_length: int = 0
    ) -> float:
        """See `StepCosts.verify_seconds`. A draft length that is not in the table is a ValueError."""
        at = self._place.get(draft_length)
        if at is None:
            raise ValueError(f"no price for draft length {draft_length}; the table holds {self.draft_lengths}")
        drafts = verify_tokens / max(rows, 1) - 1.0
        axes = (self._rows, self._drafts, self._contexts, self._prompts)
        return _interpolated(self._seconds[at], axes, (rows, drafts, context, prefill_tokens))

    def off_seconds(self, rows: int, context: float, prefill_tokens: int = 0) -> float:
        """See `StepCosts.off_seconds`."""
        return _interpolated(
            self._off_seconds, (self._rows, self._contexts, self._prompts), (rows, context, prefill_tokens)
        )

    def content(self) -> dict[str, Any]:
        """Return the table as `read_price_table` reads it; prices to six digits."""
        axes = (self._rows, self._drafts, self.draft_lengths, self._contexts, self._prompts)
        return {
            "format": FORMAT,
            **{name: list(axis) for name, axis in zip(AXES, axes, strict=True)},
            "seconds": _rounded(np.moveaxis(self._seconds, 0, 2)),
            "off_seconds": _rounded(self._off_seconds),
        }


def tabulate(cost: StepCosts, axes: Mapping[str, Sequence[int]]) -> PriceTable:
    """Return the prices of *cost* on the grid of *axes*."""
    rows, drafts, lengths, contexts, prompts = (axes[a] for a in AXES)
    seconds = [
        [[[[cost.verify_seconds(n, n * (1 + v), c, p, k) for p in prompts] for c in contexts] for k in lengths]
         for v in drafts] for n in rows
    ]  # fmt: skip
    off = [[[cost.off_seconds(n, c, p) for p in prompts] for c in contexts] for n in rows]
    return PriceTable(axes, np.array(seconds), np.array(off))


def read_price_table(path: Path) -> PriceTable:
    """Return the table in the file at *path*, or raise PolicyError."""
    mend = "write it with python -m sdsim.price_table SCENARIO --out FILE"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"prices: {path}: {error.strerror}; allowed: a price table; {mend}") from None
    except ValueError as error:
        raise PolicyError(f"prices: {path}: not JSON: {error}; allowed: a price table; {mend}") from None
    try:
        return _table(content)
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyError(f"prices: {path}: {error}; allowed: format {FORMAT}; {mend}") from None


def _table(content: Any) -> PriceTable:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("another format")
    axes = {name: [int(v) for v in content[name]] for name in AXES}
    for name, axis in axes.items():
        if not axis or axis != sorted(set(axis)) or axis[0] < 0:
            raise ValueError(f"{name} {axis}, which do not ascend")
    seconds, off = np.array(content["seconds"], dtype=float), np.array(content["off_seconds"], dtype=float)
    shape = tuple(len(axes[name]) for name in AXES)
    if seconds.shape != shape or off.shape != (shape[0], *shape[3:]):
        raise ValueError(f"prices of shape {seconds.shape} and {off.shape} on a grid of {shape}")
    if not (np.isfinite(seconds).all() and np.isfinite(off).all() and min(seconds.min(), off.min()) > 0):
        raise ValueError("a price that is not above 0")
    return PriceTable(axes, seconds, off)


def _interpolated(values: FloatArray, axes: Sequence[Sequence[int]], point: Sequence[float]) -> float:
    for axis, value in zip(axes, point, strict=True):
        low = min(max(bisect_right(axis, value) - 1, 0), max(len(axis) - 2, 0))
        if len(axis) == 1 or value <= axis[0]:
            values = values[low]
        else:
            share = (value - axis[low]) / (axis[low + 1] - axis[low])
            values = values[low] + share * (values[low + 1] - values[low])
    return float(values)


def _rounded(prices: FloatArray) -> list[Any]:
    digits = np.char.mod("%.6g", prices)
    nested: list[Any] = digits.astype(float).tolist()
    return nested
