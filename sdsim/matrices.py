"""The weight matrices of a model's layers, as engines fuse them: what a dense product of the cost model is about."""

from __future__ import annotations

from typing import Literal, NamedTuple

from sdsim.models import Model


class Matrix(NamedTuple):
    """A weight matrix of one layer: *inputs* x *outputs* parameters."""

    inputs: int
    outputs: int
    split: Literal["inputs", "outputs", "none"] = "none"
    """The side that tensor parallelism divides."""

    def on_one_of(self, ranks: int) -> Matrix:
        """Return the part that one of *ranks* GPUs holds; a side too short to divide is held whole."""
        if self.split == "inputs" and self.inputs >= ranks:
            return self._replace(inputs=self.inputs // ranks)
        if self.split == "outputs" and self.outputs >= ranks:
            return self._replace(outputs=self.outputs // ranks)
        return self


def attention(model: Model) -> tuple[Matrix, ...]:
    """Return the projections around attention: fused queries, keys and values, and the output."""
    width = model.heads * model.head_dim
    if model.mla is None:
        both = width + 2 * model.kv_heads * model.head_dim
        return Matrix(model.hidden, both, "outputs"), Matrix(width, model.hidden, "inputs")
    mla = model.mla
    latent = mla.kv_lora_rank + mla.rope_dim
    up = Matrix(mla.kv_lora_rank, model.heads * (mla.nope_dim + mla.v_dim), "outputs")
    out = Matrix(model.heads * mla.v_dim, model.hidden, "inputs")
    if not mla.q_lora_rank:
        return Matrix(model.hidden, width, "outputs"), Matrix(model.hidden, latent), up, out
    return Matrix(model.hidden, mla.q_lora_rank + latent), Matrix(mla.q_lora_rank, width, "outputs"), up, out


def feed_forward(hidden: int, width: int) -> tuple[Matrix, ...]:
    """Return fused gate and up, and down, of a SwiGLU feed-forward."""
    return Matrix(hidden, 2 * width, "outputs"), Matrix(width, hidden, "inputs")


def shared_expert(model: Model) -> tuple[Matrix, ...]:
    """Return the shared experts of a layer as one feed-forward, and the gate on its output."""
    return *feed_forward(model.hidden, model.shared_intermediate), Matrix(model.hidden, 1)


def router(model: Model) -> Matrix:
    """Return a layer's router."""
    return Matrix(model.hidden, model.experts)


def head(model: Model) -> Matrix:
    """Return the output projection."""
    return Matrix(model.hidden, model.vocabulary, "outputs")
