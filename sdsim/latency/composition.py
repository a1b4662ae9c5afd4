"""A step from its kernels.

The target runs each layer's kernels on the step's tokens; sampling follows; the drafter makes its passes. What one
kernel takes comes from a `Kernels`: the roofline's bytes and flops, or a GPU's measured table.

Draft passes (vLLM's order): one pass over the tokens just verified or prefilled, so that the drafter's KV keeps up,
which also yields the first draft token; then K - 1 passes of one token a row: T_D(B, K + 1) + (K - 1) T_D(B, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sdsim import matrices
from sdsim.drafts import Draft
from sdsim.experts import NoExperts, make_routing
from sdsim.latency import COMPONENTS, StepCost
from sdsim.latency.engine_overhead import EngineOverhead
from sdsim.matrices import Matrix
from sdsim.models import Model
from sdsim.step import StepShape

KERNELS_PER_LAYER = {"attention_projections": 2, "attention": 2, "router": 1, "experts": 4, "shared_expert": 2}
KERNELS_PER_LAYER |= {"dense_ffn": 2, "norms": 3}

REMEMBERED = 50_000
"""Step shapes whose cost is kept, about 20 MB."""


Attention = Callable[[int, int, int], float]
"""Seconds of (queries, context, pairs): positions, stored tokens in all, and query-key pairs."""


class Kernels(Protocol):
    """Times of single kernels on one GPU, s."""

    launch_s: float
    """What each kernel in a captured graph costs beyond its own time."""

    def dense(self, tokens: int, matrix: Matrix, weight_bytes: float) -> float:
        """A product of *tokens* rows with a matrix whose weights take *weight_bytes* each."""
        ...

    def experts(self, model: Model, tokens: int, distinct: float, share: float) -> float:
        """One layer's routed experts: *tokens* routed, *distinct* experts loaded, *share* of them on this GPU."""
        ...

    def attention(self, model: Model, share: float) -> Attention:
        """The price of one layer's attention in *model*, *share* of its heads being on this GPU."""
        ...

    def norms(self, model: Model, tokens: int) -> float:
        """One layer's norms, rotary embedding, residuals and activations."""
        ...

    def sampling(self, rows: int, vocabulary: int) -> float:
        """Softmax, rejection and sampling over *rows* rows of logits."""
        ...

    def all_reduce(self, size: float, ranks: int) -> float:
        """An all-reduce of *size* bytes over *ranks* GPUs."""
        ...


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward pass of a model: everything but attention, which depends on the contexts."""

    components: dict[str, float]
    kernels: int


class ComposedLatency:
    """Prices steps of one replica: a target, a drafter, their kernels and the engine around them.

    *ranks* GPUs share every layer (tensor parallel; experts are spread over the same ranks).
    """

    def __init__(
        self, target: Model, draft: Draft | None, kernels: Kernels, engine: EngineOverhead, ranks: int = 1
    ) -> None:
        self.target = target
        self.draft = draft
        self.kernels = kernels
        self.engine = engine
        self.ranks = ranks
        drafter = draft.model if draft is not None else None
        self._draft_routing = make_routing(drafter.experts, drafter.experts_per_token) if drafter else NoExperts()
        self._target_attention = _all_layers(kernels, target, 1 / ranks)
        self._drafter_attention = _all_layers(kernels, drafter, 1.0) if drafter else None
        self._fixed: dict[tuple[object, ...], tuple[float, float]] = {}

    def seconds(self, shape: StepShape, /) -> float:
        """See `LatencyModel.seconds`. All but attention is remembered: few different token counts occur in a run."""
        key = shape[0:2] + shape[4:6] + shape[8:14]
        fixed = self._fixed.get(key)
        if fixed is None:
            if len(self._fixed) >= REMEMBERED:
                self._fixed.clear()
            components = self._components(shape)
            host = components.pop("host")
            fixed = self._fixed[key] = (sum(components.values()), host)
        gpu = fixed[0] + self._attention(shape) + self._draft_attention(shape)
        return self.engine.combine(gpu, fixed[1])

    def cost(self, shape: StepShape, /) -> StepCost:
        """See `LatencyModel.cost`."""
        components = dict.fromkeys(COMPONENTS, 0.0) | self._components(shape)
        components["attention"] = self._attention(shape)
        components["draft"] += self._draft_attention(shape)
        gpu = sum(components.values()) - components["host"]
        return StepCost(components, self.engine.combine(gpu, components["host"]))

    def _components(self, shape: StepShape) -> dict[str, float]:
        tokens = shape.verify_tokens + shape.prefill_tokens
        logits = shape.verify_tokens + shape.first_tokens
        forward = self._forward(self.target, self.engine.padded(tokens), logits, shape.distinct_experts, self.ranks)
        components = forward.components
        components["sampling"] = self.kernels.sampling(logits, self.target.vocabulary) + self.kernels.launch_s
        components["draft"] = self._draft(shape)
        passes = 0 if self.draft is None or shape.drafter == "dropped" else max(shape.draft_length, 1)
        components["host"] = self.engine.host_seconds(shape.rows + shape.prefill_rows, tokens, passes, forward.kernels)
        return components

    def _forward(self, model: Model, tokens: int, logits: int, distinct: float, ranks: int) -> Forward:
        """Return a pass of *tokens* through all layers and of *logits* rows through the head, without attention."""
        kernels, layers = self.kernels, model.layers

        def dense(rows: int, *weights: Matrix, width: float = model.weight_bytes) -> float:
            return sum(kernels.dense(rows, w.on_one_of(ranks), width) for w in weights)

        parts = dict.fromkeys(("router", "experts", "shared_expert", "dense_ffn"), 0.0)
        parts["attention_projections"] = layers * dense(tokens, *matrices.attention(model))
        parts["norms"] = layers * kernels.norms(model, tokens)
        counts = {"attention_projections": layers, "attention": layers, "norms": layers}
        if model.is_moe:
            counts |= {"router": model.moe_layers, "experts": model.moe_layers}
            parts["router"] = model.moe_layers * dense(tokens, matrices.router(model), width=model.head_bytes)
            parts["experts"] = model.moe_layers * kernels.experts(model, tokens, distinct, 1 / ranks)
            if model.shared_intermediate:
                counts["shared_expert"] = model.moe_layers
                parts["shared_expert"] = model.moe_layers * dense(tokens, *matrices.shared_expert(model))
        if model.dense_layers:
            counts["dense_ffn"] = model.dense_layers
            ffn = matrices.feed_forward(model.hidden, model.intermediate)
            parts["dense_ffn"] = model.dense_layers * dense(tokens, *ffn)
        parts["lm_head"] = dense(logits, matrices.head(model), width=model.head_bytes)
        if ranks > 1:
            parts["collectives"] = 2 * layers * kernels.all_reduce(tokens * model.hidden * 2.0, ranks)
        launched = 1 + sum(KERNELS_PER_LAYER[name] * n for name, n in counts.items())
        parts["launch_gaps"] = launched * kernels.launch_s
        return Forward(parts, launched)

    def _attention(self, shape: StepShape) -> float:
        return _verify_and_prefill(self._target_attention, shape)

    def _draft(self, shape: StepShape) -> float:
        """Return the draft passes without attention. The drafter runs whole on one GPU, as engines run it."""
        if self.draft is None or shape.drafter == "dropped" or self.draft.model is None:
            return 0.0
        keep_up = shape.verify_tokens + shape.prefill_tokens + shape.catch_up_tokens
        seconds = self._draft_pass(keep_up, shape.draft_rows if shape.draft_length else 0)
        if shape.draft_length > 1:
            seconds += (shape.draft_length - 1) * self._draft_pass(shape.draft_rows, shape.draft_rows)
        return seconds

    def _draft_pass(self, tokens: int, logits: int) -> float:
        """Return one pass over *tokens* that yields *logits* draft tokens, greedily chosen."""
        draft = self.draft
        if draft is None or draft.model is None or not tokens:
            return 0.0
        model = draft.model
        distinct = self._draft_routing.distinct_uniform_rows(tokens, tokens)
        forward = self._forward(model, tokens, logits, distinct, 1)
        extra = self._joining(draft, model, tokens)
        return sum(forward.components.values()) + extra + self.kernels.sampling(logits, model.vocabulary)

    def _joining(self, draft: Draft, model: Model, tokens: int) -> float:
        """Return the product that joins the target's states into a head's input."""
        outputs = draft.extra_projection_parameters // model.hidden
        return self.kernels.dense(tokens, Matrix(model.hidden, outputs), model.weight_bytes) if outputs else 0.0

    def _draft_attention(self, shape: StepShape) -> float:
        attention, rows = self._drafter_attention, shape.draft_rows
        if attention is None or shape.drafter == "dropped":
            return 0.0
        seconds = _verify_and_prefill(attention, shape)
        if shape.draft_length > 1 and rows:
            stored = shape.context_tokens + shape.prefill_context + shape.prefill_tokens
            seconds += (shape.draft_length - 1) * attention(rows, rows, stored, stored)
        if shape.catch_up_tokens:
            pairs = shape.catch_up_tokens**2 // (2 * max(shape.rows, 1))
            seconds += attention(max(shape.rows, 1), shape.catch_up_tokens, 0, pairs)
        return seconds


def _verify_and_prefill(attention: Callable[[int, int, int, int], float], shape: StepShape) -> float:
    """Return the attention over the step's verified and prefilled positions: two kernels, as engines launch them."""
    seconds = 0.0
    if shape.rows:
        seconds = attention(shape.rows, shape.verify_tokens, shape.context_tokens, shape.attention_pairs)
    if shape.prefill_tokens:
        seconds += attention(shape.prefill_rows, shape.prefill_tokens, shape.prefill_context, shape.prefill_pairs)
    return seconds


def _all_layers(kernels: Kernels, model: Model, share: float) -> Callable[[int, int, int, int], float]:
    """Return the price of all layers' attention of (rows, queries, context, pairs).

    A sliding layer sees at most its window of each row.
    """
    attention, full, sliding, window = kernels.attention(model, share), model.layers, model.sliding_layers, 0
    if sliding:
        full, window = full - sliding, model.sliding_window

    def price(rows: int, queries: int, context: int, pairs: int) -> float:
        seconds = full * attention(queries, context, pairs)
        if sliding:
            seconds += sliding * attention(queries, min(context, rows * window), min(pairs, queries * window))
        return seconds

    return price
