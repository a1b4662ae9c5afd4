"""A second simulator, written from sdsim/SEMANTICS.md alone: slow, token by token, sharing no scheduling code.

It takes from sdsim what SEMANTICS.md presupposes: the requests, the coins, the policies and the price of a shape.
Rule numbers in the comments are those of SEMANTICS.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sdsim.policy import Observation, Outcome, Plan
from sdsim.step import StepShape
from sdsim.streams import coins
from sdsim.workload import requests
from tests.naive_drafts import Drafts


class Price(Protocol):
    """Prices the steps of one replica, one after another."""

    works_ahead: bool

    def seconds(self, shape: StepShape, /) -> float: ...

    def rest(self) -> None: ...

    @property
    def launched_s(self) -> float:
        """When a host that works ahead had launched the step priced last, s after its beginning."""
        ...


Pools = tuple[int, int]
"""KV blocks with a drafter and without."""


class Refused(Exception):
    """A request that can never be served."""


@dataclass(eq=False)
class Request:
    """A request, with its tokens one by one."""

    id: int
    arrival_s: float
    prompt: int
    output: int
    request_class: int
    emitted: list[int] = field(default_factory=list)
    """Output positions emitted so far."""
    stored: list[int] = field(default_factory=list)
    """Tokens with KV; the prompt's are negative, the output's are their positions."""
    pending: list[int] = field(default_factory=list)
    """Output positions that the pending drafts guess."""
    decoding: bool = False
    blocks: int = 0
    replica: int = -1
    first_token_s: float = math.nan
    finish_s: float = math.nan
    preemptions: int = 0
    verify_steps: int = 0

    def tokens(self) -> list[int]:
        """Return all tokens that are known: the prompt and what was emitted."""
        return [*range(-self.prompt, 0), *self.emitted]

    def uncomputed(self) -> list[int]:
        """Return the tokens that a prompt pass still has to compute."""
        return [] if self.decoding else self.tokens()[len(self.stored) :]


@dataclass(eq=False)
class Chunk:
    """Prompt tokens of one request in one step."""

    request: Request
    tokens: list[int]
    admitted: bool
    """Whether this step admitted the request."""


@dataclass(eq=False)
class Step:
    """A step that runs."""

    number: int
    start_s: float
    seconds: float
    plan: Plan
    rows: list[Request]
    verify: list[int]
    chunks: list[Chunk]
    distinct_experts: float


class Replica:
    """One replica: a queue, running requests in order of admission, and a pool of blocks."""

    def __init__(self, index: int, scenario: Any, system: Any, policy: Any, pools: Pools, price: Price) -> None:
        self.index, self.scenario, self.system, self.policy, self.price = index, scenario, system, policy, price
        self.with_drafter, self.without_drafter = pools
        self.loads_drafter = self.loaded = bool(getattr(policy, "loads_drafter", True))
        self.lengths = tuple(sorted({0, *policy.lengths})) if self.loaded else (0,)
        self.drafts = Drafts(scenario, system.draft.available if system.draft else 1.0)
        self.waiting: list[Request] = []
        self.first: list[Request] = []
        self.last: list[Request] = []
        """Those whose first, and whose last, token is of the step that ended last."""
        self.held: list[Request] = []
        """Those that came while a host that works ahead had chosen the next step already."""
        self.rules: Counter[str] = Counter()
        """How often each rule had something to say."""
        self.running: list[Request] = []
        self.step: Step | None = None
        self.chooses_s = math.inf
        """When a host that works ahead chooses the step after the one that runs."""
        self.steps = 0
        self.evicted = False
        self.left_out = 0
        self.outcomes: list[Outcome] = []
        self.records: list[dict[str, float]] = []

    @property
    def lookahead(self) -> int:
        return max(self.lengths) if self.loaded else 0

    @property
    def free(self) -> int:
        pool = self.with_drafter if self.loaded else self.without_drafter
        return pool - sum(r.blocks for r in self.running)

    def needed(self, tokens: int) -> int:
        """Return the blocks that hold *tokens*."""
        return -(-tokens // self.scenario.block_size)

    def evict(self, request: Request) -> None:
        """Rule 3.4."""
        self.running.remove(request)
        request.blocks = 0
        request.pending = []
        request.stored = []
        request.decoding = False
        request.preemptions += 1
        self.waiting.insert(0, request)
        self.evicted = True
        self.rules["3.4 evicts"] += 1

    def blocks_for_rows(self) -> None:
        """Rule 3.1, and the shrunk pool of section 4."""
        while self.free < 0:
            self.rules["4 pool overdrawn"] += 1
            self.evict(self.running[-1])
        for row in [r for r in self.running if r.decoding]:
            while row in self.running:
                lacks = self.needed(len(row.stored) + 1 + self.lookahead) - row.blocks
                if lacks <= 0:
                    break
                if lacks <= self.free:
                    row.blocks += lacks
                    self.rules["3.1 row takes blocks"] += 1
                    break
                self.rules["3.1 row evicts " + ("itself" if row is self.running[-1] else "the newest")] += 1
                self.evict(self.running[-1])

    def choose(self) -> tuple[list[Request], list[Chunk]]:
        """Section 3."""
        self.evicted = False
        self.blocks_for_rows()
        limits, slots = self.scenario.replica, 0
        if self.loads_drafter and self.system.draft.kind == "model":
            slots = self.system.engine.draft_slots
        budget = limits.max_num_batched_tokens - slots * limits.max_num_seqs
        rows: list[Request] = []
        for row in [r for r in self.running if r.decoding]:  # rule 3.2
            if 1 + len(row.pending) > budget:
                break
            budget -= 1 + len(row.pending)
            rows.append(row)
        self.rules["3.2 row sits out"] += sum(r.decoding for r in self.running) - len(rows)
        chunks: list[Chunk] = []
        for request in [r for r in self.running if not r.decoding]:  # rule 3.3
            assert request is self.running[-1], "the half-way request is the newest"
            tokens = request.uncomputed()[:budget]
            if not tokens:
                self.rules["3.3 no budget for the half-way request"] += 1
                continue
            self.rules["3.3 half-way request goes on"] += 1
            lacks = self.needed(len(request.stored) + len(tokens) + self.lookahead) - request.blocks
            if lacks > self.free:
                self.rules["3.3 half-way request evicted"] += 1
                self.evict(request)
                continue
            request.blocks += max(lacks, 0)
            budget -= len(tokens)
            chunks.append(Chunk(request, tokens, admitted=False))
        while (  # rule 3.5
            not self.evicted and self.waiting and len(self.running) < self.scenario.replica.max_num_seqs and budget > 0
        ):
            request = self.waiting[0]
            tokens = request.uncomputed()[:budget]
            blocks = self.needed(len(tokens) + self.lookahead)
            if max(blocks, self.needed(len(request.tokens()))) > self.free:
                self.rules["3.5 blocks lack"] += 1
                self.rules["3.5 blocks lack for the whole alone"] += blocks <= self.free
                break
            self.rules["3.5 admits" + (" again" if request.emitted else "")] += 1
            self.rules["3.5 admits in part"] += len(tokens) < len(request.uncomputed())
            self.waiting.pop(0)
            self.running.append(request)
            request.blocks = blocks
            budget -= len(tokens)
            chunks.append(Chunk(request, tokens, admitted=True))
        self.rules["3.5 eviction bars admission"] += self.evicted and bool(self.waiting)
        self.rules["3.5 rows are full"] += len(self.running) == self.scenario.replica.max_num_seqs
        return rows, chunks

    def cut(self, chunks: list[Chunk], allowed: int) -> list[Chunk]:
        """Cut *chunks* to *allowed* tokens in all, newest first (section 4)."""
        for chunk in reversed(chunks):
            while chunk.tokens and sum(len(c.tokens) for c in chunks) > allowed:
                chunk.tokens.pop()
        self.rules["4 half-way request cut to none"] += any(not c.admitted and not c.tokens for c in chunks)
        for chunk in reversed(chunks):
            if chunk.admitted and not chunk.tokens:
                self.rules["4 admission undone"] += 1
                self.running.remove(chunk.request)
                chunk.request.blocks = 0
                self.waiting.insert(0, chunk.request)
        return [c for c in chunks if c.tokens]

    def observe(self, now: float, rows: list[Request], chunks: list[Chunk]) -> Observation:
        """Return what the policy sees."""

        def column(of: Callable[[Request], int]) -> Any:
            return np.array([of(r) for r in rows], dtype=np.int64)

        needs, slo, slack, confidence = getattr(self.policy, "needs", ()), self.scenario.slo, None, None
        pending = [r.pending for r in rows]
        if "slo_slack" in needs and slo is not None and slo.tpot is not None:
            slack = np.array([r.first_token_s + slo.tpot * len(r.emitted) - now for r in rows])
        if "confidence" in needs and self.loads_drafter:
            confidence = np.array(self.drafts.confidences(rows)).reshape(len(rows), max(map(len, pending), default=0))
        return Observation(
            step=self.steps,
            now=now,
            request_ids=column(lambda r: r.id),
            context_lengths=column(lambda r: len(r.stored)),
            generated=column(lambda r: len(r.emitted)),
            slo_slack=slack,
            prefill_tokens=sum(len(c.tokens) for c in chunks),
            waiting=len(self.waiting),
            kv_free=self.free,
            draft_lengths=self.lengths,
            pending=column(lambda r: len(r.pending)),
            confidence=confidence,
            prefill_requests=len(chunks),
            context_tokens=sum(len(r.stored) for r in rows),
        )

    def begin(self, now: float) -> None:
        """Begin a step at *now*, if there is something to run."""
        assert self.step is None
        rows, chunks = self.choose()
        if not rows and not chunks:
            self.price.rest()
            self.first = self.last = []
            return
        plan = self.policy.plan(self.observe(now, rows, chunks))
        if plan.prefill_budget is not None and rows:
            self.rules["4 prompts cut"] += sum(len(c.tokens) for c in chunks) > plan.prefill_budget
            chunks = self.cut(chunks, plan.prefill_budget)
        if plan.verify_lengths is None:
            verify = [len(r.pending) for r in rows]
        else:
            verify = [int(v) for v in plan.verify_lengths]
        assert all(0 <= v <= len(r.pending) for v, r in zip(verify, rows, strict=True))
        self.rules["4 verifies fewer"] += sum(v < len(r.pending) for v, r in zip(verify, rows, strict=True))
        catch_up = 0
        if plan.drafter == "dropped":
            self.rules["4 drafter dropped"] += self.loaded
            self.loaded = False
        elif not self.loaded:
            self.loaded = True
            self.rules["4 drafter loaded again"] += 1
            catch_up = sum(len(r.stored) for r in self.running)
        verify_tokens = sum(1 + v for v in verify)
        prefill_tokens = sum(len(c.tokens) for c in chunks)
        first_tokens = sum(len(c.tokens) == len(c.request.uncomputed()) for c in chunks)
        experts = self.system.routing.distinct_uniform_rows(len(rows), verify_tokens, prefill_tokens)
        shape = StepShape(
            rows=len(rows),
            verify_tokens=verify_tokens,
            context_tokens=sum(len(r.stored) for r in rows),
            attention_pairs=sum((1 + v) * len(r.stored) for v, r in zip(verify, rows, strict=True)),
            prefill_tokens=prefill_tokens,
            prefill_rows=len(chunks),
            prefill_context=sum(len(c.request.stored) for c in chunks),
            prefill_pairs=sum(len(c.request.stored) + 1 + i for c in chunks for i in range(len(c.tokens))),
            first_tokens=first_tokens,
            draft_length=plan.draft_length,
            draft_rows=len(rows) + first_tokens if plan.draft_length > 0 else 0,
            drafter=plan.drafter,
            catch_up_tokens=catch_up,
            distinct_experts=experts,
        )
        seconds = self.price.seconds(shape)
        self.step = Step(self.steps, now, seconds, plan, rows, verify, chunks, experts)
        self.steps += 1
        if self.price.works_ahead:
            self.chooses_s = now + self.price.launched_s
            self.hand_out()

    def hand_out(self) -> None:
        """Let the first and last tokens of the step that ended reach their clients (section 2)."""
        for request in self.first:
            request.first_token_s = self.chooses_s
        for request in self.last:
            request.finish_s = self.chooses_s
        self.rules["2 handed out late"] += bool(self.first + self.last) and self.price.launched_s > 0

    def hand_over(self, now: float) -> None:
        """Queue what came while the step that begins now had been chosen already (section 2)."""
        if self.held:
            self.rules["2 queued after the choice"] += 1
            self.waiting += self.held
            self.held = []
            if self.step is None:
                self.rules["2 chosen from what came late"] += 1
                self.begin(now)

    @property
    def end_s(self) -> float:
        return math.inf if self.step is None else self.step.start_s + self.step.seconds

    def emit(self, request: Request, now: float) -> None:
        """Emit one token."""
        if not request.emitted:
            request.first_token_s = now
            self.first.append(request)
        request.emitted.append(len(request.emitted))

    def finish_if_done(self, request: Request, now: float) -> bool:
        if len(request.emitted) < request.output:
            return False
        request.finish_s = now
        self.last.append(request)
        request.blocks = 0
        self.running.remove(request)
        return True

    def end(self) -> list[Request]:
        """End the step (section 7); return the requests that finished."""
        step, now = self.step, self.end_s
        assert step is not None
        self.first, self.last = [], []
        finished: list[Request] = []
        accepted: list[int] = []
        emitted = 0
        for row, verify in zip(step.rows, step.verify, strict=True):  # rule 7.1
            accepted.append(self.drafts.accepted(row, verify))
            row.verify_steps += 1
            self.rules["6 rejects"] += accepted[-1] < verify
            self.rules["6 accepts all"] += accepted[-1] == verify > 0
            self.rules["6 accepts beyond the end"] += len(row.emitted) + accepted[-1] + 1 > row.output
            for _ in range(accepted[-1] + 1):
                if len(row.emitted) < row.output:
                    row.stored.append(row.emitted[-1])  # the last token was an input of this step
                    self.emit(row, now)
                    emitted += 1
        for row in step.rows:  # rule 7.2
            if self.finish_if_done(row, now):
                finished.append(row)
        first_tokens = 0
        for chunk in step.chunks:  # rule 7.3
            chunk.request.stored += chunk.tokens
            if not chunk.request.uncomputed():
                self.rules["7.3 prompt ends" + (" again" if chunk.request.emitted else "")] += 1
                self.emit(chunk.request, now)
                emitted += 1
                first_tokens += 1
                chunk.request.decoding = True
                if self.finish_if_done(chunk.request, now):
                    self.rules["7.3 finishes at its prompt's end"] += 1
                    finished.append(chunk.request)
        for request in self.running:  # rule 7.4
            in_step = request in step.rows or any(c.request is request for c in step.chunks)
            if request.decoding and in_step:
                request.pending = self.drafts.drafted(request, step.plan.draft_length)
                self.rules["6 no draft found"] += len(request.pending) < step.plan.draft_length
        if step.rows:  # rule 7.5
            outcome = Outcome(
                step=step.number,
                seconds=step.seconds,
                request_ids=np.array([r.id for r in step.rows], dtype=np.int64),
                verified=np.array(step.verify, dtype=np.int64),
                accepted=np.array(accepted, dtype=np.int64),
                distinct_experts=step.distinct_experts,
                tally=(
                    sum(accepted),
                    sum(min(a + 1, v) for a, v in zip(accepted, step.verify, strict=True)),
                ),
            )
            self.outcomes.append(outcome)
        while len(self.outcomes) > self.scenario.feedback_lag:
            self.policy.learn(self.outcomes.pop(0))
        record = {
            "replica": self.index,
            "step": step.number,
            "start_s": step.start_s,
            "seconds": step.seconds,
            "rows": len(step.rows),
            "verify_tokens": sum(1 + v for v in step.verify),
            "prefill_tokens": sum(len(c.tokens) for c in step.chunks),
            "draft_length": step.plan.draft_length,
            "emitted_tokens": emitted,
            "first_tokens": first_tokens,
            "accepted_tokens": sum(accepted),
            "distinct_experts": step.distinct_experts,
        }
        self.records.append(record)
        self.step = None
        return finished


class Router:
    """Section 2; equals go to the lowest index."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind = kind
        self.seed = seed
        self.turn = 0

    def choose(self, replicas: list[Replica], request: Request) -> Replica:
        if self.kind == "power_of_two" and len(replicas) > 1:
            u0, u1 = coins(self.seed, "router", request.id, np.array([0, 1])).tolist()
            a, b = int(u0 * len(replicas)), int(u1 * (len(replicas) - 1))
            pair = sorted((a, b + (b >= a)))
            return min((replicas[i] for i in pair), key=lambda r: len(r.waiting + r.held + r.running))
        if self.kind == "round_robin":
            self.turn += 1
            return replicas[(self.turn - 1) % len(replicas)]
        return min(replicas, key=self.load)

    def load(self, replica: Replica) -> int:
        here = replica.waiting + replica.held + replica.running
        if self.kind == "least_loaded":
            return len(here)
        if self.kind == "power_of_two":
            return 0
        assert self.kind in ("shortest_queue", "prefix_aware")  # without a prefix cache they are the same
        return sum(len(r.uncomputed()) + r.output - len(r.emitted) for r in here)


