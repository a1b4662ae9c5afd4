"""One replica, step by step: schedule, observe, plan, run, accept, learn.

The step itself is run by whatever `execute` is: a latency model that prices its shape, or a GPU that runs it. That
call is the only line in which a simulation and a hardware run differ.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Protocol

import numpy as np

from sdsim.acceptance import Acceptance
from sdsim.batch import CHUNK_OF, CLASS, FINISH, FIRST_TOKEN
from sdsim.errors import PolicyError
from sdsim.policies import label
from sdsim.policy import Drafter, FloatArray, IntArray, Observation, Outcome, Plan, Policy, learn_nothing, plan_fault
from sdsim.recorder import Recorder
from sdsim.scheduler import Scheduler, Shown
from sdsim.step import StepShape

NO_PREFILL = (0, 0, 0, 0)
POLICYS_OWN = (Exception, SystemExit)
"""What ends a policy's call by its own doing: an interrupt does not."""


@dataclass(frozen=True, slots=True)
class Memory:
    """KV blocks of the pool with the drafter loaded and without it."""

    with_drafter: int
    without_drafter: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What a replica needs to know of its scenario."""

    draft_lengths: tuple[int, ...]
    memory: Memory
    tpot_slo_s: float | FloatArray | None = None
    """One for all requests, or an entry a class."""
    feedback_lag: int = 0


class Host(Protocol):
    """A host that works ahead: it schedules a step while the one before runs."""

    launched_s: float
    """When it had launched the step that was timed last, s from that step's beginning; 0 if by then."""

    def rest(self) -> None:
        """Note that there was nothing to run."""
        ...


