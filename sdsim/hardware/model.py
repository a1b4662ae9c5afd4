"""A full target and a draft with random weights on the kernels, over one numbering of KV pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels._triton import UPCAST
from kernels.draft import Decoder
from kernels.shapes import Shape
from kernels.verify_attention import PAGE
from sdsim.errors import CapacityError, ScenarioError

RESERVED_BYTES = 4e9
"""Kept free for the logits and the captured graphs."""
COPIES = 2
"""Of a layer's activations: what an allocator keeps of sizes that do not fit into each other."""


def pick_device() -> str:
    """Return `cuda`, or `cpu` where Triton's interpreter is on; raises ScenarioError where neither can run kernels."""
    if UPCAST:
        return "cpu"
    if not torch.cuda.is_available():
        raise ScenarioError("no GPU found; needed: one that torch sees; or set TRITON_INTERPRET=1 for tiny models")
    return "cuda"


def free_bytes(device: str) -> int | None:
    """Return the memory that nobody holds, B; None on a CPU."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else None


@dataclass(frozen=True)
class Sizes:
    """The most that a step may hold."""

    rows: int
    """Sequences, those in a prompt chunk included."""
    tokens: int
    """New tokens of all rows."""
    draft_length: int
    """Drafts verified or drafted by a row."""
    pages: int
    """KV pages in memory."""
    positions: int
    """Tokens of one sequence, its drafts included."""


class Pair:
    """`target` and `draft` (or None) decoders. Raises CapacityError for what the GPU cannot hold."""

    def __init__(
        self, target: Shape, draft: Shape | None, sizes: Sizes, dtype: torch.dtype = torch.bfloat16,
        device: str = "cuda",
    ) -> None:  # fmt: skip
        shapes = [target, draft] if draft is not None else [target]
        self.device, self.dtype = device, dtype
        if device == "cuda":
            _check_room(shapes, sizes, dtype)
        made = [Decoder(shape, sizes.pages, sizes.positions, dtype, device) for shape in shapes]
        self.target = made[0]
        self.draft = made[1] if draft is not None else None

    @property
    def vocabulary(self) -> int:
        """Token ids that both models know."""
        shapes = [d.shape for d in (self.target, self.draft) if d is not None]
        return min(int(shape.vocab) for shape in shapes)


def _tensors(owner: object) -> Iterator[Tensor]:
    for value in vars(owner).values():
        yield from (t for t in (value if isinstance(value, tuple) else (value,)) if isinstance(t, Tensor))


def decoder_bytes(shape: Shape, sizes: Sizes, dtype: torch.dtype = torch.bfloat16) -> int:
    """Return the memory of a decoder's weights and KV pages, B, by laying it out without memory."""
    decoder = Decoder(shape, sizes.pages, sizes.positions, dtype, "meta")
    tensors = {id(t): t for owner in (decoder, *decoder.layers) for t in _tensors(owner)}
    return sum(int(t.nbytes) for t in tensors.values())


def fitting(shapes: list[Shape], sizes: Sizes, dtype: torch.dtype = torch.bfloat16) -> Sizes:
    """Return *sizes* with no more KV pages than the GPU has room for beside the models, but one."""
    bare, one = (_need(shapes, replace(sizes, pages=pages), dtype) for pages in (0, 1))
    room = int((torch.cuda.mem_get_info()[0] - bare) // (one - bare))
    return replace(sizes, pages=max(1, min(sizes.pages, room)))


def _need(shapes: list[Shape], sizes: Sizes, dtype: torch.dtype) -> float:
    held = sum(decoder_bytes(shape, sizes, dtype) for shape in shapes)
    return held + RESERVED_BYTES + COPIES * sum(activation_bytes(shape, sizes, dtype) for shape in shapes)


def activation_bytes(shape: Shape, sizes: Sizes, dtype: torch.dtype = torch.bfloat16) -> int:
    """Return what one layer holds of a step's largest number of tokens, B."""
    dense = max(shape.intermediate, shape.shared_intermediate)
    width = 4 * shape.hidden + 3 * dense + shape.topk * (shape.expert_intermediate + shape.hidden)
    return int(sizes.tokens * width * dtype.itemsize)


def _check_room(shapes: list[Shape], sizes: Sizes, dtype: torch.dtype) -> None:
    need, free = _need(shapes, sizes, dtype), torch.cuda.mem_get_info()[0]
    if need > free:
        names = " and ".join(shape.name for shape in shapes)
        message = (
            f"model: {names} with {sizes.pages * PAGE} KV tokens need {need / 1e9:.1f} GB, the GPU has "
            f"{free / 1e9:.1f} GB free; use fewer rows or shorter contexts, a lower memory_fraction, or fewer layers"
        )
        raise CapacityError(message)
