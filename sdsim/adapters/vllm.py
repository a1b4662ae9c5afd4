"""vLLM's scheduler with a policy inside: `vllm serve ... --scheduler-cls sdsim.adapters.vllm.AsyncScheduler`.

`AsyncScheduler` stands in for vLLM's own; `Scheduler` for the one without asynchronous scheduling, which vLLM uses
for some drafters. The policy comes from `--additional-config '{"sdsim": {...}}'` or from SDSIM_POLICY (see
`settings`).

What to know of vLLM (0.24 to 0.33; the scheduler interface is not a public one):
- The draft length goes into `SchedulerOutput.num_spec_tokens_to_schedule` before the scheduler makes placeholders of
  it. It is drafted at the end of this step and verified in the next, as a `Plan` has it. Its outcome is learnt after
  that step, and with asynchronous scheduling one step later still.
- Only lengths in `num_speculative_tokens_per_batch_size` have CUDA graphs, so the table is needed, and nothing else
  is run; `engine_config.with_lengths` puts a policy's lengths into one. Where the policy fails, the table decides.
- vLLM drops the table with several data-parallel ranks, which could disagree, and this adapter then refuses to start.
- On 0.26, model runner V2 ignores the length. It is not the default there for most MoE models.
- Contexts count drafts in flight: under asynchronous scheduling they are too long by one step's drafts at most.
- Of a plan, the draft length is carried out: drafts are not trimmed, prompts keep vLLM's budget, and the drafter
  stays loaded.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from typing import Any, NamedTuple

import numpy as np

from sdsim.adapters.guard import Guard
from sdsim.adapters.settings import Settings, load_settings
from sdsim.errors import PolicyError
from sdsim.policy import IntArray, Observation, Outcome

FILLABLE = frozenset({"slo_slack"})
IN_FLIGHT = 64
SCHEDULERS = {
    "AsyncScheduler": "vllm.v1.core.sched.async_scheduler",
    "Scheduler": "vllm.v1.core.sched.scheduler",
}
NO_TABLE = (
    "vLLM has no num_speculative_tokens_per_batch_size: it was not given, or vLLM dropped it, as it says in a warning "
    "(data parallelism; drafters without it on model runner V1); allowed: a table with every draft length to run; "
    'add "num_speculative_tokens_per_batch_size": [[1, 32, 4], [33, 256, 0]] or the like to --speculative-config'
)


class PolicyMixin:
    """Asks a policy for the draft length of each step. Stands before a vLLM scheduler among the bases."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        scheduler: Any = super()
        scheduler.__init__(*args, **kwargs)
        self.sdsim = Driver(self)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule a step; its time begins here."""
        self.sdsim.began = time.perf_counter()
        scheduler: Any = super()
        return scheduler.schedule(*args, **kwargs)

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        if scheduler_output.num_scheduled_tokens:
            length = self.sdsim.plan(self, scheduler_output)
            if length is not None:
                scheduler_output.num_spec_tokens_to_schedule = length
        scheduler: Any = super()
        scheduler._update_after_schedule(scheduler_output)

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Take in what the workers made of a step."""
        self.sdsim.learn(scheduler_output, model_runner_output)
        scheduler: Any = super()
        return scheduler.update_from_output(scheduler_output, model_runner_output)


class Row(NamedTuple):
    """A request that decodes in a step."""

    name: str
    number: int
    context: int
    generated: int
    pending: int


class Flight(NamedTuple):
    """A step whose outcome has not come yet."""

    output: Any
    step: int
    began: float
    rows: list[Row]


