"""Conformance suites for people who write a policy or a latency model. Each raises AssertionError with what failed."""

from __future__ import annotations

import datetime
import gc
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from types import FrameType
from typing import Any

import numpy as np

from sdsim.latency import LatencyModel
from sdsim.policy import Observation, Outcome, Plan, Policy, plan_fault
from sdsim.step import StepShape

PLAN_BUDGET_S = 50e-6
CALLS, ROUNDS, TRIES, PAUSE_S = 40, 8, 20, 0.1
"""Plans of a round, rounds of a try, and how often plans that took too long are tried, s apart."""
ROWS = (0, 1, 2, 7, 64, 256)


def observations(draft_lengths: tuple[int, ...], steps: int = 60, seed: int = 0) -> Iterator[Observation]:
    """Yield *steps* plausible observations: batches from 0 to 256 rows, with and without prompts, slack, confidence."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        rows = ROWS[step % len(ROWS)]
        pending = rng.choice(np.array(draft_lengths), rows).astype(np.int64)
        prefills = int(rng.integers(0, 3))
        arrays = (np.arange(rows) + step, rng.integers(1, 9000, rows), rng.integers(1, 500, rows), pending)
        for array in arrays:
            array.setflags(write=False)
        yield Observation(
            step=step,
            now=0.02 * step,
            request_ids=arrays[0],
            context_lengths=arrays[1],
            generated=arrays[2],
            slo_slack=rng.normal(0, 0.1, rows) if step % 2 else None,
            prefill_tokens=prefills * 512,
            waiting=int(rng.integers(0, 50)),
            kv_free=int(rng.integers(0, 10_000)),
            draft_lengths=draft_lengths,
            pending=pending,
            confidence=rng.uniform(0, 1, (rows, max(draft_lengths))) if step % 3 else None,
            prefill_requests=prefills,
        )


def outcome_of(seen: Observation, plan: Plan, seed: int = 0) -> Outcome:
    """Return a plausible outcome of *plan* under *seen*."""
    verified = seen.pending if plan.verify_lengths is None else np.asarray(plan.verify_lengths)
    rng = np.random.default_rng([seed, seen.step])
    accepted = np.array([rng.integers(0, v + 1) for v in verified], dtype=np.int64)
    experts = 60.0 if seen.step % 2 else None
    return Outcome(seen.step, 0.02, seen.request_ids.copy(), verified.copy(), accepted, experts)


def check_plan(plan: Plan, seen: Observation) -> None:
    """Assert that *plan* is legal under *seen*."""
    fault = plan_fault(plan, seen.draft_lengths, seen.pending)
    assert fault is None, f"the policy planned {fault}"


CLOCKS = frozenset(
    getattr(time, f"{clock}{suffix}")
    for clock in ("time", "monotonic", "perf_counter", "process_time", "thread_time")
    for suffix in ("", "_ns")
)


def _forbidden(function: Any) -> str | None:
    """Return what is wrong with a policy that calls *function*, if anything."""
    owner = getattr(function, "__self__", None)
    if function in CLOCKS:
        return f"reads the clock (time.{function.__name__})"
    if isinstance(owner, type) and issubclass(owner, datetime.date) and function.__name__ in ("now", "today", "utcnow"):
        return f"reads the clock ({owner.__name__}.{function.__name__})"
    if function is os.urandom or owner is getattr(random.random, "__self__", None):
        return f"draws from global randomness ({function.__name__}); give it a seeded generator of its own"
    return None


def _numpys_luck() -> tuple[bytes, int]:
    """Return how far numpy's global generator has come; its calls cannot be watched."""
    state: Any = np.random.get_state()
    return state[1].tobytes(), state[2]


