"""How far drafts got, by position and class: what the coins of a run's own requests say, as records keep totals only.

A chain that starts at a position of a request is accepted to a depth that no policy changes (`sdsim.acceptance`).
Chains start anywhere with equal chance, so a request's mean over its positions, weighted by its verify steps, is the
mean over the chains that the run verified. Exact where a request's rate does not depend on the position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdsim.acceptance import Acceptance, make_acceptance
from sdsim.metrics import Columns
from sdsim.policy import FloatArray, IntArray
from sdsim.result import Result

MOST_REQUESTS = 2000
EVERYONE = "all"


@dataclass(frozen=True, slots=True)
class Chains:
    """One class of a run: chance that draft j and all before it are accepted, and tokens emitted per verify step."""

    accepted: FloatArray
    """(positions,) from the first draft on."""
    acceptance_length: float
    """Output tokens after the first over verify steps."""
    requests: int


def chains_by_class(result: Result) -> dict[str, Chains]:
    """Return the chains of each class of *result*, and of all where there are several; empty if nothing was drafted.

    Of very many requests, evenly chosen ones are looked at.
    """
    lengths = drafted_lengths(result.steps)
    table = {name: values[result.requests["verify_steps"] > 0] for name, values in result.requests.items()}
    spec = result.scenario.acceptance
    if spec is None or not lengths or not len(table["request_id"]):
        return {}
    law = make_acceptance(spec, result.scenario.seed, result.class_names)
    found = {}
    for index, name in enumerate(result.class_names):
        mine = table["request_class"] == index
        if mine.any():
            found[name] = _chains(law, {k: v[mine] for k, v in table.items()}, lengths)
    return found if len(found) == 1 else {EVERYONE: _chains(law, table, lengths), **found}


def drafted_lengths(steps: Columns) -> dict[int, float]:
    """Return how many rows verified drafts of each length, by the mean length of their step."""
    rows = steps["rows"]
    drafting = steps["verify_tokens"] > rows
    lengths = np.rint(steps["verify_tokens"][drafting] / rows[drafting] - 1).astype(int)
    return {int(k): float(rows[drafting][lengths == k].sum()) for k in np.unique(np.maximum(lengths, 1))}


def _chains(law: Acceptance, table: Columns, lengths: dict[int, float]) -> Chains:
    emitted = float((table["generated_tokens"] - 1).sum())
    stride = -(-len(table["request_id"]) // MOST_REQUESTS)
    part = {name: values[::stride].astype(np.int64) for name, values in table.items() if not name.endswith("_s")}
    accepted = _by_position(law, part, lengths)
    return Chains(accepted, emitted / float(table["verify_steps"].sum()), len(table["request_id"]))


def _by_position(law: Acceptance, part: dict[str, IntArray], lengths: dict[int, float]) -> FloatArray:
    """Return the share of chains accepted up to each position, of those long enough to reach it."""
    tokens = np.maximum(part["generated_tokens"], 1)
    depths, offsets = law.depths(part["request_id"], tokens, part["request_class"])
    owner = np.repeat(np.arange(len(tokens)), tokens)
    place = offsets[:-1][owner] + np.arange(len(owner)) - (np.cumsum(tokens) - tokens)[owner]
    weight = (part["verify_steps"] / tokens)[owner]
    longest = max(lengths)
    won, tried = np.zeros(longest), np.zeros(longest)
    for plane in range(law.planes):
        at = np.bincount(np.minimum(depths[plane][place], longest), weight, longest + 1)
        reached = at[::-1].cumsum()[::-1]
        for length, rows in lengths.items():
            if min(length, law.planes) - 1 == plane:
                won[:length] += rows * reached[1 : length + 1]
                tried[:length] += rows * reached[0]
    return won / tried
