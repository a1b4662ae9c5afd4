"""Launch configurations: a table keyed by (shape, token bucket), written by tune.py on a GPU, and a rule for the rest.

No autotuner: timing inside a captured graph is not possible, and a table can be read, diffed and committed.
"""

import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kernels._triton import power_of_2
from kernels.formats import BYTES, Format

TABLE = Path(__file__).with_name("tuned_h200.json")


class MoeKey(NamedTuple):
    """What names a MoE layer."""

    experts: int
    topk: int
    hidden: int
    intermediate: int
    weights: Format = "bf16"


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

    def shared_bytes(self, matrices: int, weights: Format = "bf16") -> float:
        """Shared memory of the pipeline's buffers; the compiler adds a little."""
        token_bytes = 1 if weights == "fp8" else 2
        columns = matrices * self.block_n * BYTES[weights] + self.block_m * token_bytes
        return self.block_k * columns * self.num_stages


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
    most = 128 if key.weights == "bf16" else 64  # beyond it, scaled products spill registers
    return min(most, max(16, power_of_2(math.ceil(2 * tokens * key.topk / key.experts))))


Table = dict[int, tuple[tuple[int, int, int, int], ...]]  # by block_m: block_n, block_k, num_warps, num_stages

# Candidates, the rule's choice first. Few tokens: bytes in flight decide, 2 or 3 programs per SM with 18 to 36 KB
# stages. Many tokens: the wgmma rate decides, large tiles of 8 warps, tiles grouped for L2. Shared memory per program
# stays under 227 KB. A gate-up program of fp8 quantises a group of 128 channels, so block_n is 128 there.
GATE_UP: dict[Format, Table] = {
    "bf16": {
        16: ((64, 64, 4, 5), (64, 128, 4, 3), (64, 64, 4, 4), (64, 128, 4, 4), (128, 64, 8, 3), (128, 64, 4, 5)),
        32: ((64, 64, 4, 5), (64, 128, 4, 3), (64, 64, 4, 4), (128, 64, 8, 4), (128, 64, 8, 3)),
        64: ((64, 64, 4, 4), (128, 64, 8, 3), (128, 64, 8, 4), (64, 128, 4, 2)),
        128: ((128, 64, 8, 4), (128, 64, 8, 3), (64, 64, 4, 3), (64, 64, 8, 4)),
    },
    "fp8": {
        16: ((128, 128, 4, 3), (128, 128, 8, 3), (128, 128, 8, 4), (128, 128, 4, 5), (128, 128, 8, 6)),
        32: ((128, 128, 8, 3), (128, 128, 8, 4), (128, 128, 8, 5)),
        64: ((128, 128, 8, 3), (128, 128, 8, 4)),
    },
    "mxfp4": {  # 4 bytes of scales a thread and stage at least, else they are not copied ahead
        16: ((64, 128, 4, 3), (64, 128, 4, 4), (128, 64, 4, 4), (32, 128, 4, 4), (64, 64, 4, 4)),
        32: ((64, 128, 4, 3), (64, 64, 4, 4), (64, 64, 4, 3)),
        64: ((64, 64, 4, 4), (64, 64, 4, 3), (128, 64, 4, 3)),
    },
}
DOWN: dict[Format, Table] = {
    "bf16": {
        16: ((128, 64, 4, 5), (128, 128, 4, 3), (64, 128, 4, 4), (64, 256, 4, 3), (128, 64, 4, 4), (64, 128, 4, 3)),
        32: ((128, 64, 4, 5), (128, 128, 4, 3), (64, 128, 4, 4), (128, 64, 4, 4), (256, 64, 8, 3)),
        64: ((128, 64, 4, 4), (128, 64, 8, 4), (256, 64, 8, 4), (128, 128, 8, 3)),
        128: ((256, 64, 8, 4), (128, 64, 8, 4), (256, 64, 8, 3), (128, 64, 4, 3)),
    },
    "fp8": {
        16: ((128, 128, 4, 5), (64, 128, 4, 5), (64, 128, 4, 8), (128, 128, 4, 4), (256, 128, 8, 4)),
        32: ((128, 128, 4, 4), (64, 128, 4, 5), (128, 128, 8, 5), (256, 128, 8, 4)),
        64: ((128, 128, 8, 4), (128, 128, 4, 4), (256, 128, 8, 3)),
    },
    "mxfp4": {
        16: ((128, 128, 4, 3), (128, 128, 4, 4), (256, 64, 4, 4), (64, 128, 4, 4), (128, 64, 4, 4)),
        32: ((128, 128, 4, 3), (128, 64, 4, 4), (256, 64, 4, 3)),
        64: ((256, 64, 4, 3), (128, 128, 4, 3), (128, 64, 4, 4), (128, 64, 4, 3)),
    },
}
WIDE = {True: ((128, 64, 8, 4), (128, 64, 8, 3)), False: ((256, 64, 8, 4), (256, 64, 8, 3))}  # gate-up's N is double


def candidates(tables: dict[Format, Table], weights: Format, block_m: int, many: bool) -> list[Gemm]:
    """Configurations worth timing for *block_m*, of GATE_UP or DOWN; *many* says that experts span several tiles."""
    group = 16 if block_m == 128 else 4 if many else 1
    found = [Gemm(block_m, n, k, warps, stages, group) for n, k, warps, stages in tables[weights][block_m]]
    wide = WIDE[tables is GATE_UP] if block_m == 128 else ()
    return found + [Gemm(block_m, *sizes, group, wide=True) for sizes in wide]


def rule(key: MoeKey, tokens: int) -> Moe:
    """The configuration of a shape that nobody tuned."""
    block_m = block_m_for(key, tokens)
    many = tokens > block_m
    return Moe(*(candidates(tables, key.weights, block_m, many)[0] for tables in (GATE_UP, DOWN)))


def key_of_row(row: dict[str, Any]) -> tuple[MoeKey, int]:
    """What an entry of the table is for: a layer and a token count."""
    return MoeKey(*row["shape"], row.get("weights", "bf16")), row["tokens"]


@cache
def table(path: Path = TABLE) -> dict[tuple[MoeKey, int], Moe]:
    """The tuned entries, empty where no file was written."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text())["moe"]
    return {key_of_row(row): Moe(Gemm(**row["gate_up"]), Gemm(**row["down"])) for row in rows}


def moe(key: MoeKey, tokens: int) -> Moe:
    """The tuned configuration of the nearest bucket, else the rule."""
    return table().get((key, bucket(tokens))) or rule(key, tokens)


def as_row(key: MoeKey, tokens: int, config: Moe) -> dict[str, object]:
    """One entry as the table's file holds it."""
    named = {"shape": list(key[:4]), "weights": key.weights, "tokens": tokens}
    return named | {"gate_up": asdict(config.gate_up), "down": asdict(config.down)}
