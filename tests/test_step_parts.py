"""What a step asks of its kernels, counted by hand: one that costs a second a token tells how many it was given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sdsim.drafts import Draft
from sdsim.experts import busiest_rank, make_routing
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import EngineOverhead
from sdsim.latency.prices import verify_step
from sdsim.latency.quality import Price, Quality, listed
from sdsim.models import Model
from sdsim.parallel import Layout
from sdsim.step import StepShape

TARGET = Model(
    name="target", layers=6, hidden=64, heads=4, kv_heads=2, head_dim=16, experts=32, experts_per_token=4,
    expert_intermediate=32, dense_layers=0, vocabulary=1000, max_positions=4096, sliding_layers=2, sliding_window=50,
)  # fmt: skip
SMALL = Model(
    name="small", layers=3, hidden=32, heads=2, kv_heads=2, head_dim=16, intermediate=64, dense_layers=3,
    vocabulary=1000, max_positions=4096,
)  # fmt: skip
MIXED = StepShape(
    rows=5, verify_tokens=17, context_tokens=900, attention_pairs=3100, prefill_tokens=130, prefill_rows=3,
    prefill_context=200, prefill_pairs=9000, first_tokens=2, draft_length=3, draft_rows=7, drafter="on",
    distinct_experts=20.0,
)  # fmt: skip
PLAIN = EngineOverhead("plain")


class Kernels:
    """Everything is free but what is asked for: seconds a token of norms, a row of logits, a size of attention."""

    launch = Price(0.0, Quality.MEASURED)

    def __init__(
        self,
        norm: float = 0.0,
        logit: float = 0.0,
        head: float = 0.0,
        verify: tuple[float, ...] = (0, 0, 0, 0),
        prefill: tuple[float, ...] = (0, 0, 0, 0),
    ) -> None:
        self._norm, self._logit, self._head = norm, logit, head
        self._attention = Attention(verify, prefill)
        self.loaded: list[tuple[int, float]] = []

    def dense(self, tokens: Any, matrix: Any, weight_bytes: float) -> Any:
        return listed(tokens, tokens * (self._head if matrix.outputs == 1000 else 0.0), Quality.MEASURED)

    def norms(self, model: Model, tokens: Any) -> Any:
        return listed(tokens, tokens * self._norm, Quality.MEASURED)

    def sampling(self, rows: Any, vocabulary: int) -> Any:
        return listed(rows, rows * self._logit, Quality.MEASURED)

    def experts(self, model: Model, share: float) -> Any:
        return self

    def price(self, tokens: int, distinct: float) -> Price:
        self.loaded.append((tokens, distinct))
        return Price(0.0, Quality.MEASURED)

    def attention(self, model: Model, share: float) -> Any:
        return self._attention


class Attention:
    """So many seconds a row, a query, a stored token and a pair."""

    def __init__(self, verify: tuple[float, ...], prefill: tuple[float, ...]) -> None:
        self._verify, self._prefill = verify, prefill

    def verify(self, *sizes: int) -> float:
        return float(np.dot(self._verify, sizes))

    def prefill(self, *sizes: int) -> float:
        return float(np.dot(self._prefill, sizes))

    def quality(self, rows: int, context: int) -> Quality:
        return Quality.INTERPOLATED if rows <= 7 and context <= 1000 else Quality.EXTRAPOLATED


def priced(kernels: Any, engine: EngineOverhead = PLAIN, target: Model = TARGET, **more: Any) -> ComposedLatency:
    return ComposedLatency(target, Draft("model", SMALL, False, 1.0), kernels, engine, **more)


def test_logits_are_those_of_verified_positions_and_of_prompts_that_end():
    found = priced(Kernels(logit=1.0, head=10.0)).cost(MIXED).components
    assert found["sampling"] == 17 + 2
    assert found["lm_head"] == 10 * (17 + 2)


def test_a_drafter_passes_over_all_tokens_once_and_then_over_its_rows():
    def drafted(**changes: Any) -> float:
        return priced(Kernels(norm=1.0)).cost(MIXED._replace(**changes)).components["draft"] / SMALL.layers

    assert drafted() == (17 + 130) + 2 * 7
    assert drafted(catch_up_tokens=400) == (17 + 130 + 400) + 2 * 7
    assert drafted(draft_length=1) == 17 + 130
    assert drafted(draft_length=0, draft_rows=0, drafter="warm") == 17 + 130
    assert drafted(draft_length=0, draft_rows=0, drafter="dropped") == 0
    logits = priced(Kernels(logit=1.0)).cost(MIXED).components["draft"]
    assert logits == 3 * 7


def test_attention_reads_what_is_stored_and_sliding_layers_their_window():
    verify, prefill = (3.0, 5.0, 7.0, 11.0), (13.0, 17.0, 19.0, 23.0)
    found = priced(Kernels(verify=verify, prefill=prefill)).cost(MIXED).components["attention"]
    full = np.dot(verify, (5, 17, 900, 3100)) + np.dot(prefill, (3, 130, 200, 9000))
    seen = np.dot(verify, (5, 17, 5 * 50, 17 * 50)) + np.dot(prefill, (3, 130, 3 * 50, 130 * 50))
    assert found == pytest.approx(4 * full + 2 * seen)


def test_a_drafters_attention_covers_the_step_its_short_passes_and_what_it_catches_up():
    verify, prefill = (3.0, 5.0, 7.0, 11.0), (13.0, 17.0, 19.0, 23.0)
    step = np.dot(verify, (5, 17, 900, 3100)) + np.dot(prefill, (3, 130, 200, 9000))
    stored = 900 + 200 + 130
    short = 2 * np.dot(verify, (7, 7, stored, stored))
    kernels = Kernels(verify=verify, prefill=prefill)
    assert priced(kernels).cost(MIXED).components["draft"] == pytest.approx(3 * (step + short))
    # 400 tokens that five rows share evenly: 80 each, and half of 80 x 80 pairs
    caught = np.dot(prefill, (5, 400, 0, 5 * 80 * 80 // 2))
    late = priced(kernels).cost(MIXED._replace(catch_up_tokens=400)).components["draft"]
    assert late == pytest.approx(3 * (step + short + caught))


def test_a_price_rests_on_all_rows_and_all_that_is_stored():
    """Five rows and three chunks are eight; 900 tokens and 200 are over a thousand."""
    spans = ({}, {"prefill_rows": 2}, {"prefill_rows": 2, "prefill_context": 100})
    found = []
    for changes in spans:
        model = priced(Kernels(verify=(1.0, 0, 0, 0)))
        model.seconds(MIXED._replace(**changes))
        found.append(model.quality["extrapolated"])
        assert model.cost(MIXED._replace(**changes)).quality["extrapolated"] == pytest.approx(found[-1])
    assert found[0] == found[1] == 1.0
    assert found[2] == 0.0


def test_the_host_launches_a_warm_drafter_once_and_a_drafting_one_for_each_token():
    engine = EngineOverhead("x", host_draft_pass_s=1.0, host_step_s=1.0)
    model = priced(Kernels(), engine)
    assert model.phases(MIXED).launch_draft_s == 3
    assert model.phases(MIXED._replace(draft_length=0, draft_rows=0, drafter="warm")).launch_draft_s == 1
    assert model.phases(MIXED._replace(draft_length=0, draft_rows=0, drafter="dropped")).launch_draft_s == 0
    assert model.phases(MIXED).rows == 5 + 3


@pytest.mark.parametrize(
    ("limit", "tokens", "eager"), [(512, 512, False), (512, 513, True), (4, 9, True), (0, 99, False)]
)
def test_a_step_beyond_what_is_captured_is_launched_kernel_by_kernel(limit, tokens, eager):
    """Also where a row of nine tokens is beyond every captured size."""
    engine = EngineOverhead("x", capture_limit=limit, host_layer_s=1.0)
    model = priced(Kernels(), engine, longest=0 if limit == 512 else 8)
    shape = StepShape(rows=1, verify_tokens=tokens, context_tokens=9, attention_pairs=9 * tokens)
    assert bool(model.phases(shape).launch_target_s) == eager


def test_the_sampler_is_the_rejection_sampler_where_drafts_are_verified():
    engine = EngineOverhead("x", logit_s=1e-3, sampling_s=10.0, rejection_s=20.0)
    logits = 19 * TARGET.vocabulary * 1e-3
    model = priced(Kernels(), engine)
    assert model.cost(MIXED._replace(draft_length=0, drafter="warm")).reject_s == pytest.approx(20 + logits)
    none = MIXED._replace(verify_tokens=5, first_tokens=14)
    assert model.cost(none).reject_s == pytest.approx(10 + logits)


def test_every_group_pads_and_all_load_what_the_padding_of_all_chooses():
    engine = EngineOverhead("x", capture_limit=512, padding_routed=True)
    kernels = Kernels()
    model = priced(kernels, engine, replace(TARGET, sliding_layers=0), layout=Layout(4, 1, True), longest=0)
    model.cost(StepShape(rows=40, verify_tokens=40, context_tokens=40, attention_pairs=40, distinct_experts=20.0))
    # ten rows a group run as sixteen; what the 24 rows of padding choose is loaded too
    distinct = 32 - 12 * (1 - 4 / 32) ** (4 * (16 - 10))
    assert kernels.loaded == [pytest.approx(busiest_rank(32, 4, 4 * 16, distinct, 4))]


class Counted:
    """Collectives that note what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float, int]] = []

    def all_reduce(self, size: float, ranks: int) -> Price:
        self.asked.append(("all_reduce", size, ranks))
        return Price(1.0, Quality.EXTRAPOLATED)

    def all_to_all(self, size: float, ranks: int) -> Price:
        self.asked.append(("all_to_all", size, ranks))
        return Price(100.0, Quality.EXTRAPOLATED)


