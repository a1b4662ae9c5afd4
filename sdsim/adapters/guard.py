"""A policy that cannot take its engine down: what an adapter puts between the two."""

from __future__ import annotations

from collections.abc import Sequence
from logging import Logger

from sdsim.adapters.settings import Settings
from sdsim.policies import label
from sdsim.policy import Observation, Outcome, Plan, learn_nothing


class Guard:
    """Runs a policy under an engine that can draft *lengths*, ascending.

    A length that the engine cannot run becomes the next shorter one that it can. After `probe` steps in a row without
    drafts, one drafts the shortest length there is, if the policy learns: without drafts it would never hear of
    acceptance again. Once the policy raises, or plans what is no plan, it is not asked again.
    """

    def __init__(self, settings: Settings, lengths: Sequence[int], logger: Logger) -> None:
        self.policy, self.fault = settings.policy, False
        self.learns = getattr(type(settings.policy), "learn", None) is not learn_nothing
        self._lengths, self._logger = tuple(lengths), logger
        self._shortest = next((k for k in lengths if k), 0)
        self._probe = settings.probe if self.learns else 0
        self._silent = 0
        self._warned: set[str] = set()
        name = label(settings.policy, type(settings.policy).__name__)
        logger.info("sdsim: policy %s chooses among draft lengths %s", name, self._lengths)
        beyond = sorted(set(getattr(settings.policy, "lengths", ())) - {0, *lengths})
        if beyond:
            self.warn(f"sdsim: the engine has no graphs for draft lengths {beyond}; shorter ones run in their stead")

    def plan(self, observation: Observation) -> int | None:
        """Return the draft length of the step, one of the engine's, or None to let the engine decide."""
        if self.fault:
            return None
        try:
            length = self._runnable(self.policy.plan(observation))
        except Exception as error:
            self.fail("plan", error)
            return None
        return self._probed(length) if observation.batch else length

    def learn(self, outcome: Outcome) -> None:
        """Hand an outcome to the policy."""
        if self.fault:
            return
        try:
            self.policy.learn(outcome)
        except Exception as error:
            self.fail("learn", error)

    def fail(self, what: str, error: Exception) -> None:
        """Stop asking the policy, and say why, once."""
        self.fault = True
        self._logger.error(
            "sdsim: %s failed, so the engine decides from here on: %s: %s", what, type(error).__name__, error,
            exc_info=error,
        )  # fmt: skip

    def warn(self, message: str) -> None:
        """Log *message*, once."""
        if message not in self._warned:
            self._warned.add(message)
            self._logger.warning("%s", message)

    def _runnable(self, plan: Plan) -> int:
        planned = plan.draft_length
        if isinstance(planned, bool) or planned != int(planned) or planned < 0:
            raise ValueError(f"draft length {planned!r}; allowed: {self._lengths}")
        if plan.drafter == "dropped":
            self.warn("sdsim: the policy drops its drafter, the engine keeps it loaded: draft length 0 is its stand-in")
        if plan.verify_lengths is not None:
            self.warn("sdsim: the policy trims drafts before verification, the engine verifies all of them")
        if plan.prefill_budget is not None:
            self.warn("sdsim: the policy bounds the prompt tokens of a step, the engine keeps to its own bound")
        return max((k for k in self._lengths if k <= planned), default=self._lengths[0])

    def _probed(self, length: int) -> int:
        self._silent = 0 if length else self._silent + 1
        if self._probe and self._silent > self._probe:
            self._silent = 0
            return self._shortest
        return length
