"""Model shapes, from the models' published config.json files; only what a layer's kernels need."""

from dataclasses import dataclass

from kernels.formats import BYTES, Format


@dataclass(frozen=True)
class Shape:
    """One decoder. Sizes are in elements; `experts` 0 means a dense feed-forward of width `intermediate`."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    intermediate: int = 0
    experts: int = 0
    topk: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    renormalise: bool = True  # router weights of the chosen experts sum to one
    shared_gate: bool = False  # the shared expert's output is scaled by a sigmoid of its own
    qk_norm: bool = False
    qkv_bias: bool = False
    tied: bool = False  # lm_head is the embedding
    latent_rank: int = 0  # of MLA's stored latent; 0: attention by heads
    rope_dim: int = 0  # of MLA's shared rotary key, stored behind the latent; head_dim holds it too
    query_rank: int = 0  # of MLA's query projection; 0: direct
    value_dim: int = 0  # of MLA's heads
    expert_format: Format = "bf16"
    dense_format: Format = "bf16"  # of all products but router and lm_head
    parts: tuple[str, ...] = ("moe", "dense", "attention", "norms", "layers")  # what the suite measures of it

    @property
    def qkv(self) -> int:
        """Width of the fused query, key and value projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def group(self) -> int:
        """Query heads per key-value head."""
        return self.heads // self.kv_heads

    @property
    def latent(self) -> int:
        """Numbers that MLA stores of a token and layer."""
        return self.latent_rank + self.rope_dim

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert's three matrices, scales included."""
        return 3 * self.hidden * self.expert_intermediate * BYTES[self.expert_format]


LATENT = ("moe", "dense", "latent", "norms")
DENSE = ("dense", "attention", "norms", "layers")
DRAFT = ("dense", "attention", "norms", "draft")

# fmt: off
SHAPES = {
    s.name: s
    for s in (
        Shape(
            "qwen3-30b-a3b", 2048, 48, 32, 4, 128, 151936, experts=128, topk=8, expert_intermediate=768, qk_norm=True,
        ),
        Shape(
            "qwen2-57b-a14b", 3584, 28, 28, 4, 128, 151936, experts=64, topk=8, expert_intermediate=2560,
            shared_intermediate=20480, renormalise=False, shared_gate=True, qkv_bias=True,
        ),
        Shape("mixtral-8x7b", 4096, 32, 32, 8, 128, 32000, experts=8, topk=2, expert_intermediate=14336),
        # Latent attention: decode and verification absorbed, prompts by heads; the layer as a whole is not composed.
        Shape(
            "deepseek-v2-lite", 2048, 27, 16, 16, 192, 102400, intermediate=10944, experts=64, topk=6,
            expert_intermediate=1408, shared_intermediate=2816, renormalise=False, latent_rank=512, rope_dim=64,
            value_dim=128, parts=LATENT,
        ),
        Shape(
            "deepseek-v3", 7168, 61, 128, 128, 192, 129280, intermediate=18432, experts=256, topk=8,
            expert_intermediate=2048, shared_intermediate=2048, latent_rank=512, rope_dim=64, query_rank=1536,
            value_dim=128, expert_format="fp8", dense_format="fp8", parts=LATENT,
        ),
        Shape(
            "gpt-oss-120b", 2880, 36, 64, 8, 64, 201088, experts=128, topk=4, expert_intermediate=2880, qkv_bias=True,
            expert_format="mxfp4", parts=("moe", "dense", "attention", "norms"),
        ),
        # 470 GB of weights: served on several GPUs, so that only its MoE layer is measured whole.
        Shape(
            "qwen3-235b-a22b", 4096, 94, 64, 4, 128, 151936, experts=128, topk=8, expert_intermediate=1536,
            qk_norm=True, parts=("moe", "attention"),
        ),
        Shape("qwen2.5-32b", 5120, 64, 40, 8, 128, 152064, intermediate=27648, qkv_bias=True, parts=DENSE),
        Shape("qwen2-0.5b", 896, 24, 14, 2, 64, 151936, intermediate=4864, qkv_bias=True, tied=True, parts=DRAFT),
        Shape("qwen3-0.6b", 1024, 28, 16, 8, 128, 151936, intermediate=3072, qk_norm=True, tied=True, parts=DRAFT),
        # An EAGLE-3 head for qwen3-30b-a3b: one layer of the target's width, a reduced vocabulary.
        Shape("eagle3-qwen3-30b", 2048, 1, 32, 4, 128, 32000, intermediate=12288, parts=("eagle",)),
    )
}
# fmt: on
