"""Layers shared by two GPUs against whole ones, and the command that measures what they exchange, on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from tests.hardware_models import DEVICE, DTYPE, LIMIT, SPARSE, write_configs

# isort: split
import torch

from kernels.layer import Cache, Layer, Pass, Rows
from sdsim.errors import ScenarioError
from sdsim.hardware import parallel_layer
from sdsim.hardware.collectives import jobs, main, parser
from sdsim.hardware.parallel_layer import ExpertLayer, TensorLayer
from sdsim.hardware.shape import expert_shard, tensor_shard
from sdsim.latency.collectives import parse_collectives

SHAPE = replace(SPARSE, heads=4, kv_heads=2, vocab=98, shared_intermediate=0, shared_gate=False)
TOKENS = 4


class TwoRanks:
    """`torch.distributed` for two threads, of which one runs at a time: Triton's interpreter is not for several."""

    def __init__(self):
        self.turn, self.meet, self.brought = threading.Lock(), threading.Barrier(2), {}
        self.rank = threading.local()

    def run(self, work):
        """Return what *work* returns for each rank."""
        found, failed = {}, []

        def one(rank):
            self.rank.number = rank
            with self.turn:
                try:
                    found[rank] = work(rank)
                except BaseException as error:
                    failed.append(error)
                    self.meet.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        return found[0], found[1]

    def _both(self, mine):
        self.brought[self.rank.number] = mine.clone()
        self._let_the_other_come_here()
        both = self.brought[0], self.brought[1]
        self._let_the_other_come_here()
        return both

    def _let_the_other_come_here(self):
        self.turn.release()
        try:
            self.meet.wait(60)
        finally:
            self.turn.acquire()

    def get_world_size(self):
        return 2

    def all_reduce(self, tensor):
        tensor.copy_(sum(self._both(tensor)))

    def all_gather_into_tensor(self, out, mine):
        out.copy_(torch.cat(self._both(mine)))

    def reduce_scatter_tensor(self, out, whole):
        out.copy_(sum(self._both(whole)).chunk(2)[self.rank.number])


@pytest.fixture
def ranks(monkeypatch):
    """Return two ranks in this process."""
    both = TwoRanks()
    monkeypatch.setattr(parallel_layer, "dist", both)
    return both


def rows(cache, tokens=TOKENS):
    """Return one sequence of new tokens from position 0."""
    lens = torch.tensor([tokens], dtype=torch.int32, device=DEVICE)
    return [Rows(tokens, cache.block_table, lens, tokens)]


def branch(layer, cache, x):
    """Return what *layer* adds to the residual, attention included."""
    p = Pass(rows(cache, len(x)), cache.angles, x.clone())
    layer(p)
    return p.x + p.residual


def test_two_tensor_shards_are_the_whole_layer(ranks):
    whole, cache = Layer(SHAPE, 1, DTYPE, DEVICE), Cache(1, 16, SHAPE.head_dim, DEVICE)
    x = torch.randn(TOKENS, SHAPE.hidden, dtype=DTYPE, device=DEVICE)
    halves = [shard_of(whole, rank) for rank in range(2)]
    found = ranks.run(lambda rank: branch(halves[rank], cache, x))
    expected = whole.reference(x)
    for one in found:
        assert (one.double() - expected).abs().max() < 10 * LIMIT * expected.abs().max()


def shard_of(whole, rank):
    """Return the tensor layer that holds half of the whole one's heads and of each expert's width."""
    s = SHAPE
    layer = TensorLayer(tensor_shard(s, 2), 1, DTYPE, DEVICE)
    q, k, v = whole.qkv.split([s.heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim])
    layer.qkv = torch.cat([part.chunk(2)[rank] for part in (q, k, v)])
    layer.o = whole.o.chunk(2, dim=1)[rank].contiguous()
    gate, up = whole.experts_gate_up.chunk(2, dim=1)
    layer.experts_gate_up = torch.cat([part.chunk(2, dim=1)[rank] for part in (gate, up)], dim=1)
    layer.experts_down = whole.experts_down.chunk(2, dim=2)[rank].contiguous()
    layer.norm_1, layer.norm_2, layer.router = whole.norm_1, whole.norm_2, whole.router
    layer.qk_norms = whole.qk_norms
    return layer