@contextmanager
def no_clock_no_luck() -> Iterator[None]:
    """Raise AssertionError if what runs inside read a clock or global randomness: the same plans must come again."""
    found: list[str] = []

    def watch(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and not found and (wrong := _forbidden(called)):
            found.append(f"{wrong} at {frame.f_code.co_filename}:{frame.f_lineno}")

    before, luck, collects = sys.getprofile(), _numpys_luck(), gc.isenabled()
    gc.disable()  # what others hook into a collection is not the policy's doing
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    assert not found, f"the policy {found[0]}"
    assert _numpys_luck() == luck, "the policy draws from global randomness (numpy.random); seed a generator of its own"


def _plans(policy: Policy, lengths: tuple[int, ...], deliver: Callable[[list[Outcome]], list[Outcome]]) -> list[Plan]:
    plans, waiting = [], []
    for seen in observations(lengths):
        plan = policy.plan(seen)
        check_plan(plan, seen)
        plans.append(plan)
        waiting.append(outcome_of(seen, plan))
        for outcome in deliver(waiting):
            policy.learn(outcome)
    return plans


def _same(a: Plan, b: Plan) -> bool:
    same_lengths = (a.verify_lengths is None) == (b.verify_lengths is None) and np.array_equal(
        np.asarray(a.verify_lengths), np.asarray(b.verify_lengths)
    )
    return a[0] == b[0] and a[2:] == b[2:] and bool(same_lengths)


def check_policy(make: Callable[[], Policy] | Policy, budget_s: float | None = PLAN_BUDGET_S) -> None:
    """Assert that a policy keeps the contract of `sdsim.policy`; *make* returns a fresh one each time, or is one.

    Legal plans only; the same plans from the same observations; no clock and no global randomness read; late, lost and
    repeated outcomes and empty batches survived; no writing into the observation (its arrays are read-only); `plan`
    within *budget_s* of CPU time at 256 rows, unless a debugger or a measure of coverage slows each line.
    """
    make = make if callable(make) else partial(deepcopy, make)
    policy = make()
    assert isinstance(policy, Policy), f"{policy!r} has no plan and learn"
    lengths = tuple(sorted({0, *getattr(policy, "lengths", range(9))}))

    def at_once(waiting: list[Outcome]) -> list[Outcome]:
        return [waiting.pop()]

    def late(waiting: list[Outcome]) -> list[Outcome]:
        return [waiting.pop(0)] if len(waiting) > 2 else []

    def twice(waiting: list[Outcome]) -> list[Outcome]:
        return [waiting[-1], waiting.pop()]

    def lost(waiting: list[Outcome]) -> list[Outcome]:
        return waiting[-1:] if len(waiting) % 3 == 0 else []

    with no_clock_no_luck():
        first = _plans(make(), lengths, at_once)
    second = _plans(make(), lengths, at_once)
    assert all(map(_same, first, second)), "two fresh policies planned differently on the same observations"
    for deliver in (late, twice, lost):
        _plans(make(), lengths, deliver)
    if budget_s is not None and sys.gettrace() is None:
        took = plan_seconds(policy, lengths, budget_s)
        assert took <= budget_s, f"plan takes {took * 1e6:.0f} us at 256 rows; allowed: {budget_s * 1e6:.0f} us"


def plan_seconds(policy: Policy, lengths: tuple[int, ...], enough: float = 0.0, kinds: int = 1) -> float:
    """Return the CPU time of a plan at 256 rows, s, over *kinds* of observations, once warm.

    The best of many rounds, which other work on the machine can only slow; tries end with one of at most *enough*.
    """
    seen = [o for o in observations(lengths, steps=kinds * len(ROWS)) if o.batch == 256]
    calls = max(CALLS // kinds, 1) * seen
    best = float("inf")
    for _ in range(TRIES):
        for _ in range(ROUNDS):
            started = time.thread_time()
            for one in calls:
                policy.plan(one)
            best = min(best, (time.thread_time() - started) / len(calls))
        if best <= enough:
            break
        time.sleep(PAUSE_S)
    return best


def check_latency_model(model: LatencyModel, shape: StepShape | None = None) -> None:
    """Assert that a latency model keeps its contract: positive, deterministic, monotone, and the sum of its parts."""
    base = shape or StepShape(rows=8, verify_tokens=8, context_tokens=8000, attention_pairs=8000, distinct_experts=40.0)
    seconds = model.seconds(base)
    assert seconds > 0, f"a step takes {seconds} s"
    assert model.seconds(base) == seconds, "two answers for one shape"
    cost = model.cost(base)
    assert abs(cost.seconds - seconds) <= 1e-9 * seconds, f"cost says {cost.seconds}, seconds says {seconds}"
    assert all(part >= 0 for part in cost.components.values()), f"negative component in {cost.components}"
    assert cost.seconds <= sum(cost.components.values()) * (1 + 1e-9), "a step takes longer than all its parts"
    larger = [
        base._replace(verify_tokens=base.verify_tokens * 4, attention_pairs=base.attention_pairs * 4),
        base._replace(context_tokens=base.context_tokens * 50, attention_pairs=base.attention_pairs * 50),
        base._replace(distinct_experts=base.distinct_experts * 1.5),
        base._replace(prefill_tokens=2048, prefill_rows=1, prefill_pairs=2048 * 2049 // 2, first_tokens=1),
    ]
    for more in larger:
        assert model.seconds(more) >= seconds, f"{more} is cheaper than {base}"
