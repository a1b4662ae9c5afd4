"""Every kernel against its float64 reference on fresh random inputs, torch's uninitialised memory poisoned first.

`python -m kernels.check` prints ||out - ref|| / ||ref|| of each case and exits 1 when one is over 1e-2 or wrong.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from kernels import configs
from kernels.numerics import (
    check_attention,
    check_decoder,
    check_dense,
    check_fp8_product,
    check_graph,
    check_latent,
    check_moe,
    check_prefill,
    check_rejection,
    check_tiles,
    poisoned_memory,
)  # fmt: skip
from kernels.shapes import SHAPES, Shape

LIMIT = 1e-2
CANDIDATES_OF = ("qwen3-30b-a3b", "deepseek-v2-lite", "deepseek-v3", "gpt-oss-120b")
Check = tuple[str, Callable[[], float]]


def cases(device: str = "cuda") -> Iterator[Check]:
    """Every check of a GPU run; several minutes of them would be compilation, were shapes not shared."""
    for t, e, k, m, d in (
        (1, 128, 8, 16, None), (7, 8, 2, 16, None), (16, 128, 8, 16, None), (33, 60, 4, 16, None), (300, 64, 8, 32, 8),
        (1000, 8, 2, 128, None), (8192, 128, 8, 128, None),
    ):  # fmt: skip
        yield f"tiles T={t} E={e} k={k} block_m={m} distinct={d}", partial(check_tiles, t, e, k, m, d, device)
    moes = [s if s.expert_format == "bf16" else replace(s, experts=16) for s in SHAPES.values() if s.experts]
    for s in moes:
        for t in (1, 3, 16, 65, 300, 1100):
            yield f"moe {s.name} T={t}", partial(check_moe, s, t, device)
        yield f"moe {s.name} T=65 one hot set", partial(check_moe, s, 65, device, s.topk)
        yield f"moe {s.name} T=300 skewed", partial(check_moe, s, 300, device, None, "skewed")
    for s in (s for s in moes if s.name in CANDIDATES_OF):
        for m, t in ((16, 20), (32, 200), (64, 500), (128, 1100)):
            if m not in configs.GATE_UP[s.expert_format]:
                continue
            ups, downs = (configs.candidates(c, s.expert_format, m, t > m) for c in (configs.GATE_UP, configs.DOWN))
            for i in range(max(len(ups), len(downs))):
                config = configs.Moe(ups[i % len(ups)], downs[i % len(downs)])
                yield (
                    f"moe {s.name} T={t} candidates {i} of block_m {m}",
                    partial(check_moe, s, t, device, config=config),
                )
    lengths = [1, 4, 15, 16, 17, 64, 65, 1000, 4097]
    for h, kv, d in sorted({(s.heads, s.kv_heads, s.head_dim) for s in SHAPES.values() if not s.latent_rank}):
        for q_len in (*range(1, 10), 16):
            splits = (None, 1, 7)[q_len % 3]
            name = f"attention {h}/{kv}x{d} q_len={q_len} splits={splits}"
            yield name, partial(check_attention, h, kv, d, q_len, lengths, device, splits)
    for h in (16, 128):
        for q_len in range(1, 10):
            splits = (None, 1, 7)[q_len % 3]
            name = f"latent attention {h} q_len={q_len} splits={splits}"
            yield name, partial(check_latent, h, 512, 64, q_len, lengths, device, splits)
    for t, n, m in ((1, 7168, 2112), (37, 2048, 7168), (300, 1000, 200)):
        yield f"fp8 product {n}x{m} T={t}", partial(check_fp8_product, t, n, m, device)
    for b, k, v in ((1, 1, 32000), (5, 4, 151936), (64, 8, 32000), (300, 3, 5003)):
        for probs in (False, True):
            yield f"rejection B={b} K={k} V={v} draft_probs={probs}", partial(check_rejection, b, k, v, device, probs)
    for s in (s for s in SHAPES.values() if not s.latent_rank):
        yield f"norm, silu, rope {s.name}", partial(check_dense, s, 37, device)
    yield "prefill 512 after 1000", partial(check_prefill, SHAPES["qwen3-30b-a3b"], 512, 1000, device)
    yield "prefill 300 after 0", partial(check_prefill, SHAPES["qwen2-0.5b"], 300, 0, device)
    dense_shape = Shape("tiny", 256, 2, 8, 2, 64, 1000, intermediate=512, qkv_bias=True)
    sparse = replace(
        dense_shape, name="tiny-moe", experts=16, topk=4, expert_intermediate=128, shared_intermediate=256, qk_norm=True
    )
    yield "decoder, dense", partial(check_decoder, dense_shape, device)
    yield "decoder, MoE", partial(check_decoder, sparse, device)
    yield "captured proposal", partial(check_graph, dense_shape, device)


def main() -> None:
    """Run every check; the failures are repeated last."""
    torch.manual_seed(torch.seed() % 2**31)
    failed, worst = [], 0.0
    with poisoned_memory():
        for name, check in cases():
            error = check()
            worst = max(worst, error if error <= LIMIT else 0.0)
            line = f"{'ok  ' if error <= LIMIT else 'FAIL'} {error:9.2e} {name}"
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            failed += [] if error <= LIMIT else [line]
    sys.stdout.write("\n".join([f"worst passing error {worst:.2e}, {len(failed)} failed", *failed]) + "\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