def test_spread_experts_serve_the_tokens_of_all_ranks(ranks):
    """Each rank gets, for its own tokens, what all experts give."""
    shard = expert_shard(SHAPE, 2)
    layers = [ExpertLayer(shard, 1, DTYPE, DEVICE) for _ in range(2)]
    layers[1].router = layers[0].router
    ids = torch.arange(2 * TOKENS * shard.topk, device=DEVICE).view(-1, shard.topk).to(torch.int32) % shard.experts
    for layer in layers:
        layer.expert_ids = ids
    x = torch.randn(2, TOKENS, SHAPE.hidden, dtype=DTYPE, device=DEVICE)
    found = ranks.run(lambda rank: layers[rank].feed_forward(x[rank]))
    everyone = x.view(-1, SHAPE.hidden)
    logits = everyone.double() @ layers[0].router.double().T
    weights = logits.softmax(-1).topk(shard.topk).values
    expected = sum(from_experts(layer, everyone, weights, ids) for layer in layers)
    assert (torch.cat(found).double() - expected).abs().max() < 10 * LIMIT * expected.abs().max()


def from_experts(layer, x, weights, ids):
    """Return what a rank's experts give in plain torch."""
    from kernels import moe

    return moe.reference(x, layer.experts_gate_up, layer.experts_down, weights, ids)


def options(*words):
    return parser().parse_args(["--out", "x", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--parts", "tensor,pipeline"), "--parts: 'pipeline'; allowed: collectives, tensor, expert"),
        (("--batches", "1,x"), "--batches: '1,x'; allowed: whole numbers over 0"),
        (("--q-lens", "0"), "--q-lens: '0'"),
        (("--q-lens", "9", "--context", "4"), "--q-lens: 9; allowed: up to --context, 4"),
        (("--ranks", "1"), "--ranks: 2 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(words, message):
    with pytest.raises(ScenarioError, match=message):
        jobs(options(*words))


def test_shapes_that_do_not_divide_are_refused():
    with pytest.raises(ScenarioError, match="kv_heads 1, vocab 97; allowed: multiples of 2"):
        tensor_shard(SPARSE, 2)
    with pytest.raises(ScenarioError, match="0 experts"):
        expert_shard(replace(SPARSE, experts=0), 2)


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(Exception, match="exists already"):
        main(["--out", str(tmp_path / "x")])


@pytest.mark.slow  # starts two groups of two processes, each importing torch
def test_the_command_measures_and_keeps_what_it_has(tmp_path):
    write_configs(tmp_path)
    sizes = ["--largest", "2048", "--batches", "2", "--q-lens", "1", "--context", "40", "--replays", "2"]
    command = [sys.executable, "-m", "sdsim.hardware.collectives", "--out", str(tmp_path / "out.jsonl"), *sizes]
    models = ["--expert-model", str(tmp_path / "moe"), "--tensor-model", str(tmp_path / "moe")]
    subprocess.run([*command, "--backend", "gloo", "--minutes", "3", *models], check=True, timeout=300)
    text = (tmp_path / "out.jsonl").read_text()
    found = parse_collectives(text, "out.jsonl", "cpu")
    assert {key: sorted(points) for key, points in found.points.items()} == {
        ("all_reduce", 2): [1024, 2048],
        ("all_to_all", 2): [1024, 2048],
    }
    assert [(row["parallel"], row["distinct"]) for row in found.steps] == [("expert", 2)]
    (fault,) = [row for row in map(json.loads, text.splitlines()) if row.get("kind") == "fault"]
    assert fault["part"] == "tensor"
    assert "kv_heads 1, vocab 97; allowed: multiples of 2" in fault["log"]