def test_a_group_sums_twice_a_layer_and_once_where_tokens_travel_to_their_experts():
    """Six layers; the logits of 19 rows are gathered once."""
    divided, spread = Counted(), Counted()
    alone: Any = priced(Kernels(), layout=Layout(2, 2), collectives=divided).cost(MIXED).components["collectives"]
    assert alone == 2 * 6 * 1 + 100
    assert divided.asked == [("all_reduce", (17 + 130) * 64 * 2, 2), ("all_to_all", 19 * 1000 * 2 / 2, 2)]
    model = priced(Kernels(), layout=Layout(4, 2, True), collectives=spread)
    assert model.cost(MIXED).components["collectives"] == 6 * 1 + 100 + 2 * 6 * 100
    # a group has 9 + 65 tokens and 9 + 1 rows of logits; each of its GPUs sends half of the tokens on
    missed = (24 * 23 * 22 * 21) / (32 * 31 * 30 * 29)
    reached = 3 * (1 - missed)
    assert spread.asked[0] == ("all_reduce", 74 * 64 * 2, 2)
    assert spread.asked[1] == ("all_to_all", 10 * 1000 * 2 / 2, 2)
    assert spread.asked[2] == ("all_to_all", pytest.approx(37 * reached * 64 * 2), 4)


def test_the_step_that_is_priced_for_a_policy_is_one_that_runs():
    """Four rows with 100 tokens stored share ten positions; a prompt of seven tokens sees 1 + 2 + ... + 7 pairs."""
    shape = verify_step(make_routing(32, 4), 4, 10, 100.0, "on", 7, 2)
    assert (shape.context_tokens, shape.attention_pairs) == (400, 10 * 100)
    assert (shape.prefill_rows, shape.prefill_context, shape.prefill_pairs) == (1, 0, sum(range(8)))
    assert (shape.draft_length, shape.draft_rows) == (2, 4)
    assert shape.distinct_experts == pytest.approx(32 * (1 - (1 - 4 / 32) ** 17))


