"""The four programs of rejection sampling; rejection.py says what they compute together."""

import triton
import triton.language as tl

FLOOR = tl.constexpr(-1e30)  # below any logit; -inf - -inf would be NaN


@triton.jit(do_not_specialize=["chunks", "scale"])
def row_stats(
    logits, part_max, part_aux, vocab, chunks, chunk, scale, deep: tl.constexpr, wide: tl.constexpr,
    greedy: tl.constexpr,
):  # fmt: skip
    # part_aux: the sum of 2^(x - max), or the argmax. A lane keeps its own maximum and rescales once for *deep*
    # elements.
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1)
    offset = tl.arange(0, deep)[:, None] * wide + tl.arange(0, wide)[None, :]
    low = c * chunk
    high = tl.minimum(low + chunk, vocab)
    top = tl.full((wide,), FLOOR, tl.float32)
    aux = tl.zeros((wide,), tl.int32) if greedy else tl.zeros((wide,), tl.float32)
    for start in range(low, high, deep * wide):
        v = start + offset
        x = tl.load(logits + row * vocab + v, mask=v < high, other=float("-inf")).to(tl.float32) * scale
        if greedy:
            best, arg = tl.max(x, 0, return_indices=True)
            aux = tl.where(best > top, start + arg * wide + tl.arange(0, wide), aux)
            top = tl.maximum(best, top)
        else:
            new = tl.maximum(tl.max(x, 0), top)
            aux = aux * tl.exp2(top - new) + tl.sum(tl.exp2(x - new[None, :]), 0)
            top = new
    best = tl.max(top, 0)
    tl.store(part_max + row * chunks + c, best)
    if greedy:
        tl.store(part_aux + row * chunks + c, tl.min(tl.where(top == best, aux, vocab), 0))
    else:
        tl.store(part_aux + row * chunks + c, tl.sum(aux * tl.exp2(top - best), 0))


@triton.jit
def _weights(
    logits, draft_probs, b, n, v, draft, norm, vocab, length, scale, one_hot: tl.constexpr
):  # fmt: skip
    # What request b's last token is drawn from, at the tokens v: p after the last draft, else max(p - q, 0).
    x = tl.load(logits + (b * (length + 1) + n) * vocab + v, mask=v < vocab, other=float("-inf")).to(tl.float32)
    p = tl.exp2(x * scale - norm)
    if one_hot:
        return tl.where((v == draft) & (n < length), 0.0, p)
    end = tl.where(n < length, vocab, 0)
    q = tl.load(draft_probs + (b * length + n) * vocab + v, mask=v < end, other=0.0)
    return tl.maximum(p - q.to(tl.float32), 0.0)


@triton.jit(do_not_specialize=["length", "chunks", "scale"])
def accept(
    logits, drafts, draft_probs, coins, part_max, part_sum, sums, norms, accepted, vocab, length, chunks, scale,
    block: tl.constexpr, block_l: tl.constexpr, block_c: tl.constexpr, one_hot: tl.constexpr,
):  # fmt: skip
    # Every program repeats the acceptance of its request: a few parallel loads, cheaper than one more kernel.
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, block_l)
    cs = tl.arange(0, block_c)
    row = b * (length + 1) + i
    known = (i <= length)[:, None] & (cs < chunks)[None, :]
    tops = tl.load(part_max + row[:, None] * chunks + cs[None, :], mask=known, other=FLOOR)
    parts = tl.load(part_sum + row[:, None] * chunks + cs[None, :], mask=known, other=0.0)
    top = tl.max(tops, 1)
    total = tl.sum(parts * tl.exp2(tops - top[:, None]), 1)
    row_norm = tl.where(i <= length, top + tl.log2(tl.maximum(total, 1e-30)), 0.0)
    drafted = i < length
    d = tl.load(drafts + b * length + i, mask=drafted, other=0)
    p = tl.exp2(tl.load(logits + row * vocab + d, mask=drafted, other=0.0).to(tl.float32) * scale - row_norm)
    q = tl.full((block_l,), 1.0, tl.float32)
    if not one_hot:
        q = tl.load(draft_probs + (b * length + i) * vocab + d, mask=drafted, other=1.0).to(tl.float32)
    won = tl.load(coins + b * (length + 1) + i, mask=drafted, other=0.0) * q < p
    n = tl.min(tl.where(drafted & (won == 0), i, length), 0)
    norm = tl.sum(tl.where(i == n, row_norm, 0.0), 0)
    draft = tl.sum(tl.where(i == n, d, 0), 0)
    v = tl.program_id(1) * block + tl.arange(0, block)
    weight = _weights(logits, draft_probs, b, n, v, draft, norm, vocab, length, scale, one_hot)
    tl.store(sums + b * tl.num_programs(1) + tl.program_id(1), tl.sum(weight, 0))
    if tl.program_id(1) == 0:
        tl.store(accepted + b, n)
        tl.store(norms + b, norm)


