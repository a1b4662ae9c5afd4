"""Show another policy the scheduler's state of `steps` steps ago, as an engine that schedules ahead does.

The inner policy plans on the old rows, and its verify lengths are carried over by request: a request that was there
then verifies at most what was planned for it, one that was not verifies all its drafts. Only the number of the step
is today's, since outcomes are told by it.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from sdsim.policies.lengths import count
from sdsim.policies.wrapper import Inner, Wrapper
from sdsim.policy import IntArray, Observation, Plan, StepCosts

ARRAYS = ("request_ids", "context_lengths", "generated", "slo_slack", "pending", "confidence")


class Staleness(Wrapper):
    """Plan on the observation *steps* steps old, or the oldest there is."""

    def __init__(self, cost: StepCosts, inner: Inner, steps: int = 1) -> None:
        super().__init__(f"stale-{count('steps', steps)}", inner, cost)
        self._seen: deque[Observation] = deque(maxlen=steps + 1)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the inner plan on the old state, its verify lengths moved to the rows of now."""
        self._seen.append(_kept(observation))
        old = self._seen[0]
        plan = self.inner.plan(old._replace(step=observation.step))
        if plan.verify_lengths is None:
            return plan
        return plan._replace(verify_lengths=_moved(plan.verify_lengths, old.request_ids, observation))


def _kept(observation: Observation) -> Observation:
    """Return a copy that outlives `plan`."""
    arrays = {name: getattr(observation, name) for name in ARRAYS}
    return observation._replace(**{name: array.copy() for name, array in arrays.items() if array is not None})


def _moved(lengths: IntArray, old_ids: IntArray, observation: Observation) -> IntArray:
    """Return the verify lengths of the rows of now, *lengths* being those of *old_ids*."""
    verified: IntArray = observation.pending.copy()
    if len(old_ids):
        order = np.argsort(old_ids)
        place = np.searchsorted(old_ids, observation.request_ids, sorter=order)
        row = order[np.minimum(place, len(order) - 1)]
        known = old_ids[row] == observation.request_ids
        np.minimum(verified, np.asarray(lengths)[row], out=verified, where=known)
    return verified
