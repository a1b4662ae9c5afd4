"""Distinct experts that models were measured to touch, against independent routing (eq. 8) and against correlated.

Files come from the user. A row says how its tokens hang together: consecutive tokens of one sequence, tokens of
different requests, both (`batch 8 x window 4`), or drawn at random, which tells skew alone and is fitted to nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from sdsim.experts import Correlated
from sdsim.policy import FloatArray
from sdsim.reproduction.points import HIDDEN
from sdsim.reproduction.table_file import Header, Row, placed, read_table
from sdsim.units import COUNT, POSITIVE, Span, parse_number, parse_whole, shown

MEASURED = "unique_measured"
WANTED = "a CSV file with the columns model, E, k, t, kind and unique_measured, a line a mean count of a MoE layer"
FITTED, RANDOM = ("row", "batch", "grid"), "random"
WORDS = {"consecutive": "row", "verify": "row", "different requests": "batch", "random": RANDOM}
"""What a description says of its tokens; one that says none or several of these is fitted to nothing."""
BATCH_WINDOW = re.compile(r"batch (\d+) x window (\d+)")
Answer = dict[str, Any]


class Count(NamedTuple):
    """Mean distinct experts of *rows* x *window* tokens of a layer with *experts* experts."""

    model: str
    experts: int
    per_token: int
    rows: int
    window: int
    kind: str
    measured: float

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return self.rows * self.window


def read_counts(path: Path) -> list[Count]:
    """Return the counts in *path*. Raises TraceError."""
    return read_table(path, WANTED, _reader)


def _reader(columns: Header) -> Callable[[Row], Count | None] | None:
    return _count if columns >= {"model", "E", "k", "t", "kind", MEASURED} else None


def _count(row: Row) -> Count | None:
    if row[MEASURED].strip().lower() in HIDDEN:
        return None
    experts, tokens = (placed(column, row, partial(parse_whole, span=COUNT)) for column in ("E", "t"))
    per_token = placed("k", row, partial(parse_whole, span=Span(1, experts)))
    rows, window, kind = _arrangement(row["kind"], tokens)
    # what follows in a name says over which layers the mean is
    model = row["model"].partition(" mean of layers")[0].strip()
    measured = placed(MEASURED, row, partial(parse_number, span=POSITIVE))
    most = min(experts, tokens * per_token)
    if not per_token <= measured <= most:
        raise ValueError(f"{MEASURED}: found {measured:g}; allowed: from {per_token} (k) to {most}; correct it")
    return Count(model, experts, per_token, rows, window, kind, measured)


def _arrangement(text: str, tokens: int) -> tuple[int, int, str]:
    """Return rows, tokens of each, and the kind that *text* describes."""
    if both := BATCH_WINDOW.search(text):
        rows, window = int(both[1]), int(both[2])
        if rows * window != tokens:
            raise ValueError(f"kind: found {shown(text)} with t {tokens}; allowed: batch x window = t; correct one")
        return rows, window, "grid"
    kinds = {kind for word, kind in WORDS.items() if word in text}
    kind = kinds.pop() if len(kinds) == 1 else "unstated"
    return (1, tokens, kind) if kind == "row" else (tokens, 1, kind)


def compare_counts(counts: Sequence[Count]) -> Answer:
    """Return each count beside both laws, and a summary a model."""
    models = list(dict.fromkeys((c.model, c.experts, c.per_token) for c in counts))
    rows: list[Answer] = []
    summaries = []
    for model in models:
        mine = [c for c in counts if (c.model, c.experts, c.per_token) == model]
        law, knobs = fit_law([c for c in mine if c.kind in FITTED], *model[1:])
        found = [_row(c, law if c.kind in FITTED else None) for c in mine]
        rows += found
        if any(c.kind != RANDOM for c in mine):
            summaries.append(_summary(model, found, knobs))
    return {"rows": rows, "models": summaries}


def fit_law(counts: Sequence[Count], experts: int, per_token: int) -> tuple[Correlated, dict[str, float | None]]:
    """Return the correlated law of the least squared relative error, and its knobs, None where no count tells."""
    told = {"within": any(c.window > 1 for c in counts), "between": any(c.rows > 1 for c in counts)}
    free = [name for name, known in told.items() if known]

    def law(x: Sequence[float] | FloatArray) -> Correlated:
        return Correlated(experts, per_token, **dict(zip(free, map(float, x), strict=True)))

    def wrong(x: FloatArray) -> FloatArray:
        return np.array([_expected(law(x), c) / c.measured - 1 for c in counts])

    x: FloatArray | list[float] = least_squares(wrong, [0.8] * len(free), bounds=(0.0, 1.0)).x if free else []
    found = law(x)
    return found, {name: getattr(found, name) if known else None for name, known in told.items()}


def _expected(law: Correlated, count: Count) -> float:
    return law.distinct_uniform_rows(count.rows, count.tokens)


def _row(count: Count, law: Correlated | None) -> Answer:
    independent = _expected(Correlated(count.experts, count.per_token), count)
    correlated = None if law is None else _expected(law, count)
    return {
        **count._asdict(),
        "tokens": count.tokens,
        "independent": independent,
        "independent_error": independent / count.measured - 1,
        "correlated": correlated,
        "correlated_error": None if correlated is None else correlated / count.measured - 1,
    }


def _summary(model: tuple[str, int, int], rows: Sequence[Answer], knobs: dict[str, float | None]) -> Answer:
    told = [row for row in rows if row["kind"] != RANDOM]
    judged = [row for row in told if row["correlated"] is not None]
    random = [abs(row["independent_error"]) for row in rows if row["kind"] == RANDOM]
    worst = max(told, key=lambda row: float(row["independent_error"]))
    free = sum(knob is not None for knob in knobs.values())
    return {
        "model": model[0],
        "experts": model[1],
        "per_token": model[2],
        "points": len(told),
        **knobs,
        "independent_rms": _rms([row["independent_error"] for row in told]),
        "independent_worst": worst["independent_error"],
        "worst_tokens": worst["tokens"],
        "correlated_rms": _rms([row["correlated_error"] for row in judged]) if len(judged) > free else None,
        "random_tokens_worst": max(random, default=None),
    }


def _rms(errors: Sequence[float]) -> float:
    return math.sqrt(sum(e * e for e in errors) / len(errors))
