"""A decoder layer composed of these kernels, MoE or dense, and a stack of them: the small model of the whole.

One layer is 10 to 16 launches, as in an engine: residual + norm, qkv, rope + cache write, attention (and its
combination), output projection, residual + norm, feed-forward. Weights are random; their values do not change the time.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kernels import dense, prefill_attention, verify_attention
from kernels._triton import cdiv
from kernels.moe import experts_mlp
from kernels.rope import rope_and_cache, rope_reference, rope_table
from kernels.routing import top_k
from kernels.shapes import Shape

PAGE = verify_attention.PAGE
ROPE_BASE = 1e6


@dataclass
class Rows:
    """Sequences that bring q_len new tokens each, counted in seq_lens [B] int32; block_table [B, pages] int32.

    *max_length* is the host's bound on seq_lens. A `prompt` is one sequence of exactly that length, its new tokens so
    many that prefill attention computes them.
    """

    q_len: int
    block_table: Tensor
    seq_lens: Tensor
    max_length: int
    prompt: bool = False

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return self.q_len * self.seq_lens.shape[0]


@dataclass
class Pass:
    """One forward: x, residual [T, H] hold the new tokens of all *rows*, in their order."""

    rows: list[Rows]
    angles: Tensor
    x: Tensor
    residual: Tensor | None = None


@dataclass
class Cache:
    """Pages for *batch* sequences of up to *length* tokens: block_table [B, pages] and the rotary table."""

    batch: int
    length: int
    head_dim: int
    device: str = "cuda"
    block_table: Tensor = field(init=False)
    angles: Tensor = field(init=False)

    def __post_init__(self) -> None:
        per = cdiv(self.length, PAGE)
        self.pages = self.batch * per
        self.block_table = torch.randperm(self.pages, device=self.device).view(self.batch, per).to(torch.int32)
        self.angles = rope_table(self.length, self.head_dim, ROPE_BASE, self.device)


def random_weight(*size: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> Tensor:
    """Normal values whose products keep the input's scale."""
    return torch.empty(size, dtype=dtype, device=device).normal_(std=size[-1] ** -0.5)


