"""How each kernel is compared with its float64 reference: functions returning an error, for check.py and the tests.

Correct bf16 kernels land near 3e-3 (8e-3 in the interpreter, which truncates to bf16 instead of rounding). Decisions
(top-k, tiles, accepted drafts, drawn tokens) are compared exactly: the error is the share that differs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kernels import (
    configs,
    dense,
    draft,
    formats,
    latent_attention,
    moe,
    prefill_attention,
    quantized,
    rejection,
    rope,
    routing,
    verify_attention,
)  # fmt: skip
from kernels._triton import cdiv
from kernels.layer import Cache, Rows, random_weight
from kernels.shapes import Shape
from kernels.timing import capture, poison


def relative_error(out: Tensor, ref: Tensor) -> float:
    """||out - ref|| / ||ref|| in float64; NaN counts as infinite."""
    error = float((out.double() - ref).norm() / ref.norm().clamp_min(1e-30))
    return error if error == error else float("inf")


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """torch.empty and empty_like hand out NaN (integers: -7), so that a read of what nobody wrote shows."""
    plain = torch.empty, torch.empty_like

    def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: object, **kwargs: object) -> Tensor:
            out = make(*args, **kwargs)
            poison([out])
            return out

        return call

    torch.empty, torch.empty_like = poisoned(plain[0]), poisoned(plain[1])
    try:
        yield
    finally:
        torch.empty, torch.empty_like = plain


def check_tiles(tokens: int, experts: int, topk: int, block_m: int, distinct: int | None, device: str) -> float:
    """Share of wrong top-k ids, of pairs missing, doubled or in another expert's tile."""
    ids = routing.inject_topk_ids(tokens, experts, topk, distinct=distinct).to(device)
    weights, found = routing.top_k(routing.inject_logits(ids, experts), topk)
    wrong = int((found.sort(1).values != ids.sort(1).values).sum()) + int((weights.sum(1) - 1).abs().max() > 1e-5)
    tiles = routing.align(found, experts, block_m)
    used = tiles.expert >= 0
    pairs = tiles.pairs[used]
    owner = tiles.expert[used][:, None].expand_as(pairs)[pairs >= 0]
    pairs = pairs[pairs >= 0].long()
    wrong += int((found.flatten()[pairs] != owner).sum())
    everyone = torch.arange(found.numel(), device=device)
    return (wrong + int(not torch.equal(pairs.sort().values, everyone))) / found.numel()


def check_moe(
    shape: Shape, tokens: int, device: str, distinct: int | None = None, law: str = "uniform",
    config: configs.Moe | None = None,
) -> float:  # fmt: skip
    """The layer from router logits, against the reference on the reference's own routing; a sixth of the error with
    fp8, where the reference does not round activations to 3 bits of mantissa twice, and the layer does.
    """
    s = shape
    ids = routing.inject_topk_ids(tokens, s.experts, s.topk, distinct=distinct, law=law)
    logits = routing.inject_logits(ids, s.experts).to(device)
    w1 = random_weight(s.experts, 2, s.expert_intermediate, s.hidden, device=device)
    w2 = random_weight(s.experts, s.hidden, s.expert_intermediate, device=device)
    experts = [formats.quantize_weight(w, s.expert_format) for w in (w1, w2)]
    x = torch.randn((tokens, s.hidden), device=device).bfloat16()
    out = moe.moe(x, logits, *experts, s.topk, s.renormalise, config=config)
    error = relative_error(out, moe.reference(x, *experts, *routing.reference(logits, s.topk, s.renormalise)))
    return error / 6 if s.expert_format == "fp8" else error


def check_fp8_product(tokens: int, inputs: int, outputs: int, device: str) -> float:
    """The dense product against float64 on the activations as torch quantises them: roundings are all that is left."""
    x = torch.randn((tokens, inputs), device=device).bfloat16()
    weight = formats.to_fp8(random_weight(outputs, inputs, device=device))
    data, scales = formats.activations_to_fp8(x)
    stored = data.double() * scales.double().repeat_interleave(formats.BLOCK, 1)[:, :inputs]
    return relative_error(quantized.project(x, weight), stored @ formats.dequantize(weight).T)


