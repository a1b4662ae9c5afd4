"""Policies that make a scheduler's life hard: they trim, limit prompts, and load and drop the drafter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policy import Observation, Outcome, Plan


def scrambled(*numbers: int) -> int:
    """Return a number that looks random and depends on *numbers* alone."""
    state = 1
    for number in numbers:
        state = ((state ^ int(number)) * 6364136223846793005 + 1442695040888963407) % 2**64
    return state >> 33


class Custom:
    """A policy whose plan is a pure function of the step's number and rows."""

    lengths: Sequence[int] = (0, 1, 2, 4)
    salt = 0

    def learn(self, outcome: Outcome, /) -> None:
        """Let the outcomes shape the plans too."""
        self.salt = scrambled(self.salt, outcome.step, outcome.accepted.sum(), *outcome.verified, *outcome.request_ids)

    def draw(self, observation: Observation, *numbers: int) -> int:
        return scrambled(self.salt, observation.step, observation.generated.sum(), *numbers)


class Trims(Custom):
    """Verifies a part of each row's drafts, and drafts another length each step."""

    def plan(self, observation: Observation, /) -> Plan:
        length = self.lengths[self.draw(observation) % 4]
        of = zip(observation.request_ids, observation.pending, strict=True)
        verify = np.array([self.draw(observation, r) % (p + 1) for r, p in of], dtype=np.int64)
        return Plan(length, verify, drafter="on" if length else "warm")


class LimitsPrefill(Custom):
    """Lets few prompt tokens into a step, at times none."""

    def plan(self, observation: Observation, /) -> Plan:
        return Plan(2, prefill_budget=max(0, self.draw(observation, observation.prefill_tokens) % 60 - 20))


class Drops(Custom):
    """Unloads the drafter for some steps, keeps it warm for some, and drafts in the others."""

    period = 4

    def plan(self, observation: Observation, /) -> Plan:
        mode = scrambled(observation.step // self.period) % 4
        if mode == 0:
            return Plan(0, drafter="dropped")
        return Plan(0, drafter="warm") if mode == 1 else Plan(4)


class DropsOften(Drops):
    """The same, with another state nearly every step."""

    period = 1


class Wild(Custom):
    """Trims, limits and drops at once."""

    def plan(self, observation: Observation, /) -> Plan:
        draw = self.draw(observation, observation.kv_free, observation.waiting, observation.prefill_requests)
        plan = Trims.plan(self, observation)  # type: ignore[arg-type]
        if draw % 3 == 0:
            plan = plan._replace(draft_length=0, drafter="dropped")
        if draw % 2 == 0:
            plan = plan._replace(prefill_budget=draw // 8 % 50)
        return plan


CUSTOM = [f"{__name__}:{one.__name__}" for one in (Trims, LimitsPrefill, Drops, DropsOften, Wild)]
