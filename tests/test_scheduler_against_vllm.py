"""Which requests run in each step, and how many tokens of each: ours beside vLLM's own scheduler, on the same traffic.

vLLM reserves room for a longest draft more than SEMANTICS.md does, so the two are held together with drafts where
blocks are plenty, and without drafts where they are short and requests are evicted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from sdsim import batch
from sdsim.acceptance import Acceptance, Component
from sdsim.request import RequestTable
from sdsim.scheduler import Limits, Scheduler
from sdsim.verification import DraftDepths
from sdsim.workload import Requests
from tests.real_vllm import (
    BLOCK,
    drafts,
    make_request,
    make_scheduler,
    speculative_config,
    worker_output,
    write_model,
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,  # importing vLLM takes 10 to 20 s
    pytest.mark.filterwarnings("ignore:::vllm", "ignore:::torch"),
]
ROWS, BUDGET, STEPS = 16, 256, 900
PLENTY, SHORT = 4000, 100

Tokens = dict[int, int]
"""Tokens of each request in one step."""


class Ours:
    """Our scheduler; `accepted` is how many drafts of each row the last step accepted."""

    def __init__(self, seed: int, blocks: int, length: int) -> None:
        self.table, self.length = RequestTable(), length
        self.depths = DraftDepths(self.table, Acceptance(seed, (Component("all", 1.0, 0.7),)) if length else None)
        self.scheduler = Scheduler(0, Limits(ROWS, BUDGET, blocks, BLOCK, length), self.table, self.depths)
        self.accepted: Tokens = {}
        self.evictions = 0

    def arrive(self, request: int, prompt: int, output: int) -> None:
        one = np.ones(1, dtype=np.int64)
        drawn = Requests(request * one, 0.0 * one, prompt * one, output * one, 0 * one)
        self.table.add(drawn, self.depths.draw(drawn))
        self.scheduler.add(request)

    def step(self) -> Tokens:
        scheduler = self.scheduler
        rows, _, _, _, chunks, *_ = scheduler.schedule(0.0)
        shown = scheduler.shown(rows)
        found = dict(zip(shown.ids.tolist(), (1 + shown.pending).tolist(), strict=True))
        found |= {request: tokens for request, _, tokens in scheduler.chunks(chunks).tolist()}
        self.evictions += int(scheduler.state[batch.EVICTED])
        scheduler.prefill()
        scheduler.conclude(0.0, self.length, False)
        ids, _, accepted = scheduler.told(rows)
        self.accepted = dict(zip(ids.tolist(), accepted.tolist(), strict=True))
        return found


class Theirs:
    """vLLM's scheduler, whose worker accepts what it is told to."""

    def __init__(self, model: str, blocks: int, length: int) -> None:
        # n-grams, since releases differ in the slots that they keep for what a draft model adds to the batch
        given = {"method": "ngram", "num_speculative_tokens": length, "prompt_lookup_max": 2}
        self.scheduler = make_scheduler(
            model, 1 + blocks, speculative_config(model, **given) if length else None,
            max_num_seqs=ROWS, max_num_batched_tokens=BUDGET, async_scheduling=False,
        )  # fmt: skip
        self.length = length

    def arrive(self, request: int, prompt: int, output: int) -> None:
        self.scheduler.add_request(make_request(str(request), prompt, output))

    def step(self, accepted: Tokens) -> Tokens:
        scheduled = self.scheduler.schedule()
        names = list(scheduled.num_scheduled_tokens)
        if not names:
            return {}
        sampled = [[5] * self._emitted(name, accepted) for name in names]
        self.scheduler.update_from_output(scheduled, worker_output(names, sampled))
        if self.length:
            emitting = [name for name, tokens in zip(names, sampled, strict=True) if tokens]
            self.scheduler.update_draft_token_ids(drafts(emitting, self.length))
        return {int(name): tokens for name, tokens in scheduled.num_scheduled_tokens.items()}

    def _emitted(self, name: str, accepted: Tokens) -> int:
        request = self.scheduler.requests[name]
        if int(name) in accepted:
            return 1 + accepted[int(name)]
        return int(request.num_computed_tokens >= request.num_tokens)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    return write_model(tmp_path)


def traffic(seed: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield the requests (number, prompt, output tokens) that arrive before each step: in bursts, then none.

    No prompt has one token: vLLM 0.33 lengthens it to the rows that speculate.
    """
    luck, number = random.Random(seed), 0
    for step in range(STEPS):
        come = luck.choice([0, 0, 0, 0, 0, 1, 4]) if step < STEPS // 2 else 0
        yield [(number + i, luck.randint(2, 500), luck.randint(1, 200)) for i in range(come)]
        number += come


@pytest.mark.parametrize(("blocks", "length"), [(PLENTY, 0), (PLENTY, 1), (PLENTY, 4), (SHORT, 0)])
@pytest.mark.parametrize("seed", range(5))
def test_each_step_holds_the_same_tokens(model, seed, blocks, length):
    ours, theirs, met = Ours(seed, blocks, length), Theirs(model, blocks, length), Counter[str]()
    for step, arrivals in enumerate(traffic(seed)):
        for request in arrivals:
            ours.arrive(*request)
            theirs.arrive(*request)
        found = ours.step()
        assert theirs.step(ours.accepted) == found, f"step {step}"
        met["rows and prompts"] += 0 < len(ours.accepted) < len(found)
        met["full budgets"] += sum(found.values()) == BUDGET
    assert met["rows and prompts"] > 20
    assert met["full budgets"] > 20
    assert (ours.evictions > 5) == (blocks == SHORT)
