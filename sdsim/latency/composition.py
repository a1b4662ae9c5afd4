"""A step from its kernels.

The target runs each layer's kernels on the step's tokens; sampling follows; the drafter makes its passes. What one
kernel takes comes from a `Kernels`: the roofline's bytes and flops, or a GPU's measured tables.

Draft passes (vLLM's order): one pass over the tokens just verified or prefilled, so that the drafter's KV keeps up,
which also yields the first draft token; then K - 1 passes of one token a row: T_D(B, K + 1) + (K - 1) T_D(B, 1). An
engine's `draft_slots` come on top of the first.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sdsim.drafts import Draft
from sdsim.experts import NoExperts, make_routing
from sdsim.latency import COMPONENTS, StepCost
from sdsim.latency.engine_overhead import EngineOverhead, Phases, padded
from sdsim.latency.forward import Forward
from sdsim.latency.pipeline import Pipeline
from sdsim.latency.quality import Bill, Price, PriceList, Quality, shares
from sdsim.latency.tabled import Tabled
from sdsim.matrices import Matrix
from sdsim.models import Model
from sdsim.parallel import Layout
from sdsim.policy import IntArray
from sdsim.step import StepShape

if TYPE_CHECKING:
    from sdsim.latency.collectives import Collectives

SINGLE = Layout()
SPREAD = (*StepShape._fields[: StepShape._fields.index("draft_length")], "draft_rows", "catch_up_tokens")
"""The counts of a step that data-parallel groups share."""
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


class Experts(Protocol):
    """The price of one layer's routed experts in one model."""

    def price(self, tokens: int, distinct: float) -> Price:
        """Return the price of *tokens* routed tokens that load *distinct* experts; none are free."""
        ...


class Kernels(Protocol):
    """Prices of single kernels on one GPU."""

    launch: Price
    """What each kernel in a captured graph costs beyond its own time."""

    def dense(self, tokens: IntArray, matrix: Matrix, weight_bytes: float) -> PriceList:
        """Price a product of *tokens* rows with a matrix whose weights take *weight_bytes* each."""
        ...

    def experts(self, model: Model, share: float) -> Experts:
        """Return the price of the experts of *model*, *share* of each being on this GPU."""
        ...

    def attention(self, model: Model, share: float) -> Attention:
        """Return the price of attention in *model*, *share* of its heads being on this GPU."""
        ...

    def norms(self, model: Model, tokens: IntArray) -> PriceList:
        """Price one layer's norms, rotary embedding, residuals and activations."""
        ...

    def sampling(self, rows: IntArray, vocabulary: int) -> PriceList:
        """Price softmax, rejection and sampling over *rows* rows of logits."""
        ...


