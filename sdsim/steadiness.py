"""Whether runs lasted long enough, and kept up with their traffic: what their figures cannot say by themselves.

A mean over a queue that grows to the end is a mean of nothing, however many seeds agree on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sdsim.result import Result

WINDOWS, FILLING, MOMENTS = 10, 2, 50
"""The traffic is looked at in ten windows, the first two of which may fill the system; moments looked at in each."""
TREND = 20
"""Kendall's score of eight windows, of 28 pairs, that chance exceeds with 0.7% if they have no order."""
GROWTH = 2.0
"""How many times more requests there must be at the end, beyond what more arrivals explain."""
FEWEST_PRESENT = 5
FEWEST_STAYS = 5
"""Of a run of five stays, the first request's neighbours come and go for a fifth of it."""
FEWEST_FINISHED = 1000
"""Ten beyond the 99th percentile: of fewer it is off on average, and the interval over seeds misses it too often."""


def doubtful_runs(runs: Mapping[str, Sequence[Result]]) -> list[str]:
    """Return warnings about *runs*, by policy one a seed: a line for each doubt that half of a policy's seeds share.

    A line has the figures of the first policy and names the others; a policy is doubted once, for the worst.
    """
    found: dict[int, list[tuple[str, str]]] = {}
    for policy, results in runs.items():
        for number, check in enumerate((_idle, _growing, _short, _few)):
            said = [text for result in results if (text := check(result))]
            if said and 2 * len(said) >= len(results):
                found.setdefault(number, []).append((policy, said[0]))
                break
    return [_line(*found[number]) for number in sorted(found)]


def _line(first: tuple[str, str], *others: tuple[str, str]) -> str:
    likewise = f" (likewise {', '.join(policy for policy, _ in others)})" if others else ""
    return f"{first[0]}: {first[1]}{likewise}"


def _idle(run: Result) -> str | None:
    if run.summary["requests"]["finished"]:
        return None
    return "no request that counts finished, so there are no latencies; lengthen the run"


def _growing(run: Result) -> str | None:
    """Return a warning if ever more requests are there, waiting or running, and their arrivals do not explain it."""
    arrivals = np.sort(run.requests["arrival_s"])
    if run.scenario.workload.kind == "closed" or not len(arrivals):
        return None
    finishes = np.sort(run.requests["finish_s"])  # NaN, never, comes last
    moments = np.linspace(arrivals[0], arrivals[-1], WINDOWS * MOMENTS + 1)[1:]
    come = np.searchsorted(arrivals, moments, "right")
    present = come - np.searchsorted(finishes, moments, "right")
    means = present.reshape(WINDOWS, MOMENTS).mean(axis=1)[FILLING:]
    came = np.diff(come[MOMENTS - 1 :: MOMENTS])[FILLING - 1 :]
    sooner, later = np.triu_indices(len(means), 1)
    busier = max(1.0, came[-1] / max(came[0], 1))
    if np.sign(means[later] - means[sooner]).sum() < TREND or means[-1] < FEWEST_PRESENT:
        return None
    if means[-1] < GROWTH * busier * means[0]:
        return None
    return (
        f"the requests there grow to the end, from {means[0]:.3g} to {means[-1]:.3g}: more come than are served, or "
        "the run is too short to tell; lower the rate, add replicas or lengthen the run"
    )


def _short(run: Result) -> str | None:
    """Return a warning if a request's stay is no small part of the traffic that counts."""
    stay, table = run.summary["e2e_s"]["mean"], run.requests
    if stay is None:
        return None
    first = max(float(table["arrival_s"].min()), run.scenario.warmup)
    last = np.nanmax(table["finish_s"]) if run.scenario.workload.kind == "closed" else table["arrival_s"].max()
    span = float(last) - first
    if span >= FEWEST_STAYS * stay:
        return None
    return (
        f"the traffic counted lasts {span:.3g} s and a request stays {stay:.3g} s, so many of them meet a system that "
        "fills or drains; lengthen the run"
    )


def _few(run: Result) -> str | None:
    finished = run.summary["requests"]["finished"]
    if finished >= FEWEST_FINISHED:
        return None
    return f"{finished} requests finished, so p99 rests on {math.ceil(finished / 100)} of them; lengthen the run"
