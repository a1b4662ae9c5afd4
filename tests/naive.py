"""A second simulator, written from sdsim/SEMANTICS.md alone: slow, token by token, sharing no scheduling code.

It takes from sdsim what SEMANTICS.md presupposes: the requests, the coins, the policies and the price of a shape.
Rule numbers in the comments are those of SEMANTICS.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import yaml

from sdsim.acceptance import make_acceptance, profile_rates
from sdsim.policy import Observation, Outcome, Plan
from sdsim.step import StepShape
from sdsim.streams import coins
from sdsim.workload import class_names, requests

LONGEST = 16
Price = Callable[[StepShape], float]


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


class Drafts:
    """Which drafts there are and which the target accepts (rule 6)."""

    def __init__(self, scenario: Any, available: float) -> None:
        self.seed = scenario.seed
        self.spec = scenario.acceptance
        self.available = available
        self.classes = class_names(scenario.workload)
        self.coins: dict[tuple[str, int], list[float]] = {}
        self.own_rates: dict[int, float] = {}
        if self.spec is not None and self.spec.kind == "profile":
            lengths = yaml.safe_load(resources.files("sdsim").joinpath("data/acceptance.yaml").read_text())
            self.profile = profile_rates(lengths[self.spec.name]).tolist()

    def coin(self, name: str, request: Request, position: int) -> float:
        """Return one coin; those of a request are tossed together and remembered."""
        key = name, request.id
        if key not in self.coins:
            places = np.arange(request.output + LONGEST + 1)
            self.coins[key] = coins(self.seed, name, request.id, places).tolist()
        return self.coins[key][position]

    def rate(self, request: Request, draft: int, pending: int) -> float:
        """Return q of the *draft*-th draft (from 1) of a chain of *pending*."""
        if self.spec.kind == "iid":
            return self.spec.rate
        if self.spec.kind == "positions":
            before = 1.0 if draft == 1 else self.spec.rates[draft - 2]
            return self.spec.rates[draft - 1] / before if before > 0 else 0.0
        if self.spec.kind == "profile":
            return self.profile[pending - 1][draft - 1]
        assert self.spec.kind == "mixture"
        if request.id not in self.own_rates:
            law = make_acceptance(self.spec, self.seed, self.classes)
            found = law.request_rates(np.array([request.id]), np.array([request.request_class]))
            self.own_rates[request.id] = float(found[0])
        return self.own_rates[request.id]

    def accepted(self, request: Request, verify: int) -> int:
        """Return how many of the first *verify* pending drafts are accepted."""
        for j in range(1, verify + 1):
            position = request.pending[j - 1]
            if not self.coin("acceptance", request, position) < self.rate(request, j, len(request.pending)):
                return j - 1
        return verify

    def drafted(self, request: Request, length: int) -> list[int]:
        """Return the positions that *request* has drafts for after a step that drafted *length*."""
        generated = len(request.emitted)
        if self.available < 1 and not self.coin("draft-available", request, generated) < self.available:
            return []
        return [generated + j for j in range(length)]


class Replica:
    """One replica: a queue, running requests in order of admission, and a pool of blocks."""

    def __init__(
        self, index: int, scenario: Any, system: Any, policy: Any, pools: tuple[int, int], price: Price
    ) -> None:
        self.index, self.scenario, self.system, self.policy, self.price = index, scenario, system, policy, price
        self.with_drafter, self.without_drafter = pools
        self.loaded = bool(getattr(policy, "loads_drafter", True))
        self.lengths = tuple(sorted({0, *policy.lengths})) if self.loaded else (0,)
        self.drafts = Drafts(scenario, system.draft.available if system.draft else 1.0)
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.step: Step | None = None
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

    def blocks_for_rows(self) -> None:
        """Rule 3.1, and the shrunk pool of section 4."""
        while self.free < 0:
            self.evict(self.running[-1])
        for row in [r for r in self.running if r.decoding]:
            while row in self.running:
                lacks = self.needed(len(row.stored) + 1 + self.lookahead) - row.blocks
                if lacks <= 0:
                    break
                if lacks <= self.free:
                    row.blocks += lacks
                    break
                self.evict(self.running[-1])

    def choose(self) -> tuple[list[Request], list[Chunk]]:
        """Section 3."""
        self.evicted = False
        self.blocks_for_rows()
        budget = self.scenario.replica.max_num_batched_tokens
        rows: list[Request] = []
        for row in [r for r in self.running if r.decoding]:  # rule 3.2
            if 1 + len(row.pending) > budget:
                break
            budget -= 1 + len(row.pending)
            rows.append(row)
        self.left_out += sum(r.decoding for r in self.running) - len(rows)
        chunks: list[Chunk] = []
        for request in [r for r in self.running if not r.decoding]:  # rule 3.3
            assert request is self.running[-1], "the half-way request is the newest"
            tokens = request.uncomputed()[:budget]
            if not tokens:
                continue
            lacks = self.needed(len(request.stored) + len(tokens) + self.lookahead) - request.blocks
            if lacks > self.free:
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
            if blocks > self.free:
                break
            self.waiting.pop(0)
            self.running.append(request)
            request.blocks = blocks
            budget -= len(tokens)
            chunks.append(Chunk(request, tokens, admitted=True))
        return rows, chunks

    def cut(self, chunks: list[Chunk], allowed: int) -> list[Chunk]:
        """Cut *chunks* to *allowed* tokens in all, newest first (section 4)."""
        for chunk in reversed(chunks):
            while chunk.tokens and sum(len(c.tokens) for c in chunks) > allowed:
                chunk.tokens.pop()
        for chunk in reversed(chunks):
            if chunk.admitted and not chunk.tokens:
                self.running.remove(chunk.request)
                chunk.request.blocks = 0
                self.waiting.insert(0, chunk.request)
        return [c for c in chunks if c.tokens]

    def observe(self, now: float, rows: list[Request], chunks: list[Chunk]) -> Observation:
        """Return what the policy sees."""

        def column(of: Callable[[Request], int]) -> Any:
            return np.array([of(r) for r in rows], dtype=np.int64)

        return Observation(
            step=self.steps,
            now=now,
            request_ids=column(lambda r: r.id),
            context_lengths=column(lambda r: len(r.stored)),
            generated=column(lambda r: len(r.emitted)),
            slo_slack=None,
            prefill_tokens=sum(len(c.tokens) for c in chunks),
            waiting=len(self.waiting),
            kv_free=self.free,
            draft_lengths=self.lengths,
            pending=column(lambda r: len(r.pending)),
            confidence=None,
            prefill_requests=len(chunks),
        )

    def begin(self, now: float) -> None:
        """Begin a step at *now*, if there is something to run."""
        assert self.step is None
        rows, chunks = self.choose()
        if not rows and not chunks:
            return
        plan = self.policy.plan(self.observe(now, rows, chunks))
        if plan.prefill_budget is not None and rows:
            chunks = self.cut(chunks, plan.prefill_budget)
        if plan.verify_lengths is None:
            verify = [len(r.pending) for r in rows]
        else:
            verify = [int(v) for v in plan.verify_lengths]
        assert all(0 <= v <= len(r.pending) for v, r in zip(verify, rows, strict=True))
        catch_up = 0
        if plan.drafter == "dropped":
            self.loaded = False
        elif not self.loaded:
            self.loaded = True
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
        seconds = self.price(shape)
        self.step = Step(self.steps, now, seconds, plan, rows, verify, chunks, experts)
        self.steps += 1

    @property
    def end_s(self) -> float:
        return math.inf if self.step is None else self.step.start_s + self.step.seconds

    def emit(self, request: Request, now: float) -> None:
        """Emit one token."""
        if not request.emitted:
            request.first_token_s = now
        request.emitted.append(len(request.emitted))

    def finish_if_done(self, request: Request, now: float) -> bool:
        if len(request.emitted) < request.output:
            return False
        request.finish_s = now
        request.blocks = 0
        self.running.remove(request)
        return True

    def end(self) -> list[Request]:
        """End the step (section 7); return the requests that finished."""
        step, now = self.step, self.end_s
        assert step is not None
        finished: list[Request] = []
        accepted: list[int] = []
        emitted = 0
        for row, verify in zip(step.rows, step.verify, strict=True):  # rule 7.1
            accepted.append(self.drafts.accepted(row, verify))
            row.verify_steps += 1
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
                self.emit(chunk.request, now)
                emitted += 1
                first_tokens += 1
                chunk.request.decoding = True
                if self.finish_if_done(chunk.request, now):
                    finished.append(chunk.request)
        for request in self.running:  # rule 7.4
            in_step = request in step.rows or any(c.request is request for c in step.chunks)
            if request.decoding and in_step:
                request.pending = self.drafts.drafted(request, step.plan.draft_length)
        if step.rows:  # rule 7.5
            outcome = Outcome(
                step=step.number,
                seconds=step.seconds,
                request_ids=np.array([r.id for r in step.rows], dtype=np.int64),
                verified=np.array(step.verify, dtype=np.int64),
                accepted=np.array(accepted, dtype=np.int64),
                distinct_experts=step.distinct_experts,
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
            return min((replicas[i] for i in pair), key=lambda r: len(r.waiting + r.running))
        if self.kind == "round_robin":
            self.turn += 1
            return replicas[(self.turn - 1) % len(replicas)]
        return min(replicas, key=self.load)

    def load(self, replica: Replica) -> int:
        here = replica.waiting + replica.running
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
    left_out: int
    """Rows that a step's token budget left out, summed over steps."""
    tied: bool
    """Whether an arrival and the end of a step, or two arrivals, were so near that rounding may turn them round."""


def run(scenario: Any, system: Any, make_policy: Callable[[], Any], pools: tuple[int, int], price: Price) -> Record:
    """Return what happens in *scenario*; *pools* are the blocks with a drafter and without, one policy a replica."""
    replicas = [Replica(i, scenario, system, make_policy(), pools, price) for i in range(scenario.replicas)]
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
        for _ in range(done):
            if released:
                request = released.pop(0)
                request.arrival_s = now + scenario.workload.think
                coming.append(request)
        while coming and coming[0].arrival_s == now:
            request = coming.pop(0)
            replica = router.choose(replicas, request)
            request.replica = replica.index
            replica.waiting.append(request)
            arrived.append(request)
        for replica in replicas:
            if replica.step is None and replica.waiting + replica.running:
                replica.begin(now)
    steps = [record for replica in replicas for record in replica.records]
    return Record(arrived, steps, sum(r.preemptions for r in arrived), sum(r.left_out for r in replicas), tied)


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
