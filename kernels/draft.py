"""Decoders: a target, or a small dense draft, and an EAGLE-style one-layer head.

A draft's first pass runs over the rows just verified (q_len of them per sequence, their keys and values enter the
draft's cache), then K - 1 passes over one token each. Next tokens are greedy. Launches would dominate a draft's steps:
capture them in one CUDA graph.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import embedding

from kernels import dense
from kernels.layer import ROPE_BASE, Layer, Pass, Rows, random_weight
from kernels.rejection import sample
from kernels.rope import rope_table
from kernels.shapes import Shape

ALL = slice(None)


def greedy(logits: Tensor) -> Tensor:
    """The most likely token of each row of logits [B, V], int32 [B, 1]."""
    none = torch.empty((len(logits), 0), dtype=torch.int32, device=logits.device)
    return sample(logits[:, None, :], none).tokens


class Decoder:
    """Embedding, layers and head over *pages* KV pages, which the callers' block tables share out among sequences of
    up to *length* tokens.
    """

    def __init__(
        self, shape: Shape, pages: int, length: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda"
    ) -> None:
        s, self.shape = shape, shape
        self.angles = rope_table(length, s.head_dim, ROPE_BASE, device)
        self.embed = random_weight(s.vocab, s.hidden, dtype=dtype, device=device)
        self.norm = 1 + random_weight(s.hidden, dtype=dtype, device=device)
        self.lm_head = self.embed if s.tied else random_weight(s.vocab, s.hidden, dtype=dtype, device=device)
        self.layers = [Layer(s, pages, dtype, device) for _ in range(s.layers)]

    def input(self, tokens: Tensor, _hidden: Tensor | None) -> Tensor:
        """What enters the first layer: [T, H]."""
        return embedding(tokens.flatten(), self.embed)

    def states(
        self, tokens: Tensor, rows: list[Rows], hidden: Tensor | None = None, depth: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The last layer's branch and residual [T, H] of the new tokens of *rows*, [T] in their order.

        Only the first *depth* layers run if it is given: enough to compile every kernel.
        """
        p = Pass(rows, self.angles, self.input(tokens, hidden))
        for layer in self.layers[:depth]:
            layer(p)
        if p.residual is None:
            raise ValueError("a decoder needs a layer")
        return p.x, p.residual

    def forward(
        self, tokens: Tensor, rows: list[Rows], at: slice | Tensor = ALL, hidden: Tensor | None = None,
        depth: int | None = None, out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Logits [n, V] after the positions *at* of tokens [T], into *out* if given, and hidden states [n, H] there."""
        x, residual = (t[at].contiguous() for t in self.states(tokens, rows, hidden, depth))
        y = dense.add_rms_norm(x, residual, self.norm)
        return dense.project(y, self.lm_head, out=out), residual

    def propose(
        self, tokens: Tensor, rows: list[Rows], steps: int, hidden: Tensor | None = None,
        at: slice | Tensor | None = None, then: Rows | None = None, depth: int | None = None,
    ) -> Tensor:  # fmt: skip
        """*steps* greedy tokens [R, steps] int32 after the positions *at* of tokens [T].

        *then* are the R sequences with their lengths up to there. By default: those of the first *rows*, each from its
        last token on.
        """
        first = rows[0]
        at = slice(first.q_len - 1, None, first.q_len) if at is None else at
        then = replace(first if then is None else then, q_len=1, prompt=False)
        then = replace(then, seq_lens=then.seq_lens.clone())
        out: list[Tensor] = []
        for step in range(steps):
            logits, hidden = self.forward(tokens, rows, at, hidden, depth)
            out.append(greedy(logits))
            if step + 1 < steps:
                then.seq_lens += 1
                tokens, rows, at = out[-1], [then], ALL
        return torch.cat(out, dim=1)

    def reference(self, tokens: Tensor) -> Tensor:
        """Logits [V] in float64 after the sequence tokens [T], computed anew without a cache."""
        x = embedding(tokens, self.embed)
        for layer in self.layers:
            x = layer.reference(x)
        return dense.rms_norm_reference(x[-1], self.norm) @ self.lm_head.double().T


class EagleHead(Decoder):
    """One layer that continues the target's own hidden states: a projection of (embedding, hidden) enters it.

    The embedding is the target's; the lm_head may have a reduced vocabulary (EAGLE-3): the first ids.
    """

    def __init__(
        self, shape: Shape, pages: int, length: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda"
    ) -> None:
        super().__init__(shape, pages, length, dtype, device)
        self.fuse = random_weight(shape.hidden, 2 * shape.hidden, dtype=dtype, device=device)

    def input(self, tokens: Tensor, hidden: Tensor | None) -> Tensor:
        """Projection of the tokens' embeddings beside the hidden states [T, H] that preceded them."""
        if hidden is None:
            raise ValueError("an EAGLE head needs the target's hidden states")
        embedded = embedding(tokens.flatten(), self.embed)
        return dense.project(torch.cat([embedded, hidden.reshape(embedded.shape)], dim=1), self.fuse)
