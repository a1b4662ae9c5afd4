"""A model's pass over the tokens of a step, without attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from sdsim import matrices
from sdsim.experts import busiest_rank, other_ranks_reached
from sdsim.latency.engine_overhead import EngineOverhead
from sdsim.latency.quality import Bill, PriceList
from sdsim.latency.tabled import Item, Tabled
from sdsim.latency.work import WIDTH
from sdsim.matrices import Matrix
from sdsim.models import Model
from sdsim.parallel import Layout
from sdsim.policy import IntArray

if TYPE_CHECKING:
    from sdsim.latency.collectives import Collectives
    from sdsim.latency.composition import Kernels

LAUNCHES = {"attention_projections": 2, "attention": 2, "router": 1, "experts": 4, "shared_expert": 4}
LAUNCHES |= {"dense_ffn": 3, "norms": 3}
"""Kernels that a layer launches for each component."""
SINGLE = Layout()


class Forward:
    """Bills the passes of *model* on GPUs of a *layout*, counted on the busiest of them.

    *joined* is one more product, run once a pass.
    """

    def __init__(
        self,
        model: Model,
        kernels: Kernels,
        engine: EngineOverhead,
        layout: Layout = SINGLE,
        collectives: Collectives | None = None,
        joined: Matrix | None = None,
    ) -> None:
        self._model, self._kernels, self._layout = model, kernels, layout
        self._collectives = collectives
        products, self.launched = _plan(model, layout.tensor)
        """`launched`: the kernels of a pass."""
        items: list[Item] = []
        for component, times, matrix, width in products:
            prices = partial(kernels.dense, matrix=matrix, weight_bytes=width)
            items.append((component, times, _shown(prices, engine) if component == "shared_expert" else prices))
        items.append(("norms", model.layers, partial(kernels.norms, model)))
        if joined is not None:
            items.append(("joined", 1, partial(kernels.dense, matrix=joined, weight_bytes=model.weight_bytes)))
        last = matrices.head(model).on_one_of(layout.tensor)
        head = partial(kernels.dense, matrix=last, weight_bytes=model.head_bytes)
        self._layers, self._head = Tabled(items), Tabled([("lm_head", 1, head)])
        self._experts = kernels.experts(model, 1.0 if layout.spread else 1 / layout.tensor) if model.is_moe else None

    def charge(self, bill: Bill, tokens: int, logits: int, distinct: float) -> None:
        """Bill *tokens* of each data-parallel group through all layers, and *logits* rows through the head.

        *distinct* are the experts that all groups together load.
        """
        self._layers.charge(bill, tokens)
        if self._experts is not None:
            loaded = self._busiest(tokens, distinct) if self._layout.spread else (tokens, distinct)
            bill.charge("experts", self._experts.price(*loaded), self._model.moe_layers)
        self._head.charge(bill, logits)
        if self._collectives is not None:
            self._exchange(bill, self._collectives, tokens, logits)
        bill.charge("launch_gaps", self._kernels.launch, self.launched)

    def _busiest(self, tokens: int, distinct: float) -> tuple[int, float]:
        """Return the tokens and the distinct experts of the busiest GPU."""
        model, layout = self._model, self._layout
        return busiest_rank(model.experts, model.experts_per_token, tokens * layout.data, distinct, layout.gpus)

    def _exchange(self, bill: Bill, collectives: Collectives, tokens: int, logits: int) -> None:
        """Charge what the GPUs send each other.

        A tensor-parallel group sums after attention and after the feed-forward, and gathers the logits. Where tokens
        travel to their experts and back, they stand divided over the group in between: the second sum is the first
        one's other half.
        """
        model, layout = self._model, self._layout
        width, ranks = model.hidden * WIDTH, layout.tensor
        sums = 2 * model.layers - (model.moe_layers if layout.exchanges else 0)
        bill.charge("collectives", collectives.all_reduce(tokens * width, ranks), sums)
        sent = logits * model.vocabulary * WIDTH * (ranks - 1) / ranks
        bill.charge("collectives", collectives.all_to_all(sent, ranks))
        if layout.exchanges:
            reached = other_ranks_reached(model.experts, model.experts_per_token, layout.gpus)
            sent = -(-tokens // ranks) * reached * width
            bill.charge("collectives", collectives.all_to_all(sent, layout.gpus), 2 * model.moe_layers)


def _shown(prices: Callable[[IntArray], PriceList], engine: EngineOverhead) -> Callable[[IntArray], PriceList]:
    """Return the part of a shared expert's *prices* that its own stream does not hide."""

    def part(tokens: IntArray) -> PriceList:
        found = prices(tokens)
        return found._replace(seconds=(1 - engine.shared_hidden(tokens)) * found.seconds)

    return part


def _plan(model: Model, ranks: int) -> tuple[list[tuple[str, int, Matrix, float]], int]:
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
    return products, 1 + sum(LAUNCHES[name] * n for name, n in counts.items())
