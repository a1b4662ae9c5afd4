"""The acceptance rate of each request, from outcomes that may be late, repeated or lost."""

from __future__ import annotations

import numpy as np

from sdsim.policies.acceptance_estimate import AcceptanceEstimate
from sdsim.policies.ledger import Newest
from sdsim.policy import FloatArray, IntArray, Outcome

WEIGHT = 8.0
"""Trials that the rate of all requests counts for in a request's own."""


class RequestRates:
    """Drafts accepted over drafts tried, by request, shrunk towards the rate of all requests."""

    def __init__(self, prior: float = 0.7) -> None:
        self.overall = AcceptanceEstimate(prior)
        self._newest = Newest()
        self._place: dict[int, int] = {}
        self._won, self._tried = np.zeros(1024), np.zeros(1024)

    def of(self, ids: IntArray) -> FloatArray:
        """Return (rows,) rates of the requests *ids*."""
        places = self._places(ids)
        rates: FloatArray = (self._won[places] + WEIGHT * self.overall.rate) / (self._tried[places] + WEIGHT)
        return rates

    def update(self, outcome: Outcome) -> None:
        """Take in a step's verified and accepted drafts; a step seen before changes nothing."""
        if not self._newest.passes(outcome):
            return
        self.overall.update(outcome)
        places = self._places(outcome.request_ids)
        self._won[places] += outcome.accepted
        self._tried[places] += outcome.accepted + (outcome.accepted < outcome.verified)

    def _places(self, ids: IntArray) -> list[int]:
        wanted = ids.tolist()
        if not all(map(self._place.__contains__, wanted)):
            self._make_room(wanted)
        place = self._place
        return [place[i] for i in wanted]

    def _make_room(self, wanted: list[int]) -> None:
        """Give each of *wanted* a place; when all are taken, forget the requests that are not wanted."""
        new = [i for i in wanted if i not in self._place]
        if len(self._place) + len(new) > len(self._won):
            self._forget({i: self._place[i] for i in wanted if i in self._place}, 2 * len(wanted))
        for i in new:
            self._place[i] = len(self._place)

    def _forget(self, kept: dict[int, int], least: int) -> None:
        size, old = max(len(self._won), least), list(kept.values())
        won, tried = np.zeros(size), np.zeros(size)
        won[: len(old)], tried[: len(old)] = self._won[old], self._tried[old]
        self._won, self._tried = won, tried
        self._place = {request: place for place, request in enumerate(kept)}
