"""Thompson sampling over draft lengths: play the best of one draw from each arm's posterior.

Normal posteriors as in Agrawal and Goyal (2013, "Further optimal regret bounds for Thompson sampling", algorithm 2):
theta_K ~ N(sum of rewards / (N_K + 1), 1 / (N_K + 1)), rewards between 0 and 1. The reward is tokens per second as a
fraction of the best arm's mean in the range of batch sizes, and each row of a step is one pull. The draws come from
`seed` alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sdsim.policies.arms import Arms
from sdsim.policies.bandit import Bandit
from sdsim.policies.lengths import count


class Thompson(Bandit[Arms]):
    """Play the arm with the highest draw."""

    def __init__(self, lengths: Sequence[int] = (0, 1, 2, 3, 4), seed: int = 0, hold: int = 4) -> None:
        super().__init__(lengths, hold, Arms)
        self.label = "thompson"
        self._random = np.random.Generator(np.random.PCG64(count("seed", seed)))

    def choose(self, arms: Arms) -> tuple[int, float]:
        """Return the arm with the highest draw."""
        scale = max(arms.means) or 1.0
        draws = [
            mean / scale * pulls / (pulls + 1) + noise / math.sqrt(arms.weight(arm) + 1)
            for arm, (mean, pulls, noise) in enumerate(
                zip(arms.means, arms.pulls, self._random.standard_normal(len(arms.means)).tolist(), strict=True)
            )
        ]
        return draws.index(max(draws)), 1.0
