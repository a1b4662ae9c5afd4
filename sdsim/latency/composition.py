"""A step from its kernels.

The target runs each layer's kernels on the step's tokens; sampling follows; the drafter makes its passes. What one
kernel takes comes from a `Kernels`: the roofline's bytes and flops, or a GPU's measured tables.

Draft passes (vLLM's order): one pass over the tokens just verified or prefilled, so that the drafter's KV keeps up,
which also yields the first draft token; then K - 1 passes of one token a row: T_D(B, K + 1) + (K - 1) T_D(B, 1).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from sdsim import matrices
from sdsim.drafts import Draft
from sdsim.experts import NoExperts, make_routing
from sdsim.latency import COMPONENTS, StepCost
from sdsim.latency.engine_overhead import EngineOverhead
from sdsim.latency.quality import Bill, Price, Quality, shares
from sdsim.matrices import Matrix
from sdsim.models import Model
from sdsim.step import StepShape

LAUNCHES = {"attention_projections": 2, "attention": 2, "router": 1, "experts": 4, "shared_expert": 4}
LAUNCHES |= {"dense_ffn": 3, "norms": 3}
"""Kernels that a layer launches for each component."""
REMEMBERED = 50_000
"""Step shapes whose cost is kept, about 20 MB."""


class Attention(Protocol):
    """The price of one layer's attention in one model."""

    def verify(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """Return the seconds of *queries* positions of *rows* rows over *context* stored tokens in all."""
        ...

    def prefill(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """Return the seconds of *rows* prompt chunks of *queries* tokens after *context* stored ones, in all."""
        ...

    def quality(self, rows: int, context: int) -> Quality:
        """Return what a price at this size rests on."""
        ...


class Kernels(Protocol):
    """Prices of single kernels on one GPU."""

    launch: Price
    """What each kernel in a captured graph costs beyond its own time."""

    def dense(self, tokens: int, matrix: Matrix, weight_bytes: float) -> Price:
        """Price a product of *tokens* rows with a matrix whose weights take *weight_bytes* each."""
        ...

    def experts(self, model: Model, tokens: int, distinct: float, share: float) -> Price:
        """Price one layer's routed experts: *tokens* routed, *distinct* experts loaded, *share* of them on this GPU."""
        ...

    def attention(self, model: Model, share: float) -> Attention:
        """Return the price of attention in *model*, *share* of its heads being on this GPU."""
        ...

    def norms(self, model: Model, tokens: int) -> Price:
        """Price one layer's norms, rotary embedding, residuals and activations."""
        ...

    def sampling(self, rows: int, vocabulary: int) -> Price:
        """Price softmax, rejection and sampling over *rows* rows of logits."""
        ...

    def all_reduce(self, size: float, ranks: int) -> Price:
        """Price an all-reduce of *size* bytes over *ranks* GPUs."""
        ...


class ComposedLatency:
    """Prices steps of one replica: a target, a drafter, their kernels and the engine around them.

    *ranks* GPUs share every layer (tensor parallel; experts are spread over the same ranks). `spent` adds up the GPU
    seconds priced so far by what they rest on.
    """

    def __init__(
        self, target: Model, draft: Draft | None, kernels: Kernels, engine: EngineOverhead, ranks: int = 1
    ) -> None:
        self.target = target
        self.draft = draft
        self.kernels = kernels
        self.engine = engine
        self.ranks = ranks
        self.spent = [0.0, 0.0, 0.0]
        drafter = draft.model if draft is not None else None
        self._draft_routing = make_routing(drafter.experts, drafter.experts_per_token) if drafter else NoExperts()
        self._target_attention = kernels.attention(target, 1 / ranks)
        self._drafter_attention = kernels.attention(drafter, 1.0) if drafter else None
        self._fixed: dict[tuple[object, ...], tuple[float, float, list[float]]] = {}

    def seconds(self, shape: StepShape, /) -> float:
        """See `LatencyModel.seconds`. All but attention is remembered: few different token counts occur in a run."""
        key = shape[0:2] + shape[4:6] + shape[8:14]
        fixed = self._fixed.get(key)
        if fixed is None:
            if len(self._fixed) >= REMEMBERED:
                self._fixed.clear()
            bill, host = self._without_attention(shape)
            fixed = self._fixed[key] = (bill.seconds, host, bill.by_quality)
        target, drafter = self._attention(shape)
        spent, known = self.spent, fixed[2]
        spent[0] += known[0]
        spent[1] += known[1]
        spent[2] += known[2]
        self._spend_attention(shape, target, drafter)
        return self.engine.combine(fixed[0] + target + drafter, fixed[1])

    def cost(self, shape: StepShape, /) -> StepCost:
        """See `LatencyModel.cost`."""
        bill, host = self._without_attention(shape)
        target, drafter = self._attention(shape)
        rows, context = shape.rows + shape.prefill_rows, shape.context_tokens + shape.prefill_context
        bill.charge("attention", Price(target, self._target_attention.quality(rows, context)))
        if self._drafter_attention is not None:
            bill.charge("draft", Price(drafter, self._drafter_attention.quality(rows, context)))
        components = dict.fromkeys(COMPONENTS, 0.0) | bill.components | {"host": host}
        return StepCost(components, self.engine.combine(bill.seconds, host), shares(bill.by_quality))

    @property
    def quality(self) -> dict[str, float]:
        """Shares of the time priced so far that rest on measured, interpolated and extrapolated data."""
        return shares(self.spent)

    def _spend_attention(self, shape: StepShape, target: float, drafter: float) -> None:
        rows, context = shape.rows + shape.prefill_rows, shape.context_tokens + shape.prefill_context
        self.spent[self._target_attention.quality(rows, context)] += target
        if drafter and self._drafter_attention is not None:
            self.spent[self._drafter_attention.quality(rows, context)] += drafter

    def _without_attention(self, shape: StepShape) -> tuple[Bill, float]:
        """Return the GPU's bill but for attention, and the host's seconds."""
        tokens = shape.verify_tokens + shape.prefill_tokens
        logits = shape.verify_tokens + shape.first_tokens
        bill = Bill()
        padded = self.engine.padded(tokens)
        launched = self._forward(bill, self.target, padded, logits, shape.distinct_experts, self.ranks)
        bill.charge("sampling", self.kernels.sampling(logits, self.target.vocabulary))
        self._draft(bill, shape)
        passes = 0 if self.draft is None or shape.drafter == "dropped" else max(shape.draft_length, 1)
        return bill, self.engine.host_seconds(shape.rows + shape.prefill_rows, tokens, passes, launched)

    def _forward(self, bill: Bill, model: Model, tokens: int, logits: int, distinct: float, ranks: int) -> int:
        """Charge a pass of *tokens* through all layers and of *logits* rows through the head; return its launches."""
        kernels, layers = self.kernels, model.layers
        products, launched = _plan(model, ranks)
        for component, times, matrix, width in products:
            bill.charge(component, kernels.dense(tokens, matrix, width), times)
        bill.charge("norms", kernels.norms(model, tokens), layers)
        if model.is_moe:
            bill.charge("experts", kernels.experts(model, tokens, distinct, 1 / ranks), model.moe_layers)
        bill.charge("lm_head", kernels.dense(logits, matrices.head(model).on_one_of(ranks), model.head_bytes))
        if ranks > 1:
            bill.charge("collectives", kernels.all_reduce(tokens * model.hidden * 2.0, ranks), 2 * layers)
        bill.charge("launch_gaps", kernels.launch, launched)
        return launched

    def _draft(self, bill: Bill, shape: StepShape) -> None:
        """Charge the draft passes without attention. The drafter runs whole on one GPU, as engines run it."""
        if self.draft is None or shape.drafter == "dropped" or self.draft.model is None:
            return
        keep_up = shape.verify_tokens + shape.prefill_tokens + shape.catch_up_tokens
        self._draft_pass(bill, self.draft, self.draft.model, keep_up, shape.draft_rows if shape.draft_length else 0)
        if shape.draft_length > 1:
            once = Bill()
            self._draft_pass(once, self.draft, self.draft.model, shape.draft_rows, shape.draft_rows)
            _charge_draft(bill, once, shape.draft_length - 1)

    def _draft_pass(self, bill: Bill, draft: Draft, model: Model, tokens: int, logits: int) -> None:
        """Charge one pass over *tokens* that yields *logits* draft tokens, greedily chosen."""
        if not tokens:
            return
        once = Bill()
        self._forward(once, model, tokens, logits, self._draft_routing.distinct_uniform_rows(tokens, tokens), 1)
        once.charge("draft", self.kernels.sampling(logits, model.vocabulary))
        joined = draft.extra_projection_parameters // model.hidden
        if joined:
            once.charge("draft", self.kernels.dense(tokens, Matrix(model.hidden, joined), model.weight_bytes))
        _charge_draft(bill, once, 1)

    def _attention(self, shape: StepShape) -> tuple[float, float]:
        """Return the attention seconds of all layers of the target and of the drafter."""
        target = _layers(self.target, self._target_attention, shape)
        attention = self._drafter_attention
        if attention is None or shape.drafter == "dropped" or self.draft is None or self.draft.model is None:
            return target, 0.0
        return target, _drafting(self.draft.model, attention, shape)


@lru_cache
def _plan(model: Model, ranks: int) -> tuple[tuple[tuple[str, int, Matrix, float], ...], int]:
    """Return the dense products of all layers, (component, times, matrix, bytes a weight), and the kernels launched."""
    products: list[tuple[str, int, Matrix, float]] = []
    counts = {"attention_projections": model.layers, "attention": model.layers, "norms": model.layers}

    def add(component: str, times: int, *weights: Matrix, width: float = model.weight_bytes) -> None:
        counts[component] = times
        products.extend((component, times, matrix.on_one_of(ranks), width) for matrix in weights)

    add("attention_projections", model.layers, *matrices.attention(model))
    if model.is_moe:
        counts["experts"] = model.moe_layers
        add("router", model.moe_layers, matrices.router(model), width=model.head_bytes)
        if model.shared_intermediate:
            add("shared_expert", model.moe_layers, *matrices.shared_expert(model))
    if model.dense_layers:
        add("dense_ffn", model.dense_layers, *matrices.feed_forward(model.hidden, model.intermediate))
    return tuple(products), 1 + sum(LAUNCHES[name] * n for name, n in counts.items())


def _charge_draft(bill: Bill, once: Bill, times: int) -> None:
    """Charge all of *once* to the draft, *times* times."""
    for quality in Quality:
        bill.charge("draft", Price(once.by_quality[quality], quality), times)


def _layers(model: Model, attention: Attention, shape: StepShape) -> float:
    """Return all layers' attention over the verified and the prefilled positions: two kernels, as engines launch them.

    A sliding layer sees at most its window of each row.
    """
    seconds, sliding = 0.0, model.sliding_layers
    full, window = model.layers - sliding, model.sliding_window
    if shape.rows:
        rows, queries, context, pairs = shape[0], shape[1], shape[2], shape[3]
        seconds = full * attention.verify(rows, queries, context, pairs)
        if sliding:
            seconds += sliding * attention.verify(
                rows, queries, min(context, rows * window), min(pairs, queries * window)
            )
    if shape.prefill_tokens:
        queries, rows, context, pairs = shape[4], shape[5], shape[6], shape[7]
        seconds += full * attention.prefill(rows, queries, context, pairs)
        if sliding:
            seconds += sliding * attention.prefill(
                rows, queries, min(context, rows * window), min(pairs, queries * window)
            )
    return seconds


def _drafting(model: Model, attention: Attention, shape: StepShape) -> float:
    """Return the drafter's attention: the keep-up pass, the short passes, and what a fresh drafter catches up."""
    seconds, rows = _layers(model, attention, shape), shape.draft_rows
    if shape.draft_length > 1 and rows:
        stored = shape.context_tokens + shape.prefill_context + shape.prefill_tokens
        seconds += (shape.draft_length - 1) * model.layers * attention.verify(rows, rows, stored, stored)
    if shape.catch_up_tokens:
        running = max(shape.rows, 1)
        pairs = shape.catch_up_tokens**2 // (2 * running)
        seconds += model.layers * attention.prefill(running, shape.catch_up_tokens, 0, pairs)
    return seconds
