"""Tiny models for the tests of sdsim.hardware: on a GPU if there is one, else in Triton's interpreter.

Tests import this first: the interpreter's switch must be set before triton is imported.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch and triton: pip install torch==2.13.0 triton")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="needs torch and triton: pip install torch==2.13.0 triton")

from kernels._triton import UPCAST  # noqa: E402
from kernels.shapes import Shape  # noqa: E402
from sdsim.hardware.model import Pair, Sizes  # noqa: E402

DEVICE = "cpu" if UPCAST else "cuda"
DTYPE = torch.float32 if UPCAST else torch.bfloat16  # prefill attention on a GPU is for 16 bits
LIMIT = 1e-5 if UPCAST else 3e-2  # of logits, against float64; three times the kernels' own in bf16

DENSE = Shape("tiny", 64, 2, 4, 2, 32, 97, intermediate=96, qkv_bias=True)
SPARSE = Shape(
    "tiny-moe", 64, 2, 4, 1, 32, 97, experts=8, topk=2, expert_intermediate=32, shared_intermediate=32,
    shared_gate=True, qk_norm=True, renormalise=False,
)  # fmt: skip
DRAFT = replace(DENSE, name="tiny-draft", layers=1, intermediate=32, tied=True)
SIZES = Sizes(rows=6, tokens=64, draft_length=3, pages=24, positions=96)


def make_pair(target: Shape, draft: Shape | None = None, sizes: Sizes = SIZES) -> Pair:
    """Return random models on the test's device."""
    return Pair(target, draft, sizes, DTYPE, DEVICE)


def ints(values: list[int]) -> torch.Tensor:
    """Return an int32 tensor on the test's device."""
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


CONFIG = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 32,
    "vocab_size": 97,
    "tie_word_embeddings": False,
    "max_position_embeddings": 256,
    "torch_dtype": "bfloat16",
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}


def write_configs(folder: Path) -> None:
    """Write the config.json of a MoE model, `moe`, and of a dense `draft` into folders of these names."""
    for name, config in (("moe", CONFIG | EXPERTS), ("draft", CONFIG)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
