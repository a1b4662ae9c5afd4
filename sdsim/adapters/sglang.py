"""SGLang's adaptive speculation with a policy in place of its rule.

`register` is an `sglang.srt.plugins` entry point. With SDSIM_POLICY set (see `settings`) it puts a policy where
SGLang builds its own `AdaptiveSpecPolicy`, on servers started with `--speculative-adaptive`; otherwise it does
nothing.

What to know of SGLang (0.5.23; EAGLE and EAGLE3 with topk 1, no attention data parallelism):
- The step counts are those of `--speculative-adaptive-config`, since buffers and graphs are made for them;
  `engine_config` writes one. Where the policy fails, that config's own rule decides, and it has been fed all along.
- A step here drafts first and verifies what it drafted: no drafts are pending when it is planned, and the length
  planned is verified in the same step.
- Every tensor-parallel rank decides for itself and all must agree, so no clock is read: `now` and an outcome's
  seconds are sums of the price table's steps, or 0 without one. A policy that measures time learns nothing from them.
- Under overlapped scheduling contexts and outputs lag by the step in flight, and so do outcomes.
- Graphs are captured at every batch size for every step count, since a policy may choose any anywhere.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sdsim.adapters.guard import Guard
from sdsim.adapters.settings import VARIABLE, load_settings
from sdsim.policy import IntArray, Observation, Outcome

IN_FLIGHT = 64
RULE = "sglang.srt.speculative.adaptive_spec_params.AdaptiveSpeculativeParams"
RUN_BATCH = "sglang.srt.managers.scheduler.Scheduler.run_batch"


class Batch(NamedTuple):
    """What the scheduler knows of the batch about to run."""

    names: list[str]
    contexts: list[int]
    generated: list[int]
    waiting: int
    kv_free: int


class Flight(NamedTuple):
    """A step whose outcome has not come yet."""

    step: int
    numbers: IntArray
    length: int
    seconds: float


class AdaptivePolicy:
    """Implements SGLang's `AdaptiveSpecPolicy` (`adaptive_runtime_state.py`) with a policy.

    *rule* makes the engine's own, which reads the config, knows the step counts, and stands by.
    """

    def __init__(self, initial_steps: int, cfg_path: str | None, rule: Callable[..., Any]) -> None:
        self.rule = rule(initial_steps=initial_steps, cfg_path=cfg_path)
        self.candidate_steps: list[int] = list(self.rule.candidate_steps)
        settings = load_settings(None, frozenset())
        self.guard = Guard(settings, self.candidate_steps, logging.getLogger("sglang.sdsim"))
        self.prices = settings.prices
        self._allowed = tuple(sorted({0, *self.candidate_steps}))
        self._cuda_graph_bs: list[int] | None = None
        self._batch: Batch | None = None
        self._numbers: dict[str, int] = {}
        self._numbered = 0
        self._step, self._now = 0, 0.0
        self._flights: deque[Flight] = deque(maxlen=IN_FLIGHT)

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None:
        """Take in the batch sizes that are captured, None without graphs."""
        self._cuda_graph_bs = sorted(cuda_graph_bs) if cuda_graph_bs else None
        self.rule.set_cuda_graph_bs(cuda_graph_bs)

    def cuda_graph_bs_for_step(self, step: int) -> list[int] | None:
        """Return the batch sizes to capture for *step*: all."""
        return self._cuda_graph_bs

    def see(self, scheduler: Any, batch: Any) -> None:
        """Note what *scheduler* knows of *batch*, which it is about to run."""
        if self.guard.fault:
            return
        try:
            self._batch = _seen(scheduler, batch)
        except Exception as error:
            self.guard.fail("reading SGLang's scheduler", error)

    def get_steps_for_batch(self, batch_size: int) -> int:
        """Return the draft length of a step of *batch_size* rows."""
        own = int(self.rule.get_steps_for_batch(batch_size))
        if self.guard.fault or not batch_size:
            return own
        try:
            seen = self._observation(batch_size)
        except Exception as error:
            self.guard.fail("reading SGLang's batch", error)
            return own
        planned = self.guard.plan(seen)
        length = own if planned is None else planned
        seconds = self._seconds(seen, length)
        if self.guard.learns:
            self._flights.append(Flight(self._step, seen.request_ids, length, seconds))
        self._step, self._now, self._batch = self._step + 1, self._now + seconds, None
        return length

    def on_verify_complete(self, num_correct_drafts_per_req: Sequence[int], batch_size: int) -> int | None:
        """Learn what a step accepted; return the step count to change to, None for the one that stands."""
        own: int | None = self.rule.on_verify_complete(num_correct_drafts_per_req, batch_size)
        if self.guard.fault:
            return own
        while self._flights:
            flight = self._flights.popleft()
            if len(flight.numbers) != len(num_correct_drafts_per_req):
                continue  # its outcome never came
            accepted = np.array(num_correct_drafts_per_req, dtype=np.int64)
            verified = np.full(len(accepted), flight.length, dtype=np.int64)
            self.guard.learn(Outcome(flight.step, flight.seconds, flight.numbers, verified, accepted, None))
            break
        return None

    def _observation(self, rows: int) -> Observation:
        batch = self._batch
        if batch is None or len(batch.names) != rows:
            found = "none" if batch is None else f"{len(batch.names)} requests"
            raise RuntimeError(f"a step of {rows} rows, but the batch seen before it has {found}")
        numbers = {name: self._numbers.get(name, -1) for name in batch.names}
        for name in (name for name, number in numbers.items() if number < 0):
            numbers[name], self._numbered = self._numbered, self._numbered + 1
        self._numbers = numbers
        columns = np.array([list(numbers.values()), batch.contexts, batch.generated, [0] * rows], dtype=np.int64)
        columns.setflags(write=False)
        return Observation(
            self._step, self._now, columns[0], columns[1], columns[2], None, 0, batch.waiting, batch.kv_free,
            self._allowed, columns[3],
        )  # fmt: skip

    def _seconds(self, seen: Observation, length: int) -> float:
        """Return what the price table says of the step, s; 0 without one."""
        if self.prices is None or length not in self.prices.draft_lengths:
            return 0.0
        return self.prices.step_seconds(seen.batch, length, float(seen.context_lengths.mean()))


def _seen(scheduler: Any, batch: Any) -> Batch:
    requests = batch.reqs
    free = scheduler.token_to_kv_pool_allocator.available_size() // scheduler.page_size
    return Batch(
        [request.rid for request in requests],
        [len(request.origin_input_ids) + len(request.output_ids) - 1 for request in requests],
        [len(request.output_ids) for request in requests],
        len(scheduler.waiting_queue),
        free,
    )


def show_batch(run_batch: Callable[..., Any], scheduler: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    """Let the policy of *scheduler*'s drafter see *batch*, then run it: a hook around `Scheduler.run_batch`."""
    controller = getattr(scheduler.model_worker, "adaptive_controller", None)
    policy = getattr(controller, "params", None)
    if isinstance(policy, AdaptivePolicy) and not batch.forward_mode.is_extend():
        policy.see(scheduler, batch)
    return run_batch(scheduler, batch, *args, **kwargs)


def register() -> None:
    """Put a policy in the place of SGLang's rule, if SDSIM_POLICY names one."""
    if not os.environ.get(VARIABLE):
        return
    hooks = importlib.import_module("sglang.srt.plugins.hook_registry")
    module, _, name = RULE.rpartition(".")
    # SGLang replaces every module's reference to the class, so the original is kept in a closure.
    original = getattr(importlib.import_module(module), name)

    class Replacement(AdaptivePolicy):
        def __init__(self, initial_steps: int, cfg_path: str | None = None) -> None:
            super().__init__(initial_steps, cfg_path, original)

    hooks.HookRegistry.register(RULE, Replacement, hooks.HookType.REPLACE)
    hooks.HookRegistry.register(RUN_BATCH, show_batch, hooks.HookType.AROUND)
