"""Drafts: a small dense decoder and an EAGLE-style one-layer head. A draft's K steps are one CUDA graph, as launches
would dominate them.

The first pass runs over the rows just verified (q_len of them per sequence, their keys and values enter the draft's
cache), then K - 1 passes over one token each. Next tokens are greedy.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding

from kernels import dense
from kernels.layer import Cache, Layer, Pass, random_weight
from kernels.rejection import sample
from kernels.shapes import Shape


def greedy(logits: Tensor) -> Tensor:
    """The most likely token of each row of logits [B, V], int32 [B, 1]."""
    none = torch.empty((len(logits), 0), dtype=torch.int32, device=logits.device)
    return sample(logits[:, None, :], none).tokens


class Decoder:
    """A dense decoder with its own cache for *batch* sequences of up to *length* tokens; lm_head is the embedding."""

    def __init__(
        self, shape: Shape, batch: int, length: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda"
    ) -> None:
        self.shape = shape
        self.cache = Cache(batch, length, shape.head_dim, device)
        self.embed = random_weight(shape.vocab, shape.hidden, dtype=dtype, device=device)
        self.norm = 1 + random_weight(shape.hidden, dtype=dtype, device=device)
        self.layers = [Layer(shape, self.cache.pages, dtype, device) for _ in range(shape.layers)]

    def input(self, tokens: Tensor, _hidden: Tensor | None) -> Tensor:
        """What enters the first layer: [B * q_len, H]."""
        return embedding(tokens.flatten(), self.embed)

    def forward(self, tokens: Tensor, seq_lens: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens [B, q_len] ending at seq_lens [B]: logits [B, V] after the last, and its hidden state [B, 1, H]."""
        batch, q_len = tokens.shape
        c, x = self.cache, self.input(tokens, hidden)
        p = Pass(batch, q_len, c.block_table, seq_lens, c.length, c.angles, x)
        for layer in self.layers:
            layer(p)
        if p.residual is None:
            raise ValueError("a decoder needs a layer")
        x, residual = (t.view(batch, q_len, -1)[:, -1].contiguous() for t in (p.x, p.residual))
        y = dense.add_rms_norm(x, residual, self.norm)
        return dense.project(y, self.head()), residual[:, None]

    def head(self) -> Tensor:
        """lm_head weight [V, H]."""
        return self.embed

    def propose(self, tokens: Tensor, seq_lens: Tensor, steps: int, hidden: Tensor | None = None) -> Tensor:
        """*steps* greedy tokens [B, steps] int32 after tokens [B, q_len], which end at position seq_lens - 1."""
        lens = seq_lens.clone()
        out = []
        for step in range(steps):
            logits, hidden = self.forward(tokens, lens, hidden)
            tokens = greedy(logits)
            out.append(tokens)
            if step + 1 < steps:
                lens += 1
        return torch.cat(out, dim=1)

    def reference(self, tokens: Tensor) -> Tensor:
        """Logits [V] in float64 after the sequence tokens [T], computed anew without a cache."""
        x = embedding(tokens, self.embed)
        for layer in self.layers:
            x = layer.reference(x)
        return dense.rms_norm_reference(x[-1], self.norm) @ self.head().double().T


class EagleHead(Decoder):
    """One layer that continues the target's own hidden states: a projection of (embedding, hidden) enters it.

    The embedding is the target's; the lm_head may have a reduced vocabulary (EAGLE-3): the first ids.
    """

    def __init__(
        self, shape: Shape, batch: int, length: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda"
    ) -> None:
        super().__init__(shape, batch, length, dtype, device)
        self.fuse = random_weight(shape.hidden, 2 * shape.hidden, dtype=dtype, device=device)
        self.lm_head = random_weight(shape.vocab, shape.hidden, dtype=dtype, device=device)

    def input(self, tokens: Tensor, hidden: Tensor | None) -> Tensor:
        """Projection of the tokens' embeddings beside the hidden states [B, q_len, H] that preceded them."""
        if hidden is None:
            raise ValueError("an EAGLE head needs the target's hidden states")
        embedded = embedding(tokens.flatten(), self.embed)
        return dense.project(torch.cat([embedded, hidden.reshape(embedded.shape)], dim=1), self.fuse)

    def head(self) -> Tensor:
        """lm_head weight [V, H]."""
        return self.lm_head


class CapturedDraft:
    """`propose` of a fixed batch, q_len and number of steps, captured once: call with new tokens and lengths."""

    def __init__(self, draft: Decoder, batch: int, q_len: int, steps: int) -> None:
        device, dtype = draft.embed.device, draft.embed.dtype
        self.tokens = torch.zeros((batch, q_len), dtype=torch.int32, device=device)
        self.seq_lens = torch.full((batch,), q_len, dtype=torch.int32, device=device)
        self.hidden = torch.zeros((batch, q_len, draft.shape.hidden), dtype=dtype, device=device)
        draft.propose(self.tokens, self.seq_lens, steps, self.hidden)  # compiles outside the capture
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = draft.propose(self.tokens, self.seq_lens, steps, self.hidden)

    def __call__(self, tokens: Tensor, seq_lens: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Drafts [B, steps]; the tensor is overwritten by the next call."""
        self.tokens.copy_(tokens)
        self.seq_lens.copy_(seq_lens)
        if hidden is not None:
            self.hidden.copy_(hidden)
        self.graph.replay()
        return self.out
