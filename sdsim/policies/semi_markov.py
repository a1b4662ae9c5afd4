"""The dynamic optimum of a small model of a replica: batch size and drafter state, solved by policy iteration.

n requests decode; a step of draft length K takes T(n, K) s, and every row ends in it with chance
1 - (1 - 1 / L)^tau(K): outputs are geometric with mean L, and tau(K) the tokens that a row emits. Requests arrive by a
Poisson process of rate lambda, at most N are held, and each costs `prompt_s` of the replica's time. The drafter may be
dropped, for a step of off(n) s, and loading it again costs reload(n) s; with no request it is loaded for nothing. The
cost is the mean number of requests held, which by Little's law is lambda times their mean time.

This is a semi-Markov decision problem of average cost. Howard's policy iteration (Puterman 1994, section 11.4) ends at
its optimum after finitely many rounds, since every policy is unichain: all pass through the empty state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sdsim.policy import FloatArray, IntArray

ROUNDS = 100
DROP = 0
"""The action that drops the drafter; action 1 + i drafts the i-th length."""


class Replica(NamedTuple):
    """What the model knows of a replica. The first axis of arrays is n - 1."""

    seconds: FloatArray
    """(most, lengths) T(n, K), s."""
    off: FloatArray
    """(most,) off(n), s."""
    reload: FloatArray
    """(most,) reload(n), s."""
    tokens: FloatArray
    """(lengths,) tau(K); that of a dropped drafter is 1."""
    rate: float
    """lambda, 1/s."""
    output: float
    """L, tokens."""
    prompt_s: float = 0.0


class Moves(NamedTuple):
    """The decision problem: (state, action) arrays. State s * (most + 1) + n: drafter dropped (s = 0) or loaded."""

    seconds: FloatArray
    cost: FloatArray
    """Requests held x s."""
    chance: FloatArray
    """(state, action, state)"""


def moves(replica: Replica) -> Moves:
    """Return the decision problem of *replica*."""
    most, lengths = replica.seconds.shape
    states, actions = 2 * (most + 1), 1 + lengths
    stretch = 1.0 / max(1.0 - replica.rate * replica.prompt_s, 0.05)
    taken = np.ones((2, most + 1, actions)) / replica.rate
    taken[:, 1:, DROP] = replica.off * stretch
    taken[:, 1:, 1:] = replica.seconds * stretch
    taken[0, 1:, 1:] += replica.reload[:, None]
    tokens = np.concatenate([[1.0], replica.tokens])
    ends = 1.0 - (1.0 - 1.0 / replica.output) ** tokens
    chance = np.zeros((2, most + 1, actions, 2, most + 1))
    chance[:, 0, :, 1, min(1, most)] = 1.0
    for loaded in (0, 1):
        for n in range(1, most + 1):
            for action in range(actions):
                after = np.convolve(
                    _binomial(n, 1.0 - ends[action]), _poisson(replica.rate * taken[loaded, n, action], most)
                )
                after[most] += after[most + 1 :].sum()
                chance[loaded, n, action, int(action != DROP)] = after[: most + 1]
    held = np.arange(most + 1.0)[None, :, None]
    shape = states, actions
    return Moves(taken.reshape(shape), (held * taken).reshape(shape), chance.reshape(*shape, states))


def _binomial(n: int, chance: float) -> FloatArray:
    """Return (n + 1,) the distribution of how many of *n* stay."""
    found = np.ones(1)
    for _ in range(n):
        found = np.convolve(found, [1.0 - chance, chance])
    return found


def _poisson(mean: float, most: int) -> FloatArray:
    """Return (most + 1,) the distribution, what lies above *most* added to it."""
    terms = np.concatenate([[1.0], mean / np.arange(1.0, most + 1)])
    found = np.exp(-mean) * np.cumprod(terms)
    found[most] += max(1.0 - found.sum(), 0.0)
    return np.asarray(found)


def average_cost(problem: Moves, policy: IntArray) -> tuple[float, FloatArray]:
    """Return the mean number of requests held under *policy*, an action a state, and the states' relative costs."""
    states = len(policy)
    at = np.arange(states), policy
    system = np.zeros((states + 1, states + 1))
    system[:states, :states] = np.eye(states) - problem.chance[at]
    system[:states, states] = problem.seconds[at]
    system[states, 0] = 1.0
    solved = np.linalg.solve(system, np.append(problem.cost[at], 0.0))
    return float(solved[states]), solved[:states]


def optimum(problem: Moves, policy: IntArray) -> tuple[float, IntArray]:
    """Return the least average cost and a policy that has it, found from *policy* on."""
    for _ in range(ROUNDS):
        gain, relative = average_cost(problem, policy)
        worth = problem.cost - gain * problem.seconds + problem.chance @ relative
        kept = worth[np.arange(len(policy)), policy]
        better = worth.min(axis=1) < kept - 1e-9 * (1.0 + np.abs(kept))
        if not better.any():
            break
        policy = np.where(better, worth.argmin(axis=1), policy)
    return average_cost(problem, policy)[0], policy


def myopic(replica: Replica) -> IntArray:
    """Return the policy that takes the most tokens a second in every state, what a reload costs left out."""
    ratio = np.concatenate([(1.0 / replica.off)[:, None], replica.tokens / replica.seconds], axis=1)
    by_rows = np.concatenate([[1], ratio.argmax(axis=1)])
    return np.tile(by_rows, 2)
