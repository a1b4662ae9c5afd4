"""Acceptance by position of the draft, from what vLLM counts: drafts, draft tokens, and drafts accepted at each
position.

Had all drafts n positions, position j were tried by all of them, and the unconditional rate is accepted_j / drafts,
the conditional accepted_j / accepted_(j-1). Under a changing draft length only some had position j, and how many vLLM
does not export: dividing by all of them makes deep positions look worse than they are. But the number of drafts and
of draft tokens bound it. A mix of lengths with that total and mean is a mixture of mixes of two lengths, so the
extremes are found among pairs. For two lengths, or one, they coincide. What cannot be told from counts: the length is
taken as independent of acceptance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from sdsim.errors import ScenarioError
from sdsim.policy import FloatArray

CONFIDENCE = 0.95
KNOWN = 0.01
"""A rate is given as a number where its bounds agree to this share, else as an interval only."""


ROUNDING = 1e-6


class Rate(NamedTuple):
    """A share, and its 95% interval (Wilson's), which covers what is not known of the trials."""

    rate: float | None
    low: float
    high: float


class Position(NamedTuple):
    """One position of the draft, counted from 1."""

    position: int
    accepted: int
    tried: tuple[int, int]
    """Drafts that had the position: least and most."""
    conditional: Rate
    """Of drafts accepted so far."""
    unconditional: Rate
    """Of all drafts that had the position."""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        rates = {"conditional": self.conditional._asdict(), "unconditional": self.unconditional._asdict()}
        return {"position": self.position, "accepted": self.accepted, "tried": list(self.tried), **rates}


def position_rates(
    drafts: int, draft_tokens: int, accepted: Sequence[int], lengths: Sequence[int] = ()
) -> list[Position]:
    """Return the rates of each position that may have been drafted.

    *accepted* are the drafts accepted at each position, *lengths* the draft lengths in use, any if not known. Raises
    ScenarioError for counts that contradict each other or *lengths*.
    """
    allowed = sorted(set(lengths) - {0}) or list(range(1, len(accepted) + 1))
    if allowed[-1] > len(accepted) or allowed[0] < 0:
        raise ScenarioError(f"lengths {allowed}; allowed: 0 to {len(accepted)}, the positions that the engine counts")
    had = shares(draft_tokens / drafts, allowed)
    reached = [drafts, *accepted]
    if any(later > before for before, later in pairwise(reached)):
        raise ScenarioError(f"accepted drafts {reached}; allowed: counts that never rise along the draft; scrape anew")
    return [_position(j, reached, had) for j in range(1, allowed[-1] + 1)]


def shares(mean: float, lengths: Sequence[int]) -> FloatArray:
    """Return (mixes, positions) the share of drafts that had each position, in each mix of one or two of *lengths*.

    Every mix of lengths with this *mean* lies between them. Raises ScenarioError if there is none.
    """
    pairs = [(a, b) for a in lengths for b in lengths if a <= mean <= b and (a < b or a == mean)]
    if not pairs:
        mend = "name every length in use"
        raise ScenarioError(
            f"lengths {list(lengths)}: drafts have {mean:.3f} tokens in the mean; allowed: between; {mend}"
        )
    depth = np.arange(1, lengths[-1] + 1)
    longer = [(mean - a) / (b - a) if b > a else 1.0 for a, b in pairs]
    return np.array(
        [np.where(depth <= a, 1.0, np.where(depth <= b, x, 0.0)) for x, (a, b) in zip(longer, pairs, strict=True)]
    )


def _position(j: int, reached: Sequence[int], had: FloatArray) -> Position:
    drafts, before, now = reached[0], reached[j - 1], reached[j]
    share = had[:, j - 1]
    kept = share / np.maximum(had[:, j - 2], 1e-300) if j > 1 else share
    whole = (math.ceil(share.min() * drafts - ROUNDING), math.floor(share.max() * drafts + ROUNDING))
    tried = (max(whole[0], now), max(whole[1], now))
    going_on = (max(float(kept.min()) * before, now), max(float(kept.max()) * before, now))
    return Position(j, now, tried, _rate(now, *going_on), _rate(now, *tried))


def _rate(won: int, least: float, most: float) -> Rate:
    """Return the rate of *won* trials out of some number from *least* to *most*."""
    from scipy.stats import binomtest

    few, many = max(round(least), won), max(round(most), won)
    if not few:
        return Rate(None, 0.0, 1.0)
    low = binomtest(won, many).proportion_ci(CONFIDENCE, "wilson").low
    high = binomtest(won, few).proportion_ci(CONFIDENCE, "wilson").high
    known = few >= (1 - KNOWN) * many
    return Rate(2 * won / (few + many) if known else None, float(low), float(high))