class Replica:
    """A scheduler, a policy and the state of the drafter.

    *distinct* returns the distinct experts of rows, their tokens and prompt tokens. *finished* is told which requests
    finish; by default they are recorded. With a *host* that works ahead, `chooses_s` is when it chooses the step after
    the one that runs.
    """

    def __init__(
        self,
        index: int,
        scheduler: Scheduler,
        policy: Policy,
        execute: Callable[[StepShape], float],
        distinct: Callable[[int, int, int], float],
        acceptance: Acceptance | None,
        recorder: Recorder,
        rules: Rules,
        host: Host | None = None,
        finished: Callable[[list[int]], object] | None = None,
    ) -> None:
        self.index = index
        self.scheduler = scheduler
        self.policy = policy
        self.rules = rules
        self.step = 0
        self.seconds = 0.0
        self._execute = execute
        self._host = host
        self.chooses_s = math.inf
        self._distinct = distinct
        self._acceptance = acceptance
        self._recorder = recorder
        self._finished = recorder.finished if finished is None else finished
        self._needs = frozenset(getattr(policy, "needs", ()))
        self._learns = getattr(type(policy), "learn", None) is not learn_nothing
        self._by_batch = getattr(type(policy), "constant_while", None) == "batch"
        self._plans: dict[tuple[int, int], Plan] = {}
        """Plans by decode rows and prompt chunks."""
        self._outcomes: deque[Outcome] = deque()
        self._told: tuple[list[int], list[int]] = [], []
        """Requests that may have their first token from the step that ended last, and that have their last."""
        self._loaded = acceptance is not None
        self._legal = frozenset(rules.draft_lengths)
        self._now = 0.0

    def submit(self, request: int) -> None:
        """Take in a request that arrives now."""
        self.scheduler.add(request)

    def begin(self, now: float) -> float | None:
        """Start a step at time *now*; return its duration, s, or None when there is nothing to run."""
        scheduler = self.scheduler
        rows, pending, context, pairs, chunks, waiting, free = scheduler.schedule(now)
        if not rows and not chunks:
            self._rest()
            return None
        self._now = now
        shown = scheduler.shown(rows)
        prefill = scheduler.prefill() if chunks else NO_PREFILL
        plan = self._plans.get((rows, chunks)) or self._ask(now, shown, context, prefill[0], chunks, waiting, free)
        self._plan = plan
        if plan.verify_lengths is not None:
            pending, pairs = self._limit(plan.verify_lengths, shown, context)
        if plan.prefill_budget is not None and rows:
            chunks = scheduler.trim_prefill(plan.prefill_budget)
            prefill = scheduler.prefill()
        drafter, catch_up = self._switch(plan)
        tokens, stored, prefill_pairs, ending = prefill
        self.shape = StepShape(
            rows, rows + pending, context, pairs, tokens, chunks, stored, prefill_pairs, ending,
            plan.draft_length, rows + ending if plan.draft_length else 0, drafter, catch_up,
            self._distinct(rows, rows + pending, tokens),
            shown.context,
            shown.pending if plan.verify_lengths is None else plan.verify_lengths,
            scheduler.chunks(chunks) if chunks else (),
        )  # fmt: skip
        self.seconds = self._execute(self.shape)
        if self._host is not None:
            self._hand_out(self._host.launched_s)
        return self.seconds

    def _rest(self) -> None:
        """Note that nothing runs."""
        if self._host is not None:
            self._host.rest()
            self._told = [], []

    def _hand_out(self, launched_s: float) -> None:
        """Let the tokens of the step before reach their clients when this one is launched (section 2)."""
        self.chooses_s = self._now + launched_s
        if launched_s:
            times = self.scheduler.requests.times
            for field, told in zip((FIRST_TOKEN, FINISH), self._told, strict=True):
                late = [request for request in told if times[field, request] == self._now]
                times[field, late] = self.chooses_s

    def _ask(self, now: float, shown: Shown, context: int, prefill: int, chunks: int, waiting: int, free: int) -> Plan:
        """Return the policy's plan; keep it, if the policy's plans go by the batch alone."""
        needs = self._needs
        observation = Observation(
            self.step, now, shown.ids, shown.context, shown.generated,
            self._slack(shown, now) if "slo_slack" in needs else None,
            prefill, waiting, free, self.rules.draft_lengths, shown.pending,
            self._confidence(shown) if "confidence" in needs else None,
            chunks, context,
        )  # fmt: skip
        try:
            plan = self.policy.plan(observation)
        except POLICYS_OWN as error:
            raise self._raised("plan", error) from error
        if fault := plan_fault(plan, self._legal, shown.pending):
            raise PolicyError(f"policy: {self._name()} planned {fault}")
        if self._by_batch:
            self._plans[len(shown.ids), chunks] = plan
        return plan

    def _slack(self, shown: Shown, now: float) -> FloatArray | None:
        """Return how far each row is ahead of its TPOT target: first token + TPOT x generated - now."""
        target = self.rules.tpot_slo_s
        if target is None:
            return None
        if isinstance(target, np.ndarray):
            target = target[self.scheduler.requests.numbers[CLASS, shown.ids]]
        slack: FloatArray = self.scheduler.requests.times[FIRST_TOKEN, shown.ids] - now
        slack += target * shown.generated
        return slack

    def _confidence(self, shown: Shown) -> FloatArray | None:
        if self._acceptance is None:
            return None
        classes = self.scheduler.requests.numbers[CLASS, shown.ids]
        return self._acceptance.confidence(shown.ids, classes, shown.generated, int(shown.pending.max(initial=0)))

    def _raised(self, call: str, error: BaseException) -> PolicyError:
        """Return what to raise instead of the policy's own *error* in *call*."""
        frame = extract_tb(error.__traceback__)[-1]
        at = f"{Path(frame.filename).name}:{frame.lineno}, in {call} of step {self.step}"
        said = " ".join([f"{type(error).__name__}:", *str(error).split()])
        return PolicyError(f"policy: {self._name()} raised {said}; at {at}; mend the policy")

    def _name(self) -> str:
        return label(self.policy, type(self.policy).__name__)

    def _limit(self, lengths: IntArray, shown: Shown, context: int) -> tuple[int, int]:
        """Let the rows verify *lengths* drafts; return the drafts and the query-key pairs in all."""
        verified = np.asarray(lengths, dtype=np.int64)
        self.scheduler.limit(verified)
        return int(verified.sum()), context + int(np.dot(verified, shown.context))

    def _switch(self, plan: Plan) -> tuple[Drafter, int]:
        """Load or drop the drafter as planned; return its state and the KV tokens that a loaded one must catch up."""
        memory, catch_up = self.rules.memory, 0
        if plan.drafter == "dropped":
            if self._loaded:
                self._loaded = False
                self.scheduler.set_drafter_memory(0, memory.without_drafter)
            return "dropped", 0
        if not self._loaded:
            self._loaded = True
            catch_up = self.scheduler.stored_tokens()
            self.scheduler.set_drafter_memory(self.rules.draft_lengths[-1], memory.with_drafter)
        return ("on" if plan.draft_length else "warm"), catch_up

    def end(self, now: float) -> int:
        """Finish the step at time *now*: emit tokens, free what is done, draft; return how many requests finished."""
        scheduler, shape, plan = self.scheduler, self.shape, self._plan
        if shape.verify_tokens > shape.rows and self._acceptance is None:
            raise PolicyError("drafts were verified, but the scenario has no acceptance law")
        length = plan.draft_length if self._acceptance is not None else 0
        emitted, accepted, tried, late, finished, gaps, waiting, used = scheduler.conclude(
            now, length, plan.verify_lengths is not None
        )
        done = scheduler.finished(finished) if finished else []
        if self._host is not None:
            self._told = scheduler.step[CHUNK_OF, : shape.prefill_rows].tolist(), done
        if done:
            self._finished(done)
        if gaps:
            self._recorder.gaps(scheduler.gaps[:gaps], self._now)
        self._recorder.stepped(
            shape, self.index, self.step, self._now, self.seconds, waiting, used, emitted, accepted, shape.rows - late
        )
        if self._learns:
            self._teach(shape, (accepted, tried))
        self.step += 1
        return finished

    def _teach(self, shape: StepShape, tally: tuple[int, int]) -> None:
        """Tell the policy the outcomes that are due."""
        if shape.rows:
            told = self.scheduler.told(shape.rows)
            experts = shape.distinct_experts or None
            self._outcomes.append(Outcome(self.step, self.seconds, told[0], told[1], told[2], experts, tally))
        while len(self._outcomes) > self.rules.feedback_lag:
            try:
                self.policy.learn(self._outcomes.popleft())
            except POLICYS_OWN as error:
                raise self._raised("learn", error) from error

    def fail(self, policy: Policy) -> list[int]:
        """Lose all requests, the step that runs and what the policy learnt; return the requests."""
        self._rest()
        self.policy = policy
        self._plans.clear()
        self._outcomes.clear()
        self._loaded = self._acceptance is not None
        lost = self.scheduler.drain(self._now)
        blocks = self.rules.memory.with_drafter if self._loaded else self.rules.memory.without_drafter
        self.scheduler.set_drafter_memory(self.rules.draft_lengths[-1], blocks)
        return lost

    def record_unfinished(self) -> None:
        """Record the requests that still wait or run."""
        self._recorder.finished(self.scheduler.unfinished())
