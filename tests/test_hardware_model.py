"""The models that run on the GPU, against plain float64 torch: logits, and text by speculation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.hardware_models import DENSE, DEVICE, DRAFT, DTYPE, LIMIT, SIZES, SPARSE, UPCAST, ints, make_pair, torch

# isort: split
from kernels.layer import Rows
from kernels.numerics import relative_error
from sdsim.errors import CapacityError, ScenarioError
from sdsim.hardware.generation import generate
from sdsim.hardware.model import COPIES, RESERVED_BYTES, Pair, activation_bytes, decoder_bytes, fitting
from sdsim.hardware.shape import kernel_shape, whole_shape
from sdsim.models import load_model


def reference(decoder, tokens):
    return decoder.reference(torch.tensor(tokens, device=DEVICE))


@pytest.mark.parametrize("shape", [DENSE, SPARSE], ids=lambda s: s.name)
def test_prompt_chunks_beside_decode_and_verify_rows_give_the_logits_of_the_whole_sequences(shape):
    decoder = make_pair(shape).target
    a, b, c = (torch.randint(0, 97, (n,)).tolist() for n in (20, 12, 6))
    table = torch.randperm(24, device=DEVICE)[:12].view(3, 4).to(torch.int32)

    def prompt(row, end, chunk):
        return Rows(chunk, table[row : row + 1], ints([end]), end, prompt=True)

    decoder.forward(ints(a[:17] + b[:9]), [prompt(0, 17, 17), prompt(1, 9, 9)])
    decoder.forward(ints(a[17:19]), [prompt(0, 19, 2)])
    mixed = [Rows(1, table[:1], ints([20]), 32), Rows(3, table[1:2], ints([12]), 32), prompt(2, 6, 6)]
    at = torch.tensor([0, 1, 2, 3, 9], device=DEVICE)
    logits, _ = decoder.forward(ints(a[19:] + b[9:] + c), mixed, at)
    expected = [reference(decoder, s) for s in (a, b[:10], b[:11], b, c)]
    for found, logit in zip(logits, expected, strict=True):
        assert relative_error(found, logit) < (LIMIT if not shape.experts or UPCAST else 0.3)  # near ties in routing


def test_room_is_what_the_tensors_take():
    pair = make_pair(SPARSE, DRAFT)
    sizes = sum(t.nbytes for t in _all_tensors(pair.target))
    assert decoder_bytes(SPARSE, SIZES, DTYPE) == sizes
    assert decoder_bytes(replace(DRAFT, tied=False), SIZES) - decoder_bytes(DRAFT, SIZES) == 2 * 97 * 64


def test_pages_are_as_many_as_fit_beside_the_models(monkeypatch):
    shapes = (SPARSE, DRAFT)
    held = sum(decoder_bytes(shape, replace(SIZES, pages=20)) for shape in shapes)
    free = held + RESERVED_BYTES + COPIES * sum(activation_bytes(shape, SIZES) for shape in shapes)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 2 * free))
    assert fitting([SPARSE, DRAFT], SIZES).pages == 20
    assert fitting([SPARSE], SIZES) == SIZES
    with pytest.raises(CapacityError, match="tiny-moe and tiny-draft with 384 KV tokens need"):
        Pair(SPARSE, DRAFT, SIZES, device="cuda")


def _all_tensors(decoder):
    owners = [decoder, *decoder.layers]
    found = [v for o in owners for v in vars(o).values() if isinstance(v, torch.Tensor)]
    return found + [t for layer in decoder.layers for t in layer.qk_norms or ()]


PROMPTS = ([3, 13, 13, 5, 10, 1, 0, 7, 2], [2, 9, 12, 11], [5])


def self_drafting():
    """A pair whose draft is its target, but for mistakes: row r's drafts are wrong from the r-th last on."""
    shape = replace(DENSE, hidden=32, layers=1, heads=2, kv_heads=1)
    pair = Pair(shape, shape, SIZES, DTYPE, DEVICE)
    pair.target.embed.mul_(0.05)  # so that attention decides what comes next,
    pair.target.layers[0].qkv.mul_(4)  # and sharply: every token before and its place count
    layer, target = pair.draft.layers[0], pair.target.layers[0]
    vars(layer).update({k: v for k, v in vars(target).items() if k not in ("k_cache", "v_cache")})
    pair.draft.embed, pair.draft.norm, pair.draft.lm_head = pair.target.embed, pair.target.norm, pair.target.lm_head
    propose, prompts = pair.draft.propose, iter(range(len(PROMPTS)))

    def mistaken(tokens, rows, steps, **kwargs):
        drafts = propose(tokens, rows, steps, **kwargs)
        for i in range(len(drafts)):
            wrong = next(prompts) if rows[0].prompt else i
            drafts[i, steps - wrong :] = (drafts[i, steps - wrong :] + 1) % 97
        return drafts

    pair.draft.propose = mistaken
    return pair