class Driver:
    """Sees a scheduler's steps as a policy does."""

    def __init__(self, scheduler: Any) -> None:
        config = scheduler.vllm_config
        if config.speculative_config is None:
            raise PolicyError("vLLM runs without a drafter: add --speculative-config, or drop --scheduler-cls")
        if scheduler.dynamic_sd_lookup is None:
            raise PolicyError(NO_TABLE)
        self.lengths = sorted(set(scheduler.dynamic_sd_lookup[1:]))
        given = config.additional_config.get("sdsim") if isinstance(config.additional_config, dict) else None
        self.settings: Settings = load_settings(given, FILLABLE)
        self.guard = Guard(self.settings, self.lengths, logging.getLogger("vllm.sdsim"))
        self.began = 0.0
        self._step, self._ended = 0, 0.0
        self._allowed = tuple(sorted({0, *self.lengths}))
        self._slack = "slo_slack" in getattr(self.guard.policy, "needs", ())
        self._numbers: dict[str, int] = {}
        self._numbered = 0
        self._first_token: dict[int, float] = {}
        self._flights: deque[Flight] = deque(maxlen=IN_FLIGHT)

    def plan(self, scheduler: Any, output: Any) -> int | None:
        """Return the draft length of the step just scheduled, or None to leave it to vLLM."""
        if self.guard.fault:
            return None
        try:
            rows = self._rows(scheduler.requests, output)
            seen = self._observation(scheduler, output, rows)
        except Exception as error:
            self.guard.fail("reading vLLM's scheduler", error)
            return None
        if self.guard.learns:
            self._flights.append(Flight(output, self._step, self.began, rows))
        self._step += 1
        return self.guard.plan(seen)

    def learn(self, output: Any, result: Any) -> None:
        """Hand the outcome of the step of *output* to the policy."""
        ended, before = time.perf_counter(), self._ended
        self._ended, flight = ended, self._landed(output)
        if flight is None or self.guard.fault:
            return
        try:
            outcome = _outcome(flight, result, ended - max(flight.began, before))
        except Exception as error:
            self.guard.fail("reading vLLM's output", error)
            return
        if len(outcome.request_ids):
            self.guard.learn(outcome)

    def _landed(self, output: Any) -> Flight | None:
        """Return the flight of *output*, None for a step that was not planned; those before it are given up."""
        if all(flight.output is not output for flight in self._flights):
            return None
        while (flight := self._flights.popleft()).output is not output:
            pass
        return flight

    def _rows(self, requests: Any, output: Any) -> list[Row]:
        """Return the decoding requests, oldest first: their prompt is stored, and one token is due beside drafts."""
        for name in output.finished_req_ids:
            self._first_token.pop(self._numbers.pop(name, -1), None)
        rows, drafts = [], output.scheduled_spec_decode_tokens
        for name, tokens in output.num_scheduled_tokens.items():
            request, pending = requests[name], len(drafts.get(name, ()))
            stored = request.num_computed_tokens
            if tokens - pending == 1 and stored >= request.num_prompt_tokens:
                rows.append(Row(name, self._number(name), stored, request.num_output_tokens, pending))
        return rows

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = self._numbered
            self._numbered += 1
        return number

    def _observation(self, scheduler: Any, output: Any, rows: list[Row]) -> Observation:
        columns = np.array([row[1:] for row in rows], dtype=np.int64).reshape(len(rows), 4).T
        columns.setflags(write=False)
        scheduled = output.num_scheduled_tokens
        decoding = len(rows) + int(columns[3].sum())
        return Observation(
            self._step,
            self.began,
            columns[0],
            columns[1],
            columns[2],
            self._slack_of(columns) if self._slack else None,
            output.total_num_scheduled_tokens - decoding,
            scheduler.get_request_counts()[1],
            scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            self._allowed,
            columns[3],
            None,
            len(scheduled) - len(rows),
        )

    def _slack_of(self, columns: IntArray) -> Any:
        """Return first token + TPOT target x generated - now; the first token came when the row was first seen."""
        assert self.settings.tpot_s is not None
        first = [self._first_token.setdefault(number, self.began) for number in columns[0].tolist()]
        return np.array(first, dtype=float) + self.settings.tpot_s * columns[2] - self.began


def _outcome(flight: Flight, result: Any, seconds: float) -> Outcome:
    """Return the outcome of the rows that emitted; those stopped meanwhile did not."""
    places, sampled = result.req_id_to_index, result.sampled_token_ids
    invalid = getattr(flight.output, "num_invalid_spec_tokens", None) or {}
    emitted = [len(sampled[places[row.name]]) if sampled and row.name in places else 0 for row in flight.rows]
    known = [
        (row.number, row.pending - invalid.get(row.name, 0), tokens - 1)
        for row, tokens in zip(flight.rows, emitted, strict=True)
        if tokens
    ]
    numbers, verified, accepted = np.array(known, dtype=np.int64).reshape(len(known), 3).T
    return Outcome(flight.step, seconds, numbers, verified, accepted, None)


def __getattr__(name: str) -> Any:
    """Return a scheduler class, made when vLLM asks for it."""
    if name not in SCHEDULERS:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    base = getattr(importlib.import_module(SCHEDULERS[name]), name)
    made = type(name, (PolicyMixin, base), {"__module__": __name__, "__doc__": f"vLLM's {name} with a policy inside."})
    globals()[name] = made
    return made