class ComposedLatency:
    """Prices steps of one replica: a target, a drafter, their kernels and the engine around them.

    *layout* says how its GPUs share the target, *collectives* what their exchanges cost (None: on a single GPU).
    *max_num_seqs* and the *longest* draft (None: each step's own) set what the engine captures. `spent` adds up the GPU
    seconds priced so far by what they rest on.
    """

    def __init__(
        self,
        target: Model,
        draft: Draft | None,
        kernels: Kernels,
        engine: EngineOverhead,
        layout: Layout = SINGLE,
        collectives: Collectives | None = None,
        max_num_seqs: int = 256,
        longest: int | None = None,
    ) -> None:
        self.target = target
        self.draft = draft
        self.kernels = kernels
        self.engine = engine
        self.layout = layout
        self.collectives = collectives
        self.spent = [0.0, 0.0, 0.0]
        self._limits = layout.share(max_num_seqs), longest
        self._several = layout.data > 1
        self._sizes: dict[int, tuple[int, ...]] = {}
        self._draft_kind = draft.kind if draft is not None else None
        drafter = draft.model if draft is not None else None
        self._draft_routing = make_routing(drafter.experts, drafter.experts_per_token) if drafter else NoExperts()
        self._target_attention = _Layers(target, kernels.attention(target, 1 / layout.tensor))
        self._drafter_attention = _Layers(drafter, kernels.attention(drafter, 1.0)) if drafter else None
        self._target_pass = Forward(target, kernels, engine, layout, collectives)
        self._drafter_pass = _drafter_pass(draft, kernels, engine)
        self._sampled = Tabled([("sampling", 1, partial(kernels.sampling, vocabulary=target.vocabulary))])
        vocabulary = drafter.vocabulary if drafter else 0
        self._drawn = Tabled([("draft", 1, partial(kernels.sampling, vocabulary=vocabulary))])
        self._draft_passes: dict[tuple[int, int], Bill] = {}
        self._ideal = engine.ideal
        self._fixed: dict[tuple[object, ...], tuple[Phases, list[float]]] = {}

    def seconds(self, shape: StepShape, /) -> float:
        """See `LatencyModel.seconds`."""
        work, target, drafter = self._priced(shape)
        if self._ideal:
            return (work[0] + target) + work[1] + (work[2] + drafter)
        return self.engine.seconds(_with_attention(work, target, drafter), self._draft_kind)

    def phases(self, shape: StepShape, /) -> Phases:
        """Return the step's work."""
        return _with_attention(*self._priced(shape))

    def _priced(self, shape: StepShape) -> tuple[Phases, float, float]:
        """Return the work without attention, and the target's and the drafter's attention, s; note what they rest on.

        All but attention is remembered: few different token counts occur in a run.
        """
        if self._several:
            shape = self._on_a_group(shape)
        key = shape[0:2] + shape[4:6] + shape[8:14]
        fixed = self._fixed.get(key)
        if fixed is None:
            if len(self._fixed) >= REMEMBERED:
                self._fixed.clear()
            bill = Bill()
            work = self._without_attention(bill, shape)
            fixed = self._fixed[key] = (work, bill.by_quality)
        target, drafter = self._attention(shape)
        spent, known = self.spent, fixed[1]
        spent[0] += known[0]
        spent[1] += known[1]
        spent[2] += known[2]
        rows, context = shape[0] + shape[5], shape[2] + shape[6]
        spent[self._target_attention.quality(rows, context)] += target
        if drafter and self._drafter_attention is not None:
            spent[self._drafter_attention.quality(rows, context)] += drafter
        return fixed[0], target, drafter

    def cost(self, shape: StepShape, /) -> StepCost:
        """See `LatencyModel.cost`."""
        shape = self._on_a_group(shape)
        bill = Bill(split=True)
        work = self._without_attention(bill, shape)
        target, drafter = self._attention(shape)
        rows, context = shape.rows + shape.prefill_rows, shape.context_tokens + shape.prefill_context
        bill.charge("attention", Price(target, self._target_attention.quality(rows, context)))
        if self._drafter_attention is not None:
            bill.charge("draft", Price(drafter, self._drafter_attention.quality(rows, context)))
        work = _with_attention(work, target, drafter)
        host = self.host_s(work.rows) + work.launch_target_s + work.launch_draft_s
        components = dict.fromkeys(COMPONENTS, 0.0) | (bill.components or {}) | {"host": host}
        return StepCost(components, self.engine.seconds(work, self._draft_kind), shares(bill.by_quality))

    def host_s(self, rows: int) -> float:
        """Return the host's time of a step of *rows* rows beside its launches."""
        return self.engine.host_s(rows, self._draft_kind)

    @property
    def works_ahead(self) -> bool:
        """Whether the host schedules a step while the one before runs."""
        return not self._ideal and not self.engine.synchronous(self._draft_kind)

    def pipeline(self) -> Pipeline:
        """Return what times the steps of one replica, one after another, where the host works ahead."""
        return Pipeline(self)

    @property
    def quality(self) -> dict[str, float]:
        """Shares of the time priced so far that rest on measured, interpolated and extrapolated data."""
        return shares(self.spent)

    def _without_attention(self, bill: Bill, shape: StepShape) -> Phases:
        """Charge what the GPU does but for attention; return the work that it and the launches come to."""
        tokens = shape.verify_tokens + shape.prefill_tokens
        logits = shape.verify_tokens + shape.first_tokens
        sizes = self._captured(shape.draft_length)
        run = padded(tokens, sizes)
        distinct = self._distinct(shape.distinct_experts, (run - tokens) * self.layout.data)
        self._target_pass.charge(bill, run, logits, distinct)
        target = bill.seconds
        self._sample(bill, logits, drafted=shape.verify_tokens > shape.rows)
        sampling = bill.seconds - target
        self._draft(bill, shape)
        eager = self.engine.capture_limit > 0 and tokens > max(sizes, default=0)
        alike = not shape.prefill_tokens and shape.verify_tokens % max(shape.rows, 1) == 0
        return Phases(
            target,
            sampling,
            bill.seconds - target - sampling,
            self.engine.launch_target_s(self.target, eager, alike),
            self._launch_draft(shape),
            shape.rows + shape.prefill_rows,
        )

    def _on_a_group(self, shape: StepShape) -> StepShape:
        """Return what the busiest data-parallel group has of *shape*; its distinct experts stay everyone's."""
        share = self.layout.share
        counts: dict[str, Any] = {name: share(getattr(shape, name)) for name in SPREAD}
        return shape._replace(**counts)

    def _captured(self, draft_length: int) -> tuple[int, ...]:
        """Return the engine's captured sizes: those of its longest draft, or of *draft_length*."""
        rows, longest = self._limits
        longest = draft_length if longest is None else longest
        if longest not in self._sizes:
            self._sizes[longest] = self.engine.capture_sizes(rows, longest)
        return self._sizes[longest]

    def _distinct(self, distinct: float, padding: int) -> float:
        """Return the experts loaded when *padding* tokens too are routed uniformly."""
        if not padding or not self.engine.padding_routed or not self.target.is_moe:
            return distinct
        experts = self.target.experts
        missed = (1 - self.target.experts_per_token / experts) ** padding
        return experts - (experts - distinct) * missed

    def _sample(self, bill: Bill, logits: int, drafted: bool) -> None:
        engine = self.engine
        if not engine.logit_s:
            self._sampled.charge(bill, logits)
            return
        fixed = engine.rejection_s if drafted else engine.sampling_s
        seconds = fixed + logits * self.target.vocabulary * engine.logit_s
        bill.charge("sampling", Price(seconds, Quality.INTERPOLATED))

    def _launch_draft(self, shape: StepShape) -> float:
        if self.draft is None or self.draft.model is None or shape.drafter == "dropped":
            return 0.0
        return max(shape.draft_length, 1) * self.engine.launch_draft_s(self.draft.model)

    def _draft(self, bill: Bill, shape: StepShape) -> None:
        """Charge the draft passes without attention. The drafter runs whole on one GPU, as engines run it."""
        if self.draft is None or shape.drafter == "dropped" or self.draft.model is None:
            return
        keep_up = shape.verify_tokens + shape.prefill_tokens + shape.catch_up_tokens
        keep_up += self.engine.added_positions(shape.rows + shape.prefill_rows, self._draft_kind)
        bill.charge_all("draft", self._draft_pass(keep_up, shape.draft_rows if shape.draft_length else 0))
        if shape.draft_length > 1:
            bill.charge_all("draft", self._draft_pass(shape.draft_rows, shape.draft_rows), shape.draft_length - 1)

    def _draft_pass(self, tokens: int, logits: int) -> Bill:
        """Return the bill of one pass over *tokens* that yields *logits* draft tokens, greedily chosen; remembered."""
        known = self._draft_passes.get((tokens, logits))
        if known is None:
            if len(self._draft_passes) >= REMEMBERED:
                self._draft_passes.clear()
            known = self._draft_passes[tokens, logits] = self._priced_draft_pass(tokens, logits)
        return known

    def _priced_draft_pass(self, tokens: int, logits: int) -> Bill:
        once = Bill()
        if not tokens or self._drafter_pass is None:
            return once
        distinct = self._draft_routing.distinct_uniform_rows(tokens, tokens)
        self._drafter_pass.charge(once, tokens, logits, distinct)
        gap = Price(self.engine.draft_gap_s, Quality.INTERPOLATED)
        once.charge("launch_gaps", gap, self._drafter_pass.launched)
        self._drawn.charge(once, logits)
        return once

    def _attention(self, shape: StepShape) -> tuple[float, float]:
        """Return the attention seconds of all layers of the target and of the drafter."""
        target, drafter = self._target_attention.seconds(shape), self._drafter_attention
        return target, 0.0 if drafter is None or shape.drafter == "dropped" else drafter.drafting(shape)