@pytest.fixture(scope="module")
def texts():
    """One target, and its greedy text without drafts and with two a round."""
    pair = self_drafting()
    plain, speculated = (generate(pair, list(PROMPTS), 5, length, SIZES.pages) for length in (0, 2))
    return pair.target, plain, speculated


EXACT = pytest.mark.skipif(not UPCAST, reason="roundings of bf16 decide near ties differently at another batch size")


@EXACT
def test_speculation_gives_the_targets_own_text(texts):
    _, plain, speculated = texts
    assert speculated.tokens == plain.tokens
    assert plain.rounds == speculated.rounds == 4  # the row without a good draft


@EXACT
def test_drafts_are_accepted_up_to_the_first_mistake(texts):
    *_, plain, speculated = texts
    assert plain.accepted == [0] * 12
    # four tokens after the first: 3 and more, 2 and 2, 1 and 1 and 1 and 1
    assert speculated.accepted == [2, 1, 0, 2, 1, 0, 0, 0]


def test_every_token_is_the_targets_choice(texts):
    target, *generated = texts
    for text in generated:
        for prompt, tokens in zip(PROMPTS, text.tokens, strict=True):
            assert len(tokens) == 5
            for i, token in enumerate(tokens):
                logits = reference(target, prompt + tokens[:i])
                assert logits[token] > logits.max() - (1e-4 if UPCAST else 0.5)


def test_generation_refuses_what_it_cannot_do():
    other = make_pair(DENSE, replace(DRAFT, vocab=50))
    with pytest.raises(ScenarioError, match="found 50 tokens; allowed: 97"):
        generate(other, [[1]], 2, 1, 24)
    with pytest.raises(ScenarioError, match="found no draft"):
        generate(make_pair(DENSE), [[1]], 2, 1, 24)
    with pytest.raises(CapacityError, match="need 14 KV pages, there are 10"):
        generate(make_pair(DENSE), [[1] * 100, [2]], 2, 0, 10)


def test_shapes_are_those_that_the_kernels_know():
    from kernels.shapes import SHAPES

    for name in ("qwen3-30b-a3b", "qwen2-57b-a14b", "mixtral-8x7b", "qwen2.5-32b", "qwen2-0.5b", "qwen3-0.6b"):
        known = SHAPES[name]
        assert kernel_shape(load_model(name)) == replace(known, parts=kernel_shape(load_model(name)).parts)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("deepseek-v2-lite", "latent attention"),
        ("deepseek-v2-lite", "mixes 1 dense and 26 MoE layers"),
        ("gpt-oss-120b", "18 layers of sliding attention"),
        ("gpt-oss-120b", "is quantized"),
    ],
)
def test_models_that_the_kernels_cannot_run_are_refused(name, found):
    with pytest.raises(ScenarioError, match=found):
        whole_shape(load_model(name))


def test_layers_are_at_most_the_models():
    assert whole_shape(load_model("mixtral-8x7b"), 4).layers == 4
    with pytest.raises(ScenarioError, match="layers: 33; allowed: 1 to 32"):
        whole_shape(load_model("mixtral-8x7b"), 33)
