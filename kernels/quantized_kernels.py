"""Products with 8- and 4-bit weights, and the programs of a MoE layer made of them; quantized.py launches them.

Weights are the M operand, as in moe_kernels.py; gate and up rows stand below each other in one operand. fp8 products
are promoted to fp32 every 128 inputs, times the scales of the weight block and of the token's group. mxfp4 weights are
widened to bf16 in the registers that wgmma takes its M operand from: they are stored so that a lane reads just what it
feeds wgmma, 16 bytes at once, and no number changes lanes.
"""

import triton
import triton.language as tl

from kernels.moe_kernels import _pairs_of, _place

E4M3_MAX = tl.constexpr(448.0)
BLOCK = tl.constexpr(128)  # of fp8 scales
UNIT = tl.constexpr(16)  # rows, and
CHUNK = tl.constexpr(64)  # inputs of a unit of mxfp4
# A word's eight codes s e e m, as formats.pack lays them, times factors of rows g ($9) and g + 8 ($10) in both halves.
# A half with s in bit 15 and e e m in bits 8 to 6, the lowest of bf16's exponent and the highest of its mantissa, is
# the code's value times 2^-126, subnormals included.
WIDEN = tl.constexpr("""{
.reg .b32 s, v;
and.b32 v, $8, 0x81c081c0; mul.rn.bf16x2 v, v, $9; mov.b32 {$0, $1}, v;
shl.b32 v, $8, 3; and.b32 v, v, 0x81c081c0; mul.rn.bf16x2 v, v, $10; mov.b32 {$2, $3}, v;
shl.b32 s, $8, 1; and.b32 s, s, 0x80008000; shl.b32 v, $8, 6; and.b32 v, v, 0x01c001c0; or.b32 v, v, s;
mul.rn.bf16x2 v, v, $9; mov.b32 {$4, $5}, v;
shl.b32 s, $8, 2; and.b32 s, s, 0x80008000; shr.u32 v, $8, 3; and.b32 v, v, 0x01c001c0; or.b32 v, v, s;
mul.rn.bf16x2 v, v, $10; mov.b32 {$6, $7}, v;
}""")

# Triton 3.6 splits a product whose M operand is in registers and keeps parts in flight over the end of a step, where
# the next step's numbers overwrite those registers (seen: NaN). A use of the result in the same step prevents both.
NOTHING = tl.constexpr("")


@triton.jit
def _to_fp8(v, axis: tl.constexpr, upcast: tl.constexpr):
    """v over one scale along *axis*, which becomes 1 wide, and the scale: the largest magnitude becomes 448."""
    largest = tl.max(tl.abs(v), axis, keep_dims=True)
    scale = tl.where(largest > 0, largest / E4M3_MAX, 1.0)
    v = v / scale
    if upcast:  # the interpreter's cast loses the carry of what rounds up to a power of two: round before it
        bits = v.to(tl.int32, bitcast=True)
        normal = ((bits + 0x7FFFF + (bits >> 20 & 1)) & -0x100000).to(tl.float32, bitcast=True)
        v = tl.where(tl.abs(v) < 2.0**-6, v + 1.5 * 2.0**14 - 1.5 * 2.0**14, normal)  # 3 bits; subnormals in 2^-9
    return v, scale


