"""Why a policy lost against another, in words that its figures support."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sdsim.recommendation.ranking import SAME, SPEED, Contender, Gain, gain

UNITS = {"goodput_rps": "goodput", "output_tokens_per_s": "tokens/s", SPEED: "speed"}
VISIBLE = 0.005
"""Shares of requests that differ by less are not mentioned."""


def why_lost(loser: Contender, winner: Contender, figure: str) -> str:
    """Return in a few sentences by what *loser* fell behind *winner*, and what it did otherwise."""
    lost, slower = gain(loser, winner, figure), gain(loser, winner, SPEED)
    first = difference(lost, UNITS[figure])
    if lost.equal and not slower.equal:
        ours, theirs = (_mean(one, "e2e_s", "mean") for one in (loser, winner))
        first += f"; the mean latency decides, {ours:.3g} s against {theirs:.3g} s"
    elif lost.equal:
        first += "; as fast, too, so that the simpler one is taken"
    return ". ".join([first, *_differences(loser, winner)]) + "."


def difference(found: Gain, unit: str) -> str:
    """Return a gain as text: its size, its interval and whether it is any evidence."""
    if not np.isfinite(found.mean):
        return f"no {unit} to compare with"
    text = f"{_percent(found.mean)} {unit}"
    if found.ci95 is None:
        return text
    low, high = map(_percent, found.ci95)
    sure = "" if found.proven else ", so no evidence of a difference"
    return f"{text} (95% interval {low} to {high}{sure})"


def _percent(share: float) -> str:
    return f"{share:+.1%}" if abs(share) < 1 else f"{share:+,.0%}"


def _differences(loser: Contender, winner: Contender) -> Iterator[str]:
    for name in winner.trials[0].missed:
        ours, theirs = (float(np.mean([t.missed[name] for t in one.trials])) for one in (loser, winner))
        if abs(ours - theirs) > VISIBLE:
            yield f"It misses {name.upper()} for {ours:.1%} of the requests against {theirs:.1%}"
    drafts = [_mean(one, "speculation", "mean_draft_length") for one in (loser, winner)]
    if abs(drafts[0] - drafts[1]) > 0.05:
        emitted = [_mean(one, "speculation", "acceptance_length") for one in (loser, winner)]
        said = f"It drafts {drafts[0]:.2f} tokens a row against {drafts[1]:.2f} and emits {emitted[0]:.2f} a step"
        yield f"{said} against {emitted[1]:.2f}"
    wasted = [_mean(one, "speculation", "wasted_fraction") for one in (loser, winner)]
    if min(drafts) > 0 and abs(wasted[0] - wasted[1]) > VISIBLE:
        yield f"{wasted[0]:.0%} of its drafts are rejected against {wasted[1]:.0%}"
    gaps = [_mean(one, "itl_s", "mean") * 1000 for one in (loser, winner)]
    if min(gaps) > 0 and abs(gaps[0] / gaps[1] - 1) > SAME:
        yield f"A row waits {gaps[0]:.1f} ms between steps against {gaps[1]:.1f} ms"


def _mean(one: Contender, part: str, figure: str) -> float:
    return float(np.mean([trial.summary[part][figure] or 0.0 for trial in one.trials]))
