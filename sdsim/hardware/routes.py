"""Expert ids drawn by the law that the simulator assumes, in the place of a random router's."""

from __future__ import annotations

import math

import numpy as np
import torch

from kernels.shapes import Shape
from sdsim.policy import IntArray


class Tally:
    """Mean and standard error of the distinct experts seen, over layers and steps."""

    def __init__(self) -> None:
        self._count, self._total, self._squares = 0, 0, 0

    def add(self, counts: IntArray) -> None:
        """Take in the counts (layers,) of a step."""
        self._count += counts.size
        self._total += int(counts.sum())
        self._squares += int(np.dot(counts, counts))

    def mean(self) -> tuple[float, float]:
        """Return the mean, and its standard error (0 for fewer than two counts); 0 and 0 for no counts."""
        if self._count < 2:
            return float(self._total), 0.0
        mean = self._total / self._count
        return mean, math.sqrt((self._squares / self._count - mean * mean) / (self._count - 1))


class Routes:
    """Top-k ids of every MoE layer, independent and uniform, for up to *tokens* tokens; `ids` [layers, tokens, k]."""

    def __init__(self, shape: Shape, tokens: int, seed: int, device: str) -> None:
        self.experts, self.topk = shape.experts, shape.topk
        self.ids = torch.zeros((shape.layers, tokens, shape.topk), dtype=torch.int32, device=device)
        self._generator = torch.Generator(device=device).manual_seed(seed)

    def draw(self, tokens: int) -> None:
        """Draw the ids of the first *tokens* tokens anew, every set of k experts equally likely.

        Floyd's sampling without replacement (Bentley and Floyd 1987), for all tokens at once: step j picks one of the
        first j + 1 experts, or expert j if that one is taken.
        """
        ids = self.ids[:, :tokens]
        uniform = torch.rand(ids.shape, generator=self._generator, device=ids.device)
        for slot in range(self.topk):
            last = self.experts - self.topk + slot
            pick = (uniform[..., slot] * (last + 1)).to(torch.int32)
            taken = (ids[..., :slot] == pick[..., None]).any(-1)
            ids[..., slot] = torch.where(taken, last, pick)

    def distinct(self, tokens: int) -> IntArray:
        """Return how many experts the first *tokens* tokens name, by layer: (layers,)."""
        ids = self.ids[:, :tokens].flatten(1).long()
        seen = torch.zeros((len(ids), self.experts), dtype=torch.int32, device=ids.device)
        counts: IntArray = seen.scatter_(1, ids, 1).sum(1).cpu().numpy()
        return counts
