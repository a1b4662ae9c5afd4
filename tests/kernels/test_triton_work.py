"""The kernels' bytes and flops are the simulator's: one formula each, written twice and held equal here."""

import pytest

from kernels import (
    dense,
    formats,
    latent_attention,
    moe,
    prefill_attention,
    quantized,
    rejection,
    rope,
    verify_attention,
)
from sdsim.hardware.shape import kernel_shape
from sdsim.latency import work
from sdsim.matrices import Matrix
from sdsim.models import load_model

TOKENS = (1, 7, 300)


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v2-lite", "deepseek-v3", "gpt-oss-120b"])
@pytest.mark.parametrize("tokens", TOKENS)
def test_experts(name, tokens):
    model = load_model(name)
    distinct = min(model.experts, tokens * model.experts_per_token)
    sizes = model.hidden, model.expert_intermediate
    found = work.experts(model, tokens, distinct)
    weights = kernel_shape(model).expert_format
    assert formats.BYTES[weights] == model.expert_bytes
    assert found.size == moe.bytes_moved(tokens, distinct, *sizes, formats.BYTES[weights])
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


def test_fp8_products():
    assert work.product(7, Matrix(7168, 2112), load_model("deepseek-v3").weight_bytes) == (
        quantized.project_bytes(7, 7168, 2112),
        dense.project_flops(7, 7168, 2112),
    )


def test_latent_attention():
    stored, length = [100, 17, 4096], 5
    found = work.latent_attention(128, 512, 64, sum(stored), length * len(stored), length * sum(stored))
    assert found.size == latent_attention.bytes_moved(stored, length, 128, 512, 64)
    assert found.flops == latent_attention.flops(stored, length, 128, 512, 64)


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