@triton.jit(do_not_specialize=["length", "chunks", "scale"])
def draw(
    logits, drafts, draft_probs, coins, sums, norms, accepted, tokens, vocab, length, chunks, scale,
    block: tl.constexpr, block_l: tl.constexpr, block_c: tl.constexpr, one_hot: tl.constexpr,
):  # fmt: skip
    # Inverse transform: the chunk in which the running sum passes coin x total, then the token inside it.
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, block_l)
    c = tl.arange(0, block_c)
    n = tl.load(accepted + b)
    part = tl.load(sums + b * chunks + c, mask=c < chunks, other=0.0)
    goal = tl.load(coins + b * (length + 1) + length) * tl.sum(part, 0)
    upto = tl.cumsum(part, 0)
    chunk = tl.min(tl.where((upto > goal) & (part > 0), c, block_c), 0)
    chunk = tl.where(chunk < block_c, chunk, tl.max(tl.where(part > 0, c, 0), 0))  # rounding: the last one
    goal -= tl.sum(tl.where(c < chunk, part, 0.0), 0)
    v = chunk * block + tl.arange(0, block)
    draft = tl.load(drafts + b * length + n, mask=n < length, other=-1)
    weight = _weights(logits, draft_probs, b, n, v, draft, tl.load(norms + b), vocab, length, scale, one_hot)
    token = tl.min(tl.where((tl.cumsum(weight, 0) > goal) & (weight > 0), v, vocab), 0)
    token = tl.where(token < vocab, token, tl.max(tl.where(weight > 0, v, 0), 0))
    d = tl.load(drafts + b * length + i, mask=i < length, other=-1)
    tl.store(tokens + b * (length + 1) + i, tl.where(i < n, d, tl.where(i == n, token, -1)), mask=i <= length)


@triton.jit(do_not_specialize=["length", "chunks"])
def greedy_accept(
    drafts, part_max, part_arg, accepted, tokens, length, chunks, block_l: tl.constexpr, block_c: tl.constexpr
):  # fmt: skip
    b = tl.program_id(0)
    i = tl.arange(0, block_l)
    c = tl.arange(0, block_c)
    at = (b * (length + 1) + i)[:, None] * chunks + c[None, :]
    known = (i <= length)[:, None] & (c < chunks)[None, :]
    top = tl.load(part_max + at, mask=known, other=FLOOR)
    arg = tl.load(part_arg + at, mask=known, other=2**31 - 1)
    best = tl.min(tl.where(top == tl.max(top, 1)[:, None], arg, 2**31 - 1), 1)
    d = tl.load(drafts + b * length + i, mask=i < length, other=-1)
    n = tl.min(tl.where((i < length) & (d != best), i, length), 0)
    tl.store(accepted + b, n)
    tl.store(tokens + b * (length + 1) + i, tl.where(i < n, d, tl.where(i == n, best, -1)), mask=i <= length)
