"""Steps as the executor lays them out and runs them, and the expert ids that it draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.hardware_models import DENSE, DEVICE, DRAFT, LIMIT, SIZES, SPARSE, make_pair, torch

# isort: split
from kernels.layer import Rows
from kernels.numerics import relative_error
from sdsim.errors import CapacityError
from sdsim.experts import make_routing
from sdsim.hardware import graphs as graphs_module
from sdsim.hardware.executor import Executor, even_shape
from sdsim.hardware.graphs import KEPT, Graphs, Launched, Timer, _Captured
from sdsim.hardware.layout import arrange, bound
from sdsim.hardware.routes import Routes, Tally
from sdsim.hardware.work import Inputs, Work
from sdsim.step import StepShape


def mixed(catch_up=0):
    """Return a step of three decode rows with 2, 0 and 2 drafts, a prompt that ends and one that does not."""
    return StepShape(
        rows=3, verify_tokens=7, context_tokens=65, attention_pairs=0, prefill_tokens=12, prefill_rows=2,
        first_tokens=1, draft_length=2, draft_rows=4, drafter="on", catch_up_tokens=catch_up,
        contexts=np.array([20, 5, 40]), verify_lengths=np.array([2, 0, 2]), chunks=((7, 10, 8), (9, 0, 4)),
    )  # fmt: skip


def test_rows_stand_by_verify_length_then_the_chunks():
    layout, lengths, stored, pages = arrange(mixed())
    assert layout.groups == ((1, 1), (2, 3))
    assert layout.chunks == ((10, 8), (0, 4))
    assert lengths.tolist() == [6, 23, 43, 18, 4]
    assert stored.tolist() == [6, 21, 41, 18, 4]
    assert pages.tolist() == [1, 2, 3, 2, 1]  # 8, 23, 43, 20 and 6 tokens with what is drafted
    assert (layout.rows, layout.verify_tokens, layout.tokens) == (3, 7, 19)
    assert layout.ends == [14]
    assert layout.lasts == [0, 3, 6, 14]


def test_even_rows_need_no_list():
    layout = arrange(even_shape(5, 3, 60)).layout
    assert layout.groups == ((5, 4),)
    assert layout.lasts == [3, 7, 11, 15, 19]
    assert arrange(even_shape(5, 0, 60)).layout.groups == ((5, 1),)


def test_bounds_are_few_and_close():
    assert all(n <= bound(n) <= 1.25 * n + 1 for n in range(1, 5000))
    assert len({bound(n) for n in range(1024, 2048)}) == 5
    assert sorted(map(bound, range(500))) == [bound(n) for n in range(500)]


def test_every_row_owns_pages_for_its_tokens():
    pair = make_pair(DENSE)
    inputs = Inputs(pair, SIZES, 0)
    step = arrange(mixed())
    inputs.fill(step)
    owned = [p for row, n in enumerate(step.pages) for p in inputs.table[row, :n].tolist()]
    assert len(set(owned)) == len(owned) == step.pages.sum()
    assert inputs.lengths[:5].tolist() == step.lengths.tolist()
    with pytest.raises(CapacityError, match="4 rows need 28 KV pages of 16 tokens; this GPU holds 24"):
        inputs.fill(arrange(even_shape(4, 3, 93)))


def test_a_laid_out_step_gives_the_logits_of_its_rows_one_by_one():
    pair = make_pair(replace(DENSE, layers=1))
    inputs, step = Inputs(pair, SIZES, 0), arrange(mixed())
    inputs.fill(step)
    Work(pair, inputs).target(step.layout)(None)
    together = inputs.logits[:8].clone()
    found, start = [], 0
    for row, new in enumerate((1, 3, 3, 8)):
        lengths = inputs.lengths[row : row + 1]
        rows = [Rows(new, inputs.table[row : row + 1], lengths, int(lengths))]
        found.append(pair.target.forward(inputs.tokens[start : start + new], rows)[0])
        start += new
    assert relative_error(together, torch.cat([*found[:3], found[3][-1:]]).double()) < LIMIT


@pytest.fixture(scope="module")
def executor():
    return Executor(make_pair(replace(SPARSE, layers=1), DRAFT), SIZES, seed=1)


def test_steps_have_the_parts_that_their_shapes_ask_for(executor):
    full = executor.step(mixed())
    assert min(full.target_s, full.rejection_s, full.draft_s, full.host_s) > 0
    assert full.seconds == full.target_s + full.rejection_s + full.draft_s
    assert full.distinct_experts.shape == (1,)
    off = executor.step(even_shape(2, 0, 9))
    assert off.draft_s == 0 < off.rejection_s
    prompt = StepShape(0, 0, 0, 0, 4, 1, contexts=np.zeros(0, np.int64), chunks=((3, 0, 4),), drafter="warm")
    half_way = executor.step(prompt)
    assert half_way.rejection_s == 0 < half_way.draft_s


def test_a_drafter_just_loaded_catches_up_in_passes_of_the_step_limit(executor):
    shape = mixed(catch_up=75)
    passes = executor._unseen(shape, arrange(shape))
    assert passes == [[(0, 0, 5), (1, 0, 20), (2, 0, 39)], [(2, 39, 1), (3, 0, 10)]]
    assert sum(chunk for pieces in passes for _, _, chunk in pieces) == shape.catch_up_tokens
    assert executor.run(shape) > 0


def test_a_point_is_timed_with_fresh_experts(executor):
    found = executor.time_point(2, 1, 20, repeats=2)
    assert found.step_s.p10 <= found.step_s.p50 <= found.step_s.p90
    assert found.draft_s.p50 > 0
    assert 2 <= found.distinct_experts <= 8
    assert executor.time_point(1, 0, 20, repeats=1).draft_s.p50 == 0


def test_a_step_that_computes_nothing_is_noticed(executor, monkeypatch):
    monkeypatch.setattr(executor, "step", lambda shape: None)
    with pytest.raises(RuntimeError, match="never written"):
        executor.time_point(1, 0, 8)


def test_calls_are_captured_once_their_key_has_come_often():
    graphs, depths = Graphs("cpu", after=3), []
    found = [graphs.get("key", lambda: depths.append) for _ in range(4)]
    assert [isinstance(call, Launched) for call in found] == [True, True, False, False]
    assert graphs.captured == 1
    assert found[2] is found[3]
    found[0]()
    assert depths == [1, None]  # what is new compiles first


class Gpu:
    """A stream that takes 1,000 launches ahead: calls are (kernels, s of each on the GPU, s to launch each)."""

    def __init__(self, monkeypatch):
        self.runs = []
        monkeypatch.setattr(graphs_module, "_timed", self.timed)

    def timed(self, calls, lead_s):
        self.runs.append((lead_s, [type(c).__name__ for c in calls]))
        host, gpu, waited, ends, marks, seconds = 0.0, lead_s, 0.0, [], [0.0], []
        for call in calls:
            kernels, each, launch = call.work
            began = gpu
            for _ in range(kernels):
                host = max(host + launch, ends[-1000] if len(ends) >= 1000 else 0.0)
                waited += max(0.0, host - gpu)
                gpu = max(gpu, host) + each
                ends.append(gpu)
            marks.append(host)
            seconds.append(gpu - began)
        self.waited = waited
        return seconds, marks, gpu + 2e-5


def launched(kernels, each, launch):
    call = Launched(None, lambda: graph(kernels * each))
    call.work = kernels, each, launch
    return call


def graph(seconds):
    call = _Captured(None, None)
    call.work = 1, seconds, 2e-5
    return call


@pytest.mark.parametrize("kernels", [500, 1500, 4000])
@pytest.mark.parametrize("launch_us", [5, 30, 45, 90])
def test_what_is_timed_kept_the_gpu_busy_even_where_its_queue_is_full(monkeypatch, kernels, launch_us):
    gpu, timer = Gpu(monkeypatch), Timer("cuda")
    for _ in range(20):
        calls = [launched(kernels, 5e-5, launch_us * 1e-6), graph(1e-4), launched(kernels // 2, 4e-6, 1e-6 * launch_us)]
        seconds, _ = timer(calls)
        assert gpu.waited == 0
        assert seconds == pytest.approx([kernels * 5e-5, 1e-4, kernels // 2 * 4e-6])
    assert len(gpu.runs) < 60
    assert max(lead for lead, _ in gpu.runs) <= 0.07
    if kernels == 500 and launch_us < 90:  # nothing is captured that a lead can save
        assert all("Launched" in kinds for _, kinds in gpu.runs)


def test_a_gpu_that_always_waits_is_said(monkeypatch):
    monkeypatch.setattr(graphs_module, "_timed", lambda calls, lead_s: ([1e-3], [0.0, lead_s + 1], lead_s + 1.001))
    with pytest.raises(RuntimeError, match="the host takes more"):
        Timer("cuda")([graph(1e-3)])


def test_graphs_are_made_once_and_the_oldest_go():
    graphs, made = Graphs("cpu"), []

    def make(key):
        return lambda: made.append(key) or (lambda depth: None)

    for key in [*range(KEPT), 0, KEPT, 0, 1]:
        graphs.get(key, make(key))
    assert made == [*range(KEPT), KEPT, 1]
    assert graphs.captured == len(made)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: graphs are captured there only")
def test_a_captured_step_gives_what_it_gives_uncaptured(executor):
    shape = even_shape(3, 2, 30)
    executor.step(shape)
    captured = executor._inputs.logits[:9].clone()
    executor._inputs.logits.zero_()
    Work(executor.pair, executor._inputs).target(arrange(shape).layout)(None)
    assert torch.equal(executor._inputs.logits[:9], captured)


def test_ids_are_distinct_within_a_token_and_uniform():
    routes = Routes(SPARSE, 4000, 3, DEVICE)
    routes.draw(4000)
    ids = routes.ids.cpu().numpy()
    assert (ids[..., 0] != ids[..., 1]).all()
    pairs = np.sort(ids, axis=-1).reshape(-1, 2)
    counts = np.unique(pairs[:, 0] * 8 + pairs[:, 1], return_counts=True)[1]
    assert len(counts) == 28
    expected = 8000 / 28
    assert ((counts - expected) ** 2 / expected).sum() < 55  # chi square with 27 degrees of freedom, p = 0.001


@pytest.mark.parametrize("tokens", [1, 3, 12])
def test_distinct_experts_follow_the_simulators_law(tokens):
    routes, tally = Routes(SPARSE, tokens, 5, DEVICE), Tally()
    for _ in range(400):
        routes.draw(tokens)
        tally.add(routes.distinct(tokens))
    mean, error = tally.mean()
    law = make_routing(8, 2).distinct_uniform_rows(tokens, tokens)
    assert abs(mean - law) <= 4 * error + 1e-9


def test_ids_follow_the_seed():
    drawn = []
    for seed in (1, 1, 2):
        routes = Routes(SPARSE, 9, seed, DEVICE)
        routes.draw(9)
        drawn.append(routes.ids)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_tally_is_a_mean_and_its_error():
    counts = np.array([3, 5, 4, 8, 8, 2])
    tally = Tally()
    tally.add(counts[:2])
    tally.add(counts[2:])
    mean, error = tally.mean()
    assert mean == counts.mean()
    assert error == pytest.approx(counts.std(ddof=1) / np.sqrt(6))
    assert Tally().mean() == (0.0, 0.0)
