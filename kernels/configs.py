"""Launch configurations: a table keyed by (shape, token bucket), written by tune.py on a GPU, and a rule for the rest.

No autotuner: timing inside a captured graph is not possible, and a table can be read, diffed and committed.
"""

import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from kernels._triton import power_of_2

TABLE = Path(__file__).with_name("tuned_h200.json")
MoeKey = tuple[int, int, int, int]  # experts, topk, hidden, intermediate


@dataclass(frozen=True)
class Gemm:
    """A grouped GEMM tile: block_n weight rows (of each of gate and up) x block_m tokens, block_k deep."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    group: int = 1  # tiles that share a weight block back to back, so that its second read hits L2
    wide: bool = False  # tokens are the M operand, weights the N

    def shared_bytes(self, matrices: int) -> int:
        """Shared memory of the pipeline's buffers; the compiler adds a little."""
        return 2 * self.block_k * (matrices * self.block_n + self.block_m) * self.num_stages


@dataclass(frozen=True)
class Moe:
    """Both GEMMs of a MoE layer; they share the tile list, hence block_m."""

    gate_up: Gemm
    down: Gemm

    def __post_init__(self) -> None:
        if self.gate_up.block_m != self.down.block_m:
            raise ValueError(f"gate_up and down must share block_m: {self.gate_up.block_m} != {self.down.block_m}")


def bucket(tokens: int) -> int:
    """The power of two nearest to *tokens*: one entry of the table serves about a factor of 1.4 each way."""
    return 1 << max(0, round(math.log2(tokens)))


def block_m_for(key: MoeKey, tokens: int) -> int:
    """Tokens per tile: twice the mean per expert, so that most experts fit one tile and their weights are read once."""
    experts, topk, _, _ = key
    return min(128, max(16, power_of_2(math.ceil(2 * tokens * topk / experts))))


# Candidates by block_m, the rule's choice first. Few tokens: bytes in flight decide, 2 or 3 programs per SM with 18 to
# 36 KB stages. Many tokens: the wgmma rate decides, large tiles of 8 warps, tiles grouped for L2. Shared memory per
# program stays under 227 KB.
GATE_UP = {
    16: ((64, 64, 4, 5), (64, 128, 4, 3), (64, 64, 4, 4), (64, 128, 4, 4), (128, 64, 8, 3), (128, 64, 4, 5)),
    32: ((64, 64, 4, 5), (64, 128, 4, 3), (64, 64, 4, 4), (128, 64, 8, 4), (128, 64, 8, 3)),
    64: ((64, 64, 4, 4), (128, 64, 8, 3), (128, 64, 8, 4), (64, 128, 4, 2)),
    128: ((128, 64, 8, 4), (128, 64, 8, 3), (64, 64, 4, 3), (64, 64, 8, 4)),
}
DOWN = {
    16: ((128, 64, 4, 5), (128, 128, 4, 3), (64, 128, 4, 4), (64, 256, 4, 3), (128, 64, 4, 4), (64, 128, 4, 3)),
    32: ((128, 64, 4, 5), (128, 128, 4, 3), (64, 128, 4, 4), (128, 64, 4, 4), (256, 64, 8, 3)),
    64: ((128, 64, 4, 4), (128, 64, 8, 4), (256, 64, 8, 4), (128, 128, 8, 3)),
    128: ((256, 64, 8, 4), (128, 64, 8, 4), (256, 64, 8, 3), (128, 64, 4, 3)),
}


GATE_UP_WIDE = ((128, 64, 8, 4), (128, 64, 8, 3))  # N is twice block_n
DOWN_WIDE = ((256, 64, 8, 4), (256, 64, 8, 3))
Table = dict[int, tuple[tuple[int, int, int, int], ...]]


def candidates(table: Table, block_m: int, many: bool) -> list[Gemm]:
    """Configurations worth timing for *block_m*; *many* says that experts span several tiles."""
    group = 16 if block_m == 128 else 4 if many else 1
    found = [Gemm(block_m, n, k, warps, stages, group) for n, k, warps, stages in table[block_m]]
    wide = (GATE_UP_WIDE if table is GATE_UP else DOWN_WIDE) if block_m == 128 else ()
    return found + [Gemm(block_m, *sizes, group, wide=True) for sizes in wide]


def rule(key: MoeKey, tokens: int) -> Moe:
    """The configuration of a shape that nobody tuned."""
    block_m = block_m_for(key, tokens)
    many = tokens > block_m
    return Moe(candidates(GATE_UP, block_m, many)[0], candidates(DOWN, block_m, many)[0])


@cache
def table(path: Path = TABLE) -> dict[tuple[MoeKey, int], Moe]:
    """The tuned entries, empty where no file was written."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text())["moe"]
    return {(tuple(r["shape"]), r["tokens"]): Moe(Gemm(**r["gate_up"]), Gemm(**r["down"])) for r in rows}


def moe(key: MoeKey, tokens: int) -> Moe:
    """The tuned configuration of the nearest bucket, else the rule."""
    return table().get((key, bucket(tokens))) or rule(key, tokens)


def as_row(key: MoeKey, tokens: int, config: Moe) -> dict[str, object]:
    """One entry as the table's file holds it."""
    return {"shape": list(key), "tokens": tokens, "gate_up": asdict(config.gate_up), "down": asdict(config.down)}