def _drafter_pass(draft: Draft | None, kernels: Kernels, engine: EngineOverhead) -> Forward | None:
    if draft is None or draft.model is None:
        return None
    joined = draft.extra_projection_parameters // draft.model.hidden
    return Forward(draft.model, kernels, engine, joined=Matrix(draft.model.hidden, joined) if joined else None)


def _with_attention(work: Phases, target: float, drafter: float) -> Phases:
    return work._replace(target_s=work.target_s + target, draft_s=work.draft_s + drafter)


class _Layers:
    """The attention of all layers over the verified and the prefilled positions: two kernels, as engines launch them.

    A sliding layer sees at most its window of each row.
    """

    def __init__(self, model: Model, attention: Attention) -> None:
        self.count, self.sliding, self._window = model.layers, model.sliding_layers, model.sliding_window
        self._full = self.count - self.sliding
        self.verify, self.prefill, self.quality = attention.verify, attention.prefill, attention.quality

    def seconds(self, shape: StepShape) -> float:
        """Return the time of a step's positions."""
        seconds = 0.0
        rows, queries, context, pairs = shape[0], shape[1], shape[2], shape[3]
        if rows:
            seconds = self._full * self.verify(rows, queries, context, pairs)
            if self.sliding:
                seconds += self.sliding * self.verify(rows, queries, *self._seen(rows, queries, context, pairs))
        queries, rows, context, pairs = shape[4], shape[5], shape[6], shape[7]
        if queries:
            seconds += self._full * self.prefill(rows, queries, context, pairs)
            if self.sliding:
                seconds += self.sliding * self.prefill(rows, queries, *self._seen(rows, queries, context, pairs))
        return seconds

    def _seen(self, rows: int, queries: int, context: int, pairs: int) -> tuple[int, int]:
        return min(context, rows * self._window), min(pairs, queries * self._window)

    def drafting(self, shape: StepShape) -> float:
        """Return a drafter's time: the keep-up pass, the short passes, and what a fresh drafter catches up."""
        seconds, rows = self.seconds(shape), shape.draft_rows
        if shape.draft_length > 1 and rows:
            stored = shape.context_tokens + shape.prefill_context + shape.prefill_tokens
            seconds += (shape.draft_length - 1) * self.count * self.verify(rows, rows, stored, stored)
        if shape.catch_up_tokens:
            running = max(shape.rows, 1)
            pairs = shape.catch_up_tokens**2 // (2 * running)
            seconds += self.count * self.prefill(running, shape.catch_up_tokens, 0, pairs)
        return seconds
