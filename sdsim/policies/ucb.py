"""UCBSpec (BanditSpec, arXiv 2505.15141, ICML 2025): optimism about the mean reward of each draft length.

arm = argmax over K of mean_K + c sqrt(ln t / N_K), with N_K the pulls of the arm and t those of all arms, in its
batch range. The paper decodes one request and rewards the accepted tokens; here the reward is tokens per second, as a
fraction of the best arm's mean, and each row of a step is one pull. The public code divides by the pulls of all arms
together, the same bonus for every arm; that is not followed. An arm not tried yet comes first, the longest before the
others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sdsim.policies.arms import Arms
from sdsim.policies.bandit import Bandit
from sdsim.policies.lengths import positive


class Ucb(Bandit[Arms]):
    """Play the arm of the highest upper confidence bound."""

    def __init__(self, lengths: Sequence[int] = (0, 1, 2, 3, 4), confidence: float = 1.0, hold: int = 4) -> None:
        super().__init__(lengths, hold, Arms)
        self.label = "ucb"
        self._confidence = positive("confidence", confidence)

    def choose(self, arms: Arms) -> tuple[int, float]:
        """Return the arm with the highest bound."""
        untried = [arm for arm, plays in enumerate(arms.plays) if not plays]
        if untried:
            return untried[-1], 1.0
        weights = [arms.weight(arm) for arm in range(len(arms.plays))]
        scale, rounds = max(arms.means) or 1.0, math.log(sum(weights))
        bounds = [
            mean / scale + self._confidence * math.sqrt(rounds / weight)
            for mean, weight in zip(arms.means, weights, strict=True)
        ]
        return bounds.index(max(bounds)), 1.0
