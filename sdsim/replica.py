"""One replica, step by step: schedule, observe, plan, run, accept, learn.

The step itself is run by whatever `execute` is: a latency model that prices its shape, or a GPU that runs it. That
call is the only line in which a simulation and a hardware run differ.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdsim.acceptance import Acceptance
from sdsim.errors import PolicyError
from sdsim.experts import Routing
from sdsim.policy import Drafter, FloatArray, IntArray, Observation, Outcome, Plan, Policy, learn_nothing
from sdsim.recorder import Recorder
from sdsim.request import Request
from sdsim.scheduler import Scheduler
from sdsim.step import StepShape
from sdsim.verification import DepthTable

REMEMBERED = 50_000
"""Step sizes whose distinct experts are kept."""


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
    tpot_slo_s: float | None = None
    feedback_lag: int = 0
    block_size: int = 16
    works_ahead: bool = False
    """Whether the engine schedules a step while the one before runs: it then misses what arrives meanwhile."""


class Replica:
    """A scheduler, a policy and the state of the drafter."""

    def __init__(
        self,
        index: int,
        scheduler: Scheduler,
        policy: Policy,
        execute: Callable[[StepShape], float],
        routing: Routing,
        acceptance: Acceptance | None,
        depths: DepthTable | None,
        recorder: Recorder,
        rules: Rules,
        rest: Callable[[], None] | None = None,
    ) -> None:
        self.index = index
        self.scheduler = scheduler
        self.policy = policy
        self.rules = rules
        self.step = 0
        self.seconds = 0.0
        self._execute = execute
        self._rest = rest
        self._routing = routing
        self._acceptance = acceptance
        self._depths = depths
        self._recorder = recorder
        self._needs = frozenset(getattr(policy, "needs", ()))
        self._learns = getattr(type(policy), "learn", None) is not learn_nothing
        self._outcomes: deque[Outcome] = deque()
        self._loaded = depths is not None
        self._legal = frozenset(rules.draft_lengths)
        self._legal_longest = max(rules.draft_lengths)
        self._verified: IntArray | int = 0
        self._most = 1
        self._experts: dict[tuple[int, int, int], float] = {}
        self._late: dict[int, float] = {}
        self._now = 0.0

    def submit(self, request: Request) -> None:
        """Take in a request that arrives now."""
        self.scheduler.add(request)

    def begin(self, now: float) -> float | None:
        """Start a step at time *now*; return its duration, s, or None when there is nothing to run."""
        scheduler = self.scheduler
        if not scheduler.schedule():
            if self._rest is not None:
                self._rest()
            return None
        self._now = now
        for request in scheduler.evicted:
            self._late.setdefault(request.id, now)
        for request_id in scheduler.left_out:
            self._late.setdefault(request_id, now)
        plan = self.policy.plan(self._observe(now))
        self._check(plan)
        if plan.prefill_budget is not None and scheduler.decoding:
            scheduler.trim_prefill(plan.prefill_budget)
        self._plan = plan
        self.shape = self._shape(plan)
        self.seconds = self._execute(self.shape)
        return self.seconds

    def _observe(self, now: float) -> Observation:
        scheduler, needs = self.scheduler, self._needs
        view = scheduler.rows.read_only
        if scheduler.decoding < scheduler.rows.count:
            view = view[:, : scheduler.decoding]
        prefill = 0
        for _, _, chunk in scheduler.chunks:
            prefill += chunk
        return Observation(
            self.step,
            now,
            view[0],
            view[1],
            view[2],
            self._slack(now) if "slo_slack" in needs else None,
            prefill,
            len(scheduler.waiting),
            scheduler.kv.free,
            self.rules.draft_lengths,
            view[5],
            self._confidence(view) if "confidence" in needs else None,
            len(scheduler.chunks),
        )

    def _slack(self, now: float) -> FloatArray | None:
        """Return how far each row is ahead of its TPOT target: first token + TPOT x generated - now."""
        if self.rules.tpot_slo_s is None:
            return None
        decoding = self.scheduler.decoding
        slack = np.array([r.first_token_s for r in self.scheduler.running[:decoding]], dtype=float) - now
        slack += self.rules.tpot_slo_s * self.scheduler.rows.generated[:decoding]
        return slack

    def _confidence(self, view: IntArray) -> FloatArray | None:
        if self._acceptance is None:
            return None
        classes = np.array([r.request_class for r in self.scheduler.running[: view.shape[1]]], dtype=np.int64)
        return self._acceptance.confidence(view[0], classes, view[2], int(view[5].max(initial=0)))

    def _check(self, plan: Plan) -> None:
        if plan.draft_length not in self._legal:
            message = (
                f"policy {self.policy!r} planned draft length {plan.draft_length}; allowed: {self.rules.draft_lengths}"
            )
            raise PolicyError(message)
        if plan.draft_length and plan.drafter != "on":
            raise PolicyError(f"policy {self.policy!r} planned to draft with the drafter {plan.drafter}; plan length 0")
        if plan.verify_lengths is not None:
            lengths, pending = np.asarray(plan.verify_lengths), self.scheduler.rows.pending[: self.scheduler.decoding]
            if lengths.shape != pending.shape or (lengths < 0).any() or (lengths > pending).any():
                message = f"policy {self.policy!r} planned verify lengths {lengths}; allowed: 0 to pending, {pending}"
                raise PolicyError(message)

    def _verification(self, plan: Plan, contexts: IntArray, context_total: int) -> tuple[int, int]:
        """Set what each row verifies; return the drafts and the query-key pairs in all."""
        scheduler = self.scheduler
        even = scheduler.even_pending
        if even is not None and plan.verify_lengths is None:
            self._verified, self._most = even, even + 1
            return even * scheduler.decoding, (even + 1) * context_total
        pending = scheduler.rows.pending[: scheduler.decoding]
        verified = pending if plan.verify_lengths is None else np.asarray(plan.verify_lengths, dtype=np.int64)
        self._verified, self._most = verified, 1 + int(verified.max(initial=0))
        return int(verified.sum()), context_total + int(np.dot(verified, contexts))

    def _shape(self, plan: Plan) -> StepShape:
        scheduler = self.scheduler
        rows, decoding = scheduler.rows, scheduler.decoding
        contexts, context_total = rows.context, scheduler.context_total
        if decoding < rows.count:
            contexts = contexts[:decoding]
            context_total = int(contexts.sum())
        drafts, pairs = self._verification(plan, contexts, context_total)
        prefill_tokens = prefill_context = prefill_pairs = ending = 0
        for request, stored, chunk in scheduler.chunks:
            prefill_tokens += chunk
            prefill_context += stored
            prefill_pairs += chunk * stored + chunk * (chunk + 1) // 2
            ending += stored + chunk == request.to_prefill
        drafter, catch_up = self._switch(plan)
        return StepShape(
            decoding,
            decoding + drafts,
            context_total,
            pairs,
            prefill_tokens,
            len(scheduler.chunks),
            prefill_context,
            prefill_pairs,
            ending,
            plan.draft_length,
            decoding + ending if plan.draft_length else 0,
            drafter,
            catch_up,
            self._distinct(decoding, decoding + drafts, prefill_tokens),
            contexts,
            self._verified,
            tuple((r.id, stored, chunk) for r, stored, chunk in scheduler.chunks) if scheduler.chunks else (),
        )

    def _distinct(self, rows: int, tokens: int, prefill_tokens: int) -> float:
        key = (rows, tokens, prefill_tokens)
        known = self._experts.get(key)
        if known is None:
            if len(self._experts) > REMEMBERED:
                self._experts.clear()
            known = self._experts[key] = self._routing.distinct_uniform_rows(rows, tokens, prefill_tokens)
        return known

    def _switch(self, plan: Plan) -> tuple[Drafter, int]:
        """Load or drop the drafter as planned; return its state and the KV tokens that a loaded one must catch up."""
        if plan.drafter == "dropped":
            if self._loaded:
                self._loaded = False
                self.scheduler.set_drafter_memory(0, self.rules.memory.without_drafter)
            return "dropped", 0
        catch_up = 0
        if not self._loaded:
            self._loaded = True
            catch_up = self.scheduler.context_total + (
                self.scheduler.prefilling.computed if self.scheduler.prefilling else 0
            )
            self.scheduler.set_drafter_memory(self._legal_longest, self.rules.memory.with_drafter)
        return ("on" if plan.draft_length else "warm"), catch_up

    def end(self, now: float) -> list[Request]:
        """Finish the step at time *now*: emit tokens, free what is done, draft; return the finished requests."""
        scheduler, shape, plan = self.scheduler, self.shape, self._plan
        emitted, accepted = self._emit() if shape.rows else (0, 0)
        regular = shape.rows - self._record_late(now) if self._late and shape.rows else shape.rows
        finished = scheduler.finished() if shape.rows else []
        if scheduler.chunks:
            finished += self._end_prefill(now)
        if shape.drafter == "on":
            drafts = plan.draft_length
            if self._depths is not None:
                rows = scheduler.rows
                scheduler.set_pending(self._depths.available(rows.slot, rows.generated, drafts))
        elif scheduler.even_pending != 0 or scheduler.left_out:
            scheduler.set_pending(0)
        for request in finished:
            self._recorder.finished(request, self.index, now)
        self._recorder.stepped(
            shape, self.index, self.step, self._now, self.seconds, len(scheduler.waiting), scheduler.kv.used,
            emitted, accepted, regular,
        )  # fmt: skip
        self.step += 1
        while len(self._outcomes) > self.rules.feedback_lag:
            self.policy.learn(self._outcomes.popleft())
        return finished

    def _emit(self) -> tuple[int, int]:
        """Accept drafts and emit tokens on the decode rows; return how many tokens and how many drafts."""
        scheduler, count, verified = self.scheduler, self.shape.rows, self._verified
        rows = scheduler.rows
        if self.shape.verify_tokens == count:
            drafts_won: IntArray | int = 0
            emitted: IntArray | int = 1
            total, won = count, 0
        else:
            depths = self._depths
            if depths is None:
                raise PolicyError("drafts were verified, but the scenario has no acceptance law")
            accepted = depths.accepted(rows.slot[:count], rows.generated[:count], rows.pending[:count], verified)
            won = int(np.add.reduce(accepted))
            tokens, total = accepted + 1, count + won
            if scheduler.least_remaining < self._most:
                tokens = np.minimum(tokens, rows.remaining[:count])
                total = int(np.add.reduce(tokens))
            drafts_won, emitted = accepted, tokens
        if self._learns:
            self._outcomes.append(self._outcome(drafts_won))
        scheduler.emitted(emitted, total, self._most)
        return total, won

    def _outcome(self, accepted: IntArray | int) -> Outcome:
        shape, rows = self.shape, self.scheduler.rows
        verified, won = _per_row(self._verified, shape.rows), _per_row(accepted, shape.rows)
        experts = shape.distinct_experts or None
        return Outcome(self.step, self.seconds, rows.ids[: shape.rows].copy(), verified, won, experts)

    def _end_prefill(self, now: float) -> list[Request]:
        """Store the chunks; requests whose prompt ended emit a token and become rows, or finish. Return the latter."""
        scheduler, finished = self.scheduler, []
        for request in scheduler.advance_prefill():
            request.generated += 1
            if np.isnan(request.first_token_s):
                request.first_token_s = now
            late = self._late.pop(request.id, None)
            if late is not None and request.generated > 1:
                self._recorder.gap(now - late)
            if not request.remaining:
                scheduler.release(request)
                finished.append(request)
                continue
            slot = scheduler.start_decoding(request)
            if self._depths is not None and request.depths is not None:
                self._depths.load(slot, request.depths, request.drafted)
        return finished

    def _record_late(self, now: float) -> int:
        """Record the gaps of rows that emit again after sitting out; return how many they are."""
        back = [i for i in self.scheduler.rows.ids[: self.shape.rows].tolist() if i in self._late]
        for request_id in back:
            self._recorder.gap(now - self._late.pop(request_id))
        return len(back)

    def record_unfinished(self) -> None:
        """Record the requests that still wait or run."""
        scheduler = self.scheduler
        rows = scheduler.rows
        for request, done, joined in zip(scheduler.running, rows.generated.tolist(), rows.joined.tolist(), strict=True):
            request.generated = done
            request.verify_steps += scheduler.steps_done - joined
            self._recorder.finished(request, self.index, math.nan)
        for request in (*scheduler.unborn(), *scheduler.waiting):
            self._recorder.finished(request, self.index, math.nan)


def _per_row(values: IntArray | int, rows: int) -> IntArray:
    """Return a value for each row, as an array of its own."""
    return np.full(rows, values, dtype=np.int64) if isinstance(values, int) else values.copy()