@dataclass
class Record:
    """What a run left behind."""

    requests: list[Request]
    steps: list[dict[str, float]]
    evictions: int
    rules: Counter[str]
    """How often each rule had something to say, by its number in SEMANTICS.md."""
    tied: bool
    """Whether an arrival and the end of a step, or two arrivals, were so near that rounding may turn them round."""


def run(
    scenario: Any, system: Any, make_policy: Callable[[], Any], pools: Pools, make_price: Callable[[], Price]
) -> Record:
    """Return what happens in *scenario*, each replica with a policy and a price of its own."""
    replicas = [Replica(i, scenario, system, make_policy(), pools, make_price()) for i in range(scenario.replicas)]
    router = Router(scenario.router.kind, scenario.seed)
    until = math.inf if scenario.until is None else scenario.until
    coming = drawn(scenario)
    check(coming, replicas[0], system)
    released = [r for r in coming if math.isnan(r.arrival_s)]
    coming = [r for r in coming if not math.isnan(r.arrival_s)]
    arrived: list[Request] = []
    tied = False
    while True:
        now = min([r.end_s for r in replicas] + [r.arrival_s for r in coming[:1]])
        if now == math.inf or now > until:
            break
        due = [r.arrival_s for r in coming if close(r.arrival_s, now)]
        tied |= (bool(due) and any(close(r.end_s, now) for r in replicas)) or any(time != now for time in due)
        done = 0
        for replica in replicas:
            if replica.end_s == now:
                done += len(replica.end())
                replica.begin(now)
                replica.hand_over(now)
        for _ in range(done):
            if released:
                request = released.pop(0)
                request.arrival_s = now + scenario.workload.think
                coming.append(request)
        while coming and coming[0].arrival_s == now:
            request = coming.pop(0)
            replica = router.choose(replicas, request)
            request.replica = replica.index
            chosen = replica.step is not None and now >= replica.chooses_s
            replica.rules["2 comes before the next choice"] += replica.step is not None and now < replica.chooses_s
            (replica.held if chosen else replica.waiting).append(request)
            arrived.append(request)
        for replica in replicas:
            if replica.step is None and replica.waiting + replica.running:
                replica.begin(now)
    steps = [record for replica in replicas for record in replica.records]
    rules = sum((r.rules for r in replicas), Counter[str]())
    return Record(arrived, steps, sum(r.preemptions for r in arrived), rules, tied)


def close(one: float, other: float) -> bool:
    """Return whether two times are equal but for rounding."""
    return abs(one - other) <= 1e-12 * other


def drawn(scenario: Any) -> list[Request]:
    """Return the requests of *scenario*, in order; there must be an end to them."""
    return [
        Request(int(r), float(arrival), int(prompt), int(output), int(of))
        for part in requests(scenario.workload, scenario.seed, scenario.until)
        for r, arrival, prompt, output, of in zip(
            part.ids, part.arrival_s, part.prompt_tokens, part.output_tokens, part.request_class, strict=True
        )
    ]


def check(coming: list[Request], replica: Replica, system: Any) -> None:
    """Refuse what can never fit (end of section 3)."""
    pool = min(replica.with_drafter, replica.without_drafter) if replica.loaded else replica.without_drafter
    for request in coming:
        tokens = request.prompt + request.output
        room = pool * replica.scenario.block_size
        if tokens > system.target.max_positions or tokens + 1 + replica.lookahead > room:
            raise Refused(f"request {request.id}")
