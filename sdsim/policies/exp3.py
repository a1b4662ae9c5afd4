"""EXP3Spec (BanditSpec, arXiv 2505.15141, ICML 2025): lengths drawn by exponential weights, for rewards that drift.

P(K) ~ exp(-eta_t L_K), L_K the sum of loss / P(K) over the steps credited to K, eta_t = sqrt(ln A / (A t)) for A arms
at the t-th credited step (the anytime form: Bubeck and Cesa-Bianchi 2012, theorem 3.1). The loss is 1 - reward / the
highest reward of a step so far in the range of batch sizes, between 0 and 1. The draws come from `seed` alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sdsim.policies.arms import Arms
from sdsim.policies.bandit import Bandit, Played
from sdsim.policies.lengths import count


class WeightedArms(Arms):
    """Arms with their estimated losses."""

    def __init__(self, arms: int) -> None:
        super().__init__(arms)
        self.losses = [0.0] * arms
        self.credited = 0

    def chances(self) -> list[float]:
        """Return the probability of each arm."""
        arms = len(self.losses)
        eta, least = math.sqrt(math.log(arms) / (arms * (self.credited + 1))), min(self.losses)
        weights = [math.exp(-eta * (loss - least)) for loss in self.losses]
        total = sum(weights)
        return [weight / total for weight in weights]


class Exp3(Bandit[WeightedArms]):
    """Draw the arm by its weight."""

    def __init__(self, lengths: Sequence[int] = (0, 1, 2, 3, 4), seed: int = 0, hold: int = 4) -> None:
        super().__init__(lengths, hold, WeightedArms)
        self.label = "exp3"
        self._random = np.random.Generator(np.random.PCG64(count("seed", seed)))

    def choose(self, arms: WeightedArms) -> tuple[int, float]:
        """Return a drawn arm and its probability."""
        chances, drawn, arm = arms.chances(), self._random.random(), 0
        while drawn >= chances[arm] and arm < len(chances) - 1:
            drawn -= chances[arm]
            arm += 1
        return arm, chances[arm]

    def credit(self, played: Played[WeightedArms], reward: float, rows: int) -> None:
        """Add the loss of one step, weighted by how unlikely its arm was."""
        arms = played.arms
        arms.credit(played.arm, reward, rows)
        arms.credited += 1
        arms.losses[played.arm] += (1.0 - reward / arms.highest) / played.chance