class Layer:
    """Weights, KV cache and forward of one decoder layer of *shape*."""

    def __init__(self, shape: Shape, pages: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> None:
        def weight(*size: int) -> Tensor:
            return random_weight(*size, dtype=dtype, device=device)

        s, self.shape = shape, shape
        self.qkv, self.o = weight(s.qkv, s.hidden), weight(s.hidden, s.heads * s.head_dim)
        self.bias = weight(s.qkv) if s.qkv_bias else None
        self.norm_1, self.norm_2 = 1 + weight(s.hidden), 1 + weight(s.hidden)
        self.qk_norms = (1 + weight(s.head_dim), 1 + weight(s.head_dim)) if s.qk_norm else None
        self.k_cache = torch.empty((pages, s.kv_heads, PAGE, s.head_dim), dtype=dtype, device=device).normal_()
        self.v_cache = torch.empty_like(self.k_cache).normal_()
        self.expert_ids: Tensor | None = None  # [T or more, topk] int32: take the router's place, which still runs
        self.routed: Tensor | None = None  # [T or more, topk] int32: where the router's own choice is noted
        width = s.shared_intermediate if s.experts else s.intermediate
        if width:
            self.gate_up, self.down = weight(2 * width, s.hidden), weight(s.hidden, width)
        if s.experts:
            self.router = weight(s.experts, s.hidden)
            self.experts_gate_up = weight(s.experts, 2 * s.expert_intermediate, s.hidden)
            self.experts_down = weight(s.experts, s.hidden, s.expert_intermediate)
            self.shared_gate = weight(1, s.hidden) if s.shared_gate else None

    def mlp(self, y: Tensor) -> Tensor:
        """The dense feed-forward, or the shared expert."""
        return dense.project(dense.silu_mul(dense.project(y, self.gate_up)), self.down)

    def feed_forward(self, y: Tensor) -> Tensor:
        """y [T, H] -> [T, H]: dense, or routed experts plus the shared one."""
        s = self.shape
        if not s.experts:
            return self.mlp(y)
        routed = dense.project(y, self.router)
        weights, ids = top_k(routed, s.topk, s.renormalise)
        if self.routed is not None:
            self.routed[: len(y)] = ids
        if self.expert_ids is not None:
            ids = self.expert_ids[: len(y)]
        shared = self.mlp(y) if s.shared_intermediate else None
        gate = dense.project(y, self.shared_gate) if self.shared_gate is not None else None
        return experts_mlp(y, self.experts_gate_up, self.experts_down, weights, ids, shared=shared, shared_gate=gate)

    def attention(self, qkv: Tensor, p: Pass) -> Tensor:
        """qkv [T, (heads + 2 kv) D] -> [T, heads D], rows after rows; new keys and values go to the cache."""
        s, k_cache, v_cache = self.shape, self.k_cache, self.v_cache
        out = qkv.new_empty((len(qkv), s.heads * s.head_dim))
        sizes = [rows.tokens for rows in p.rows]
        for rows, new, to in zip(p.rows, qkv.split(sizes), out.split(sizes), strict=True):
            table, lens = rows.block_table, rows.seq_lens
            q = rope_and_cache(new, p.angles, table, lens, k_cache, v_cache, rows.q_len, s.heads, self.qk_norms)
            to = to.view(q.shape)
            if rows.prompt:
                to[0] = prefill_attention.attend_pages(q[0], k_cache, v_cache, table[0], rows.max_length)
            else:
                verify_attention.attend(q, k_cache, v_cache, table, lens, rows.max_length, out=to)
        return out

    def __call__(self, p: Pass) -> None:
        """Advance p.x and p.residual by this layer; new keys and values go to its cache."""
        y = dense.add_rms_norm(p.x, p.residual, self.norm_1)
        p.residual = p.x if p.residual is None else p.residual
        o = dense.project(self.attention(dense.project(y, self.qkv, self.bias), p), self.o)
        p.x = self.feed_forward(dense.add_rms_norm(o, p.residual, self.norm_2))

    def reference(self, x: Tensor) -> Tensor:
        """One sequence x [T, H] from position 0, in plain float64 torch without a cache: x plus the layer's output."""
        s, tokens = self.shape, len(x)
        x = x.double()
        y = dense.rms_norm_reference(x, self.norm_1)
        qkv = y @ self.qkv.double().T + (self.bias.double() if self.bias is not None else 0)
        q, k, v = torch.split(qkv.view(tokens, -1, s.head_dim), [s.heads, s.kv_heads, s.kv_heads], dim=1)
        if self.qk_norms is not None:
            q, k = (dense.rms_norm_reference(t, w) for t, w in zip((q, k), self.qk_norms, strict=True))
        at = torch.arange(tokens, device=x.device)
        q, k = rope_reference(q, at, ROPE_BASE), rope_reference(k, at, ROPE_BASE)
        k, v = (t.repeat_interleave(s.group, dim=1) for t in (k, v))
        score = torch.einsum("thd,uhd->htu", q, k) / s.head_dim**0.5
        score = score.masked_fill(at[None, :] > at[:, None], float("-inf")).softmax(-1)
        x = x + torch.einsum("htu,uhd->thd", score, v).reshape(tokens, -1) @ self.o.double().T
        return x + self._feed_forward_reference(dense.rms_norm_reference(x, self.norm_2))

    def _feed_forward_reference(self, y: Tensor) -> Tensor:
        from kernels import moe, routing

        s = self.shape
        out = torch.zeros_like(y)
        if s.experts:
            weights, ids = routing.reference(y @ self.router.double().T, s.topk, s.renormalise)
            out = moe.reference(y, self.experts_gate_up, self.experts_down, weights, ids)
        if s.shared_intermediate or not s.experts:
            extra = dense.silu_mul_reference(y @ self.gate_up.double().T) @ self.down.double().T
            if s.experts and self.shared_gate is not None:
                extra = extra * torch.sigmoid(y @ self.shared_gate.double().T)
            out = out + extra
        return out


class Stack:
    """*layers* layers over *batch* sequences of *context* tokens, q_len of them new: a step without lm_head."""

    def __init__(
        self, shape: Shape, layers: int, batch: int, q_len: int, context: int, dtype: torch.dtype = torch.bfloat16,
        device: str = "cuda",
    ) -> None:  # fmt: skip
        self.cache = Cache(batch, context, shape.head_dim, device)
        self.layers = [Layer(shape, self.cache.pages, dtype, device) for _ in range(layers)]
        self.set_pass(batch, q_len, context, shape.hidden, dtype)

    def set_pass(self, batch: int, q_len: int, context: int, hidden: int, dtype: torch.dtype = torch.bfloat16) -> None:
        """What the next calls run over."""
        device = self.cache.device
        lens = torch.full((batch,), context, dtype=torch.int32, device=device)
        x = torch.empty((batch * q_len, hidden), dtype=dtype, device=device).normal_()
        self.input = Pass([Rows(q_len, self.cache.block_table, lens, context)], self.cache.angles, x, x.clone())

    def __call__(self) -> Tensor:
        """One forward through every layer; the input stays as it was, the residual accumulates."""
        p = replace(self.input)
        for layer in self.layers:
            layer(p)
        return p.x