@triton.jit
def quantize(x, data, scales, depth, groups, block_g: tl.constexpr, upcast: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1) * block_g + tl.arange(0, block_g)
    k = g[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    v = tl.load(x + row * depth + k, mask=k < depth, other=0.0).to(tl.float32)
    v, scale = _to_fp8(v, 1, upcast)
    tl.store(data + row * depth + k, v.to(data.dtype.element_ty), mask=k < depth)
    tl.store(scales + row * groups + g[:, None], scale, mask=g[:, None] < groups)


@triton.jit
def _fp8_product(
    x, xs, w, ws, token, real, row, inside, scale_row, depth, block_n: tl.constexpr, block_m: tl.constexpr,
    even: tl.constexpr, upcast: tl.constexpr,
):  # fmt: skip
    """Weight rows [block_n] times tokens [block_m], fp32."""
    k = tl.arange(0, BLOCK)
    groups = tl.cdiv(depth, BLOCK)
    x_at = x + token[None, :] * depth + k[:, None]
    w_at = w + row[:, None] * depth + k[None, :]
    acc = tl.zeros((block_n, block_m), tl.float32)
    for g in range(groups):
        if even:
            wt = tl.load(w_at + g * BLOCK)
            xt = tl.load(x_at + g * BLOCK, mask=real[None, :], other=0.0)
        else:
            deep = g * BLOCK + k < depth
            wt = tl.load(w_at + g * BLOCK, mask=inside[:, None] & deep[None, :], other=0.0)
            xt = tl.load(x_at + g * BLOCK, mask=real[None, :] & deep[:, None], other=0.0)
        if upcast:
            wt = wt.to(tl.float32)
            xt = xt.to(tl.float32)
        of_weights = tl.load(ws + scale_row * groups + g, mask=inside, other=0.0)
        of_tokens = tl.load(xs + token * groups + g, mask=real, other=0.0)
        acc += tl.dot(wt, xt) * of_weights[:, None] * of_tokens[None, :]
    return acc


@triton.jit
def _e2m1(word, sign: tl.constexpr, magnitude: tl.constexpr):
    """The value of the code whose sign and other bits lie there, times 2^-126, in fp32."""
    code = word >> magnitude & 7
    exponent = code >> 1
    doubled = tl.where(exponent > 0, (2 + (code & 1)) << tl.maximum(exponent - 1, 0), code)
    return tl.where((word >> sign & 1) == 0, doubled, -doubled).to(tl.float32) * 2.0**-127


@triton.jit
def _powers(bits):
    """The power of two whose bf16 exponent stands in bits 7 to 14, in fp32."""
    return (bits << 16).to(tl.float32, bitcast=True)


@triton.jit
def widen(words, first, second, upcast: tl.constexpr):
    """Words of mxfp4 times the factors of their rows g and g + 8 -> eight numbers, in the order of formats.pack; the
    interpreter's way in fp32.
    """
    if upcast:
        low, high = _powers(first & 0xFFFF), _powers(second & 0xFFFF)
        a0 = _e2m1(words, 15, 6) * low
        a1 = _e2m1(words, 31, 22) * low
        b0 = _e2m1(words, 12, 3) * high
        b1 = _e2m1(words, 28, 19) * high
        c0 = _e2m1(words, 14, 0) * low
        c1 = _e2m1(words, 30, 16) * low
        d0 = _e2m1(words, 13, 9) * high
        d1 = _e2m1(words, 29, 25) * high
    else:
        a0, a1, b0, b1, c0, c1, d0, d1 = tl.inline_asm_elementwise(
            WIDEN, "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r", [words, first, second],
            dtype=(tl.bfloat16,) * 8, is_pure=True, pack=1,
        )  # fmt: skip
    return tl.join(tl.join(tl.join(a0, c0), tl.join(b0, d0)), tl.join(tl.join(a1, c1), tl.join(b1, d1)))  # h, r, p


@triton.jit
def _factors(scales, half: tl.constexpr):
    """Words [u, 1, 8] of scales -> the factors [u, step, 8, 4 c, 4 t] of rows g + 8 * half, bf16 in both halves."""
    low = (scales >> 8 * half & 255) * 0x00800080
    high = (scales >> 8 * half + 16 & 255) * 0x00800080
    both = tl.join(low, high)[:, :, :, None, :, None]
    u: tl.constexpr = both.shape[0]
    step: tl.constexpr = both.shape[1]
    return tl.reshape(tl.broadcast_to(both, (u, step, 8, 4, 2, 2)), (u, step, 8, 4, 4))


@triton.jit
def _mxfp4_product(
    x, w, ws, token, real, unit, depth, units: tl.constexpr, block_m: tl.constexpr, block_k: tl.constexpr,
    even: tl.constexpr, upcast: tl.constexpr,
):  # fmt: skip
    """Weight rows of *unit* [units] times tokens [block_m], fp32.

    Weights are read without masks, which cost instructions: where steps do not divide the depth, the last one starts
    early, and inputs that were counted before are zeros. block_k is at most the depth.
    """
    chunks = depth // CHUNK
    step: tl.constexpr = block_k // CHUNK
    k = tl.arange(0, block_k)
    x_at = x + token[None, :] * (chunks * CHUNK) + k[:, None]
    w_at = w + unit[:, None] * (chunks * 128) + tl.arange(0, step * 128)[None, :]
    s_at = ws + unit[:, None] * (chunks * 8) + tl.arange(0, step * 8)[None, :]
    acc = tl.zeros((units * UNIT, block_m), tl.float32)
    for c in range(0, chunks, step):
        if even:
            at = c
            new = real[None, :]
        else:
            at = tl.minimum(c, chunks - step)
            new = real[None, :] & (at + k // CHUNK >= c)[:, None]
        words = tl.load(w_at + at * 128)
        scales = tl.reshape(tl.load(s_at + at * 8), (units, step, 8))
        xt = tl.load(x_at + at * CHUNK, mask=new, other=0.0)
        wide = widen(
            tl.reshape(words, (units, step, 8, 4, 4)), _factors(scales, 0), _factors(scales, 1), upcast
        )  # u, step, g, c, t, h, r, p
        wide = tl.permute(wide, (0, 6, 2, 1, 4, 5, 3, 7))  # u r g, step t h c p
        if upcast:
            xt = xt.to(tl.float32)
        acc = tl.dot(tl.reshape(wide, (units * UNIT, block_k)), xt, acc)
        if not upcast:  # ends the product within its step: see NOTHING
            acc = tl.inline_asm_elementwise(NOTHING, "=f,0", [acc], dtype=tl.float32, is_pure=True, pack=1)
    return acc


@triton.jit(do_not_specialize=["tiles", "pairs", "topk"])
def gate_up_silu(
    x, xs, w, ws, y, ys, ids, tile_expert, tile_pairs, tiles, pairs, topk, hidden, inter, block_m: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr, block_p: tl.constexpr, group: tl.constexpr, even: tl.constexpr,
    fp4: tl.constexpr, upcast: tl.constexpr,
):  # fmt: skip
    tile, block = _place(tiles, tl.cdiv(inter, block_n), group)
    expert, pair = _pairs_of(tile, ids, tile_expert, tile_pairs, pairs, block_m, block_p)
    if expert < 0:
        return
    real = pair >= 0
    token = tl.where(real, pair, 0) // topk
    i = tl.arange(0, 2 * block_n)  # gate rows, then up rows
    n = block * block_n + i % block_n
    row = i // block_n * inter + n
    at = expert.to(tl.int64) * 2 * inter
    if fp4:
        units: tl.constexpr = block_n // UNIT
        u = tl.arange(0, 2 * units)
        within = tl.minimum(block * units + u % units, inter // UNIT - 1)  # rows beyond are not stored
        unit = at // UNIT + u // units * (inter // UNIT) + within
        acc = _mxfp4_product(x, w, ws, token, real, unit, hidden, 2 * units, block_m, block_k, even, upcast)
    else:
        w += at * hidden
        ws += expert.to(tl.int64) * 2 * tl.cdiv(inter, BLOCK) * tl.cdiv(hidden, BLOCK)
        scale_row = i // block_n * tl.cdiv(inter, BLOCK) + n // BLOCK
        acc = _fp8_product(
            x, xs, w, ws, token, real, row, n < inter, scale_row, hidden, 2 * block_n, block_m, even, upcast
        )  # fmt: skip
    gate, up = tl.split(tl.permute(tl.reshape(acc, (2, block_n, block_m)), (1, 2, 0)))
    act = gate / (1.0 + tl.exp(-gate)) * up
    n = block * block_n + tl.arange(0, block_n)
    pair = tl.where(real, pair, 0).to(tl.int64)
    if not fp4:
        tl.static_assert(block_n == BLOCK, "a program quantises one group of its tokens' channels")
        act, scale = _to_fp8(act, 0, upcast)
        tl.store(ys + pair[None, :] * tl.cdiv(inter, BLOCK) + block, scale, mask=real[None, :])
    tl.store(
        y + pair[None, :] * inter + n[:, None], act.to(y.dtype.element_ty), mask=real[None, :] & (n < inter)[:, None]
    )


@triton.jit(do_not_specialize=["tiles", "pairs"])
def down(
    y, ys, w, ws, weights, part, ids, tile_expert, tile_pairs, tiles, pairs, hidden, inter, block_m: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr, block_p: tl.constexpr, group: tl.constexpr, even: tl.constexpr,
    fp4: tl.constexpr, upcast: tl.constexpr,
):  # fmt: skip
    tile, block = _place(tiles, tl.cdiv(hidden, block_n), group)
    expert, pair = _pairs_of(tile, ids, tile_expert, tile_pairs, pairs, block_m, block_p)
    if expert < 0:
        return
    real = pair >= 0
    pair = tl.where(real, pair, 0).to(tl.int64)
    n = block * block_n + tl.arange(0, block_n)
    at = expert.to(tl.int64) * hidden
    if fp4:
        units: tl.constexpr = block_n // UNIT
        unit = at // UNIT + tl.minimum(block * units + tl.arange(0, units), hidden // UNIT - 1)
        acc = _mxfp4_product(y, w, ws, pair, real, unit, inter, units, block_m, block_k, even, upcast)
    else:
        w += at * inter
        ws += expert.to(tl.int64) * tl.cdiv(hidden, BLOCK) * tl.cdiv(inter, BLOCK)
        acc = _fp8_product(
            y, ys, w, ws, pair, real, n, n < hidden, n // BLOCK, inter, block_n, block_m, even, upcast
        )  # fmt: skip
    acc *= tl.load(weights + pair, mask=real, other=0.0)[None, :]
    at = part + pair[None, :] * hidden + n[:, None]
    tl.store(at, acc.to(part.dtype.element_ty), mask=real[None, :] & (n < hidden)[:, None])


@triton.jit(do_not_specialize=["tokens"])
def project(
    x, xs, w, ws, out, tokens, inputs, outputs, block_m: tl.constexpr, block_n: tl.constexpr, group: tl.constexpr,
    even: tl.constexpr, upcast: tl.constexpr,
):  # fmt: skip
    tile, block = _place(tl.cdiv(tokens, block_m), tl.cdiv(outputs, block_n), group)
    m = tile * block_m + tl.arange(0, block_m)
    token = tl.where(m < tokens, m, 0).to(tl.int64)
    n = block * block_n + tl.arange(0, block_n)
    acc = _fp8_product(
        x, xs, w, ws, token, m < tokens, n, n < outputs, n // BLOCK, inputs, block_n, block_m, even, upcast
    )  # fmt: skip
    at = out + token[None, :] * outputs + n[:, None]
    tl.store(at, acc.to(out.dtype.element_ty), mask=(m < tokens)[None, :] & (n < outputs)[:, None])
