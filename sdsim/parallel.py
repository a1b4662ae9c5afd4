"""How a replica's GPUs share the model: tensor, expert and data parallel.

`tensor` GPUs divide every layer. Groups of them run attention side by side, each on its own requests (data parallel).
Routed experts are divided like the rest of a layer, or, under expert parallel, spread whole over all GPUs; then the
groups exchange tokens before and after them.
"""

from __future__ import annotations

from typing import NamedTuple

from sdsim.models import Model


class Layout(NamedTuple):
    """*gpus* of one replica, *tensor* of them to a group; *spread*: expert parallel over all of them."""

    gpus: int = 1
    tensor: int = 1
    spread: bool = False

    @property
    def data(self) -> int:
        """Groups that run attention side by side."""
        return self.gpus // self.tensor

    @property
    def exchanges(self) -> bool:
        """Whether tokens travel to the GPUs of their experts: the groups hold different tokens."""
        return self.spread and self.data > 1

    def share(self, count: int) -> int:
        """Return what the busiest group has of *count* tokens or rows that are spread evenly."""
        return -(-count // self.data)

    def weights_bytes(self, model: Model) -> float:
        """Return the weights on all GPUs, B: routed experts once where they are spread, the rest once a group."""
        routed = model.moe_layers * model.experts * model.expert_parameters * model.expert_bytes
        copies = 1 if self.spread else self.data
        return (model.weights_bytes - routed) * self.data + routed * copies

    def kv_bytes_per_token(self, model: Model) -> float:
        """Return the KV of a token on the GPUs of its group, B: MLA's latent on each, a head once at least."""
        copies = self.tensor if model.mla is not None else max(1.0, self.tensor / model.kv_heads)
        return model.kv_bytes_per_token * copies