@pytest.mark.parametrize(("kind", "added"), [("model", 5 + 3), ("eagle3", 0)])
def test_a_draft_models_first_pass_has_a_slot_more_for_each_request(kind, added):
    draft = Draft(kind, SMALL, False, 1.0)
    slotted, plain = (
        ComposedLatency(TARGET, draft, Kernels(norm=1.0), replace(PLAIN, draft_slots=slots)) for slots in (1, 0)
    )
    assert slotted.phases(MIXED).draft_s - plain.phases(MIXED).draft_s == pytest.approx(SMALL.layers * added)
    assert slotted.phases(MIXED).target_s == plain.phases(MIXED).target_s


@pytest.mark.parametrize(
    ("shape", "pieces"),
    [
        ({"rows": 4, "verify_tokens": 12}, False),
        ({"rows": 4, "verify_tokens": 11}, True),
        ({"rows": 4, "verify_tokens": 4, "prefill_tokens": 1, "prefill_rows": 1}, True),
        ({"rows": 4, "verify_tokens": 12, "prefill_tokens": 509, "prefill_rows": 1}, False),
    ],
)
def test_rows_that_are_not_alike_run_in_pieces_of_graphs(shape, pieces):
    """Beyond the largest graph there are no pieces either."""
    engine = EngineOverhead("x", capture_limit=512, host_piece_layer_s=1.0)
    model = ComposedLatency(TARGET, None, Kernels(), engine)
    step = StepShape(context_tokens=9, attention_pairs=9, **shape)
    assert model.phases(step).launch_target_s == (TARGET.layers if pieces else 0.0)
