"""Products with 8- and 4-bit weights, and the programs of a MoE layer made of them; quantized.py launches them.

Weights are the M operand, as in moe_kernels.py; gate and up rows stand below each other in one operand. fp8 products
are promoted to fp32 every 128 inputs, times the scales of the weight block and of the token's group. mxfp4 weights are
widened to bf16 in registers, where wgmma takes its M operand from.
"""

import triton
import triton.language as tl

from kernels.moe_kernels import _pairs_of, _place

E4M3_MAX = tl.constexpr(448.0)
BLOCK = tl.constexpr(128)  # of fp8 scales
GROUP = tl.constexpr(32)  # inputs of an mxfp4 scale
CHUNK = tl.constexpr(64)  # inputs in 32 bytes of mxfp4
# Four bytes hold eight codes s e e m. A 16-bit lane with s in bit 15 and e e m in bits 8 to 6, the lowest of bf16's
# exponent and the highest of its mantissa, is the code's value times 2^-126, subnormals included. Each byte gives the
# number in its own place, $0 and $1 from low nibbles, $2 and $3 from high ones: the four bytes that the compiler packs
# need not be neighbours. So bytes 1 and 2 change places first, and lanes widen where they are.
WIDEN = tl.constexpr("""{
.reg .b32 t, s, v;
prmt.b32 t, $4, 0, 0x3120;
shl.b32 s, t, 12; and.b32 s, s, 0x80008000; shl.b32 v, t, 6; and.b32 v, v, 0x01c001c0; or.b32 $0, s, v;
shl.b32 s, t, 4;  and.b32 s, s, 0x80008000; shr.u32 v, t, 2; and.b32 v, v, 0x01c001c0; or.b32 $1, s, v;
shl.b32 s, t, 8;  and.b32 s, s, 0x80008000; shl.b32 v, t, 2; and.b32 v, v, 0x01c001c0; or.b32 $2, s, v;
                  and.b32 s, t, 0x80008000; shr.u32 v, t, 6; and.b32 v, v, 0x01c001c0; or.b32 $3, s, v;
}""")


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
def _e2m1(code):
    """The value of a code times 2^-126, in fp32."""
    exponent = code >> 1 & 3
    doubled = tl.where(exponent > 0, (2 + (code & 1)) << tl.maximum(exponent - 1, 0), code & 1)
    return tl.where(code < 8, doubled, -doubled).to(tl.float32) * 2.0**-127


@triton.jit
def widen(w, upcast: tl.constexpr):
    """The low and the high nibbles of bytes [n, j], in bf16 and times 2^-126; the interpreter's way in fp32."""
    if upcast:
        codes = w.to(tl.int32)
        low = _e2m1(codes & 15)
        high = _e2m1(codes >> 4)
    else:
        low, high = tl.inline_asm_elementwise(
            WIDEN, "=r,=r,=r,=r,r", [w], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    return low, high


@triton.jit
def _times_scales(w, stored, upcast: tl.constexpr):
    """w [n, 32 g] times the powers of two that bytes [n, g] store, and times 2^126."""
    n: tl.constexpr = w.shape[0]
    g: tl.constexpr = stored.shape[1]
    factor = ((stored.to(tl.int16) + 126) << 7).to(tl.bfloat16, bitcast=True)
    if upcast:
        factor = factor.to(tl.float32)
    return tl.reshape(tl.reshape(w, (n, g, GROUP)) * factor[:, :, None], (n, g * GROUP))


@triton.jit
def _mxfp4_product(
    x, w, ws, token, real, row, inside, scale_at, rows, depth, block_n: tl.constexpr, block_m: tl.constexpr,
    block_k: tl.constexpr, even: tl.constexpr, upcast: tl.constexpr,
):  # fmt: skip
    """Weight rows [block_n] times tokens [block_m], fp32; a row's scales lie at *scale_at*, *rows* apart.

    The loop counts chunks of 32 bytes, which tells the compiler how rows are aligned. A chunk's low nibbles meet its
    first 32 inputs, the high ones the others, each in a product of its own.
    """
    chunks = depth // CHUNK
    step: tl.constexpr = block_k // CHUNK
    j = tl.arange(0, step * GROUP)
    g = tl.arange(0, 2 * step)
    x_at = x + token[None, :] * (chunks * CHUNK) + (j // GROUP * CHUNK + j % GROUP)[:, None]
    w_at = w + row[:, None] * (chunks * GROUP) + j[None, :]
    s_at = ws + scale_at[:, None] + g[None, :] * rows
    acc = tl.zeros((block_n, block_m), tl.float32)
    for c in range(0, chunks, step):
        if even:
            wt = tl.load(w_at + c * GROUP)
            st = tl.load(s_at + 2 * c * rows)
            x_low = tl.load(x_at + c * CHUNK, mask=real[None, :], other=0.0)
            x_high = tl.load(x_at + c * CHUNK + GROUP, mask=real[None, :], other=0.0)
        else:
            deep = c + j // GROUP < chunks
            wt = tl.load(w_at + c * GROUP, mask=inside[:, None] & deep[None, :], other=0)
            st = tl.load(s_at + 2 * c * rows, mask=inside[:, None] & (c + g // 2 < chunks)[None, :], other=0)
            x_low = tl.load(x_at + c * CHUNK, mask=real[None, :] & deep[:, None], other=0.0)
            x_high = tl.load(x_at + c * CHUNK + GROUP, mask=real[None, :] & deep[:, None], other=0.0)
        low, high = widen(wt, upcast)
        s_low, s_high = tl.split(tl.reshape(st, (block_n, step, 2)))
        if upcast:
            x_low = x_low.to(tl.float32)
            x_high = x_high.to(tl.float32)
        acc = tl.dot(_times_scales(low, s_low, upcast), x_low, acc)
        acc = tl.dot(_times_scales(high, s_high, upcast), x_high, acc)
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
        w += at * (hidden // CHUNK * GROUP)
        ws += at * (hidden // CHUNK * 2)
        scale_at = i // block_n * (hidden // CHUNK * 2 * inter) + n
        acc = _mxfp4_product(
            x, w, ws, token, real, row, n < inter, scale_at, inter, hidden, 2 * block_n, block_m, block_k, even, upcast
        )  # fmt: skip
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
        w += at * (inter // CHUNK * GROUP)
        ws += at * (inter // CHUNK * 2)
        acc = _mxfp4_product(
            y, w, ws, pair, real, n, n < hidden, n, hidden, inter, block_n, block_m, block_k, even, upcast
        )  # fmt: skip
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