def check_latent(
    heads: int, rank: int, rope_dim: int, q_len: int, lengths: list[int], device: str, splits: int | None = None
) -> float:  # fmt: skip
    """As `check_attention`, over latents."""
    page = latent_attention.PAGE
    per = cdiv(max(lengths), page)
    pages = (len(lengths) + 1) * per
    table = torch.randperm(pages, device=device).view(-1, per).to(torch.int32)
    cache = torch.randn((pages, page, rank + rope_dim), device=device).bfloat16()
    owned = torch.zeros((pages, page), dtype=torch.bool, device=device)
    for row, length in zip(table.long(), lengths, strict=False):
        at = torch.arange(length, device=device)
        owned[row[at // page], at % page] = True
    cache[~owned] = float("nan")
    q = torch.randn((len(lengths), q_len, heads, rank + rope_dim), device=device).bfloat16()
    lens = torch.tensor(lengths, dtype=torch.int32, device=device)
    scale = (rank + rope_dim) ** -0.5
    out = latent_attention.attend(q, cache, table, lens, max(lengths), rank, scale, splits=splits)
    return relative_error(out, latent_attention.reference(q, cache, table, lens, rank, scale))


def check_attention(
    heads: int, kv_heads: int, dim: int, q_len: int, lengths: list[int], device: str, splits: int | None = None
) -> float:  # fmt: skip
    """Mixed lengths, pages in random order, every slot that no sequence owns holds NaN."""
    cache = Cache(len(lengths) + 1, max(lengths), dim, device)
    size = (cache.pages, kv_heads, verify_attention.PAGE, dim)
    k, v = (torch.randn(size, device=device).bfloat16() for _ in range(2))
    owned = torch.zeros((cache.pages, verify_attention.PAGE), dtype=torch.bool, device=device)
    for row, length in zip(cache.block_table.long(), lengths, strict=False):
        at = torch.arange(length, device=device)
        owned[row[at // verify_attention.PAGE], at % verify_attention.PAGE] = True
    for c in (k, v):
        c.transpose(1, 2)[~owned] = float("nan")
    q = torch.randn((len(lengths), q_len, heads, dim), device=device).bfloat16()
    lens = torch.tensor(lengths, dtype=torch.int32, device=device)
    out = verify_attention.attend(q, k, v, cache.block_table, lens, max(lengths), splits=splits)
    return relative_error(out, verify_attention.reference(q, k, v, cache.block_table, lens))


def check_rejection(batch: int, length: int, vocab: int, device: str, probs: bool = False) -> float:
    """Share of requests whose accepted count differs, or whose token's float64 cumulative law misses the coin."""
    logits = (4 * torch.randn((batch, length + 1, vocab), device=device)).bfloat16()
    drafts = logits[:, :length].float().argmax(-1).to(torch.int32)
    q = torch.randn((batch, length, vocab), device=device).softmax(-1) if probs else None
    coins = torch.rand((batch, length + 1), device=device)
    out = rejection.sample(logits, drafts, coins, q)
    accepted, law = rejection.reference(logits, drafts, coins, q)
    last = out.tokens.gather(1, out.accepted[:, None].long()).long()
    upto = law.cumsum(-1).gather(1, last)[:, 0]
    goal, size = coins[:, length].double(), law.gather(1, last)[:, 0]
    bad = (out.accepted != accepted) | (goal > upto + 1e-4) | (goal < upto - size - 1e-4) | (size <= 0)
    greedy = rejection.sample(logits, drafts)
    best = logits.float().argmax(-1)
    bad |= (greedy.accepted != length) | (greedy.tokens != best).any(1)
    return float(bad.double().mean())


def check_dense(shape: Shape, tokens: int, device: str) -> float:
    """Largest error of residual + norm, SiLU times up, and rotary embedding with its cache write."""
    s = shape
    x, rest = (torch.randn((tokens, s.hidden), device=device).bfloat16() for _ in range(2))
    weight = 1 + random_weight(s.hidden, device=device)
    total = x.double() + rest.double()
    errors = [relative_error(dense.add_rms_norm(x, rest, weight), dense.rms_norm_reference(total, weight))]
    errors.append(relative_error(rest, total))
    wide = torch.randn((tokens, 2 * s.hidden), device=device).bfloat16()
    errors.append(relative_error(dense.silu_mul(wide), dense.silu_mul_reference(wide)))
    cache = Cache(tokens, 96, s.head_dim, device)
    lens = torch.randint(1, 97, (tokens,), dtype=torch.int32, device=device)
    qkv = torch.randn((tokens, s.qkv), device=device).bfloat16()
    k, v = torch.empty((2, cache.pages, s.kv_heads, verify_attention.PAGE, s.head_dim), dtype=x.dtype, device=device)
    norms = (weight[: s.head_dim], weight[-s.head_dim :])
    q = rope.rope_and_cache(qkv, cache.angles, cache.block_table, lens, k, v, 1, s.heads, norms)
    parts = torch.split(qkv.view(tokens, -1, s.head_dim), [s.heads, s.kv_heads, s.kv_heads], dim=1)
    at = lens.long() - 1
    page = cache.block_table.long().gather(1, at[:, None] // verify_attention.PAGE)[:, 0]
    for out, part, norm in (
        (q[:, 0], parts[0], norms[0]),
        (k[page, :, at % verify_attention.PAGE], parts[1], norms[1]),
    ):
        errors.append(relative_error(out, rope.rope_reference(dense.rms_norm_reference(part, norm), at, 1e6)))
    return max(*errors, relative_error(v[page, :, at % verify_attention.PAGE], parts[2].double()))


def check_prefill(shape: Shape, chunk: int, context: int, device: str) -> float:
    """The library's kernel under this package's conventions."""
    s = shape
    q = torch.randn((s.heads, chunk, s.head_dim), device=device).bfloat16()
    k, v = (torch.randn((s.kv_heads, context + chunk, s.head_dim), device=device).bfloat16() for _ in range(2))
    return relative_error(prefill_attention.attend(q, k, v), prefill_attention.reference(q, k, v))


def check_decoder(shape: Shape, device: str) -> float:
    """A third of the error of a small decoder's logits, a prompt in two chunks: its layers' roundings add up.

    The median of five decoders where tokens are routed: a near tie between two experts, rounded the other way, is no
    mistake, and changes the logits by more than rounding does.
    """
    return sorted(decoder_error(shape, device) for _ in range(5 if shape.experts else 1))[2 if shape.experts else 0]


def decoder_error(shape: Shape, device: str) -> float:
    """See `check_decoder`: one random decoder."""
    cache = Cache(2, 64, shape.head_dim, device)
    decoder = draft.Decoder(shape, cache.pages, cache.length, device=device)
    tokens = torch.randint(0, shape.vocab, (2, 12), dtype=torch.int32, device=device)
    for low, high in ((0, 8), (8, 12)):
        lens = torch.full((2,), high, dtype=torch.int32, device=device)
        new = Rows(high - low, cache.block_table, lens, cache.length)
        logits, _ = decoder.forward(tokens[:, low:high], [new], slice(new.q_len - 1, None, new.q_len))
    return max(relative_error(logits[b], decoder.reference(tokens[b])) for b in range(2)) / 3


def check_graph(shape: Shape, device: str) -> float:
    """Share of drafts that a captured proposal gives differently from the eager one."""
    cache = Cache(3, 64, shape.head_dim, device)
    decoder = draft.Decoder(shape, cache.pages, cache.length, device=device)
    tokens = torch.randint(0, shape.vocab, (3, 5), dtype=torch.int32, device=device)
    rows = [Rows(5, cache.block_table, torch.full((3,), 20, dtype=torch.int32, device=device), cache.length)]
    eager = decoder.propose(tokens, rows, 4)
    graph, (captured,) = capture([lambda: decoder.propose(tokens, rows, 4)], 1)
    graph.replay()
    return float((captured != eager).double().mean())
