"""The kernels' bytes and flops are the simulator's: one formula each, written twice and held equal here."""

import pytest

from kernels import dense, moe, prefill_attention, rejection, rope, verify_attention
from sdsim.latency import work
from sdsim.matrices import Matrix
from sdsim.models import load_model

TOKENS = (1, 7, 300)


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v2-lite"])
@pytest.mark.parametrize("tokens", TOKENS)
def test_experts(name, tokens):
    model = load_model(name)
    distinct = min(model.experts, tokens * model.experts_per_token)
    sizes = model.hidden, model.expert_intermediate
    found = work.experts(model, tokens, distinct)
    assert found.size == moe.bytes_moved(tokens, distinct, *sizes)
    assert found.flops == moe.flops(tokens, model.experts_per_token, *sizes)


@pytest.mark.parametrize("tokens", TOKENS)
def test_dense_and_elementwise(tokens):
    assert work.product(tokens, Matrix(96, 40), 2.0) == (
        dense.project_bytes(tokens, 96, 40),
        dense.project_flops(tokens, 96, 40),
    )
    assert work.norm(tokens, 96).size == dense.norm_bytes(tokens, 96)
    assert work.silu(tokens, 96).size == dense.silu_mul_bytes(tokens, 96)
    assert work.rope(tokens, 8, 2, 64).size == rope.rope_bytes(tokens, 8, 2, 64)


def test_attention():
    stored, length = [100, 17, 4096], 5
    found = work.attention(32, 4, 128, sum(stored), length * len(stored), length * sum(stored))
    assert found.size == verify_attention.bytes_moved(stored, length, 32, 4, 128)
    assert found.flops == verify_attention.flops(stored, length, 32, 128)


@pytest.mark.parametrize(("context", "chunk"), [(0, 64), (500, 128)])
def test_prefill(context, chunk):
    pairs = chunk * context + chunk * (chunk + 1) // 2
    found = work.attention(32, 4, 128, context + chunk, chunk, pairs)
    assert found.size == prefill_attention.bytes_moved(context, chunk, 32, 4, 128)
    assert found.flops == prefill_attention.flops(context, chunk, 32, 128)


def test_sampling():
    assert work.sampling(64, 1000).size == rejection.bytes_moved(64, 0, 1000)
    assert work.sampling(64, 1000).size >= rejection.bytes_moved(16, 3, 1000)
