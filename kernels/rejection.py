"""Rejection sampling of draft tokens (Leviathan et al. 2023): accept d with probability min(1, p(d) / q(d)), stop at
the first rejection and draw from max(p - q, 0), or from p after the last draft when all were accepted.

One online pass over the vocabulary gives each target row's maximum and sum; p(d) needs no other read. Only the one row
per request that supplies a token is read again, for an inverse-transform draw. Without draft probabilities the draft is
greedy: q is 1 at the draft token. The greedy variant compares the target's argmax instead.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels._triton import SMS, cdiv, power_of_2
from kernels.rejection_kernels import accept, draw, greedy_accept, row_stats

LOG2E = 1.4426950408889634
DEEP, WIDE = 4, 2048  # elements of a pass of row_stats
CHUNK = 4096  # tokens of one program of the last draw


class Sampled(NamedTuple):
    """`tokens` [B, K + 1] int32: the accepted drafts, one token more, then -1; `accepted` [B] int32."""

    tokens: Tensor
    accepted: Tensor


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Target probabilities in float64."""
    return (logits.double() / temperature).softmax(-1)


def reference(
    logits: Tensor, drafts: Tensor, coins: Tensor, draft_probs: Tensor | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Accepted counts [B], and the float64 distribution [B, V] that each request's last token is drawn from."""
    p = probabilities(logits, temperature)
    batch, length = drafts.shape
    accepted = torch.zeros(batch, dtype=torch.int32, device=logits.device)
    law = torch.zeros_like(p[:, 0])
    for b in range(batch):
        n = 0
        while n < length:
            d = int(drafts[b, n])
            q = 1.0 if draft_probs is None else float(draft_probs[b, n, d])
            if float(coins[b, n]) * q >= float(p[b, n, d]):
                break
            n += 1
        accepted[b] = n
        row = p[b, n].clone()
        if n < length and draft_probs is None:
            row[int(drafts[b, n])] = 0
        elif n < length and draft_probs is not None:
            row = (row - draft_probs[b, n].double()).clamp_min(0)
        law[b] = row / row.sum()
    return accepted, law


def sample(
    logits: Tensor, drafts: Tensor, coins: Tensor | None = None, draft_probs: Tensor | None = None, *,
    temperature: float = 1.0,
) -> Sampled:  # fmt: skip
    """logits [B, K + 1, V], drafts [B, K] int32, draft_probs [B, K, V] or None (greedy draft) -> tokens and counts.

    *coins* [B, K + 1] fp32 in [0, 1) decide the K acceptances and draw the last token; None compares argmaxes instead.
    """
    batch, rows, vocab = logits.shape
    chunks = max(1, min(cdiv(vocab, DEEP * WIDE), cdiv(4 * SMS, batch * rows)))  # about four programs per SM
    width = cdiv(cdiv(vocab, chunks), DEEP * WIDE) * DEEP * WIDE
    chunks = cdiv(vocab, width)
    scale = LOG2E / temperature
    fp32 = logits.new_empty((batch * rows * chunks + batch,), dtype=torch.float32)
    part_max, norms = fp32[:-batch], fp32[-batch:]
    part_aux = torch.empty_like(part_max, dtype=torch.int32 if coins is None else torch.float32)
    accepted = torch.empty((batch,), device=logits.device, dtype=torch.int32)
    tokens = torch.empty((batch, rows), device=logits.device, dtype=torch.int32)
    row_stats[(batch * rows, chunks)](
        logits, part_max, part_aux, vocab, chunks, width, scale, DEEP, WIDE, coins is None, num_warps=8
    )
    block_l, block_c = power_of_2(rows), power_of_2(chunks)
    if coins is None:
        greedy_accept[(batch,)](
            drafts, part_max, part_aux, accepted, tokens, rows - 1, chunks, block_l, block_c, num_warps=1
        )
        return Sampled(tokens, accepted)
    one_hot, count = draft_probs is None, cdiv(vocab, CHUNK)
    q = drafts if draft_probs is None else draft_probs
    sums = torch.empty((batch, count), device=logits.device, dtype=torch.float32)
    accept[(batch, count)](
        logits, drafts, q, coins, part_max, part_aux, sums, norms, accepted, vocab, rows - 1, chunks, scale,
        CHUNK, block_l, block_c, one_hot, num_warps=8,
    )  # fmt: skip
    draw[(batch,)](
        logits, drafts, q, coins, sums, norms, accepted, tokens, vocab, rows - 1, count, scale,
        CHUNK, block_l, power_of_2(count), one_hot, num_warps=8,
    )  # fmt: skip
    return Sampled(tokens, accepted)


def bytes_moved(
    batch: int, length: int, vocab: int, *, greedy: bool = False, draft_probs: bool = False, itemsize: int = 2
) -> int:
    """Every target row once; unless greedy one row per request again, and its draft probabilities (fp32) if any."""
    again = 0 if greedy else batch * vocab * (itemsize + (4 if draft_probs else 0))
    return batch * (length + 1) * vocab * itemsize + again


def flops(batch: int, length: int, vocab: int) -> int:
    """Scale, exponential, comparison and sum of every target logit."""
    return 4 * batch * (length + 1) * vocab
