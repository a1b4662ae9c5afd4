"""The dynamic optimum of a small model of a replica: batch size, drafter state and traffic, by policy iteration.

n requests decode; a step of draft length K takes T(n, K) s, and every row ends in it with chance
1 - (1 - 1 / L)^tau(K): outputs are geometric with mean L, and tau(K) the tokens that a row emits. Requests arrive by a
Markov-modulated Poisson process, of one phase or of two in turn, at most N are held, and each costs `prompt_s` of the
replica's time. The drafter may be dropped, for a step of off(n) s, and loading it again costs reload(n) s; with no
request it is loaded for nothing. The phase is known; it changes between steps. The cost is the mean number of requests
held, which by Little's law is the rate of arrivals times their mean time.

This is a semi-Markov decision problem of average cost. Howard's policy iteration (Puterman 1994, section 11.4) ends at
its optimum after finitely many rounds, since every policy is unichain: all pass through the empty state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from sdsim.policy import FloatArray, IntArray

ROUNDS = 100
DROP = 0
"""The action that drops the drafter; action 1 + i drafts the i-th length."""
BUSIEST = 0.95
"""Share of the time that prompts take at most."""


class Phase(NamedTuple):
    """A phase of the traffic: requests arrive at `rate`, 1/s, and it ends at `ends`, 1/s."""

    rate: float
    ends: float = 0.0


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
    phases: tuple[Phase, ...]
    """One, or two that follow each other."""
    output: float
    """L, tokens."""
    prompt_s: float = 0.0


class Moves(NamedTuple):
    """The decision problem: (state, action) arrays. States are (phase, drafter dropped or loaded, n) in that order."""

    seconds: FloatArray
    cost: FloatArray
    """Requests held x s."""
    chance: FloatArray
    """(state, action, state)"""


def moves(replica: Replica) -> Moves:
    """Return the decision problem of *replica*."""
    most, lengths = replica.seconds.shape
    phases, actions = len(replica.phases), 1 + lengths
    taken = np.empty((phases, 2, most + 1, actions))
    chance = np.zeros((phases, 2, most + 1, actions, phases, 2, most + 1))
    staying = _staying(replica)
    for i, phase in enumerate(replica.phases):
        other = (i + 1) % phases
        leaves = phase.rate + phase.ends
        taken[i, :, 0, :] = 1.0 / leaves
        chance[i, :, 0, :, i, 1, min(1, most)] += phase.rate / leaves
        chance[i, :, 0, :, other, 1, 0] += phase.ends / leaves
        stretch = 1.0 / max(1.0 - phase.rate * replica.prompt_s, 1.0 - BUSIEST)
        taken[i, :, 1:, DROP] = replica.off * stretch
        taken[i, :, 1:, 1:] = replica.seconds * stretch
        taken[i, 0, 1:, 1:] += replica.reload[:, None]
        for loaded in (0, 1):
            for action in range(actions):
                after = _after(staying[action], phase.rate * taken[i, loaded, 1:, action])
                change = _change(replica.phases, i, taken[i, loaded, 1:, action])[:, None]
                chance[i, loaded, 1:, action, i, int(action != DROP)] += (1.0 - change) * after
                chance[i, loaded, 1:, action, other, int(action != DROP)] += change * after
    held = np.arange(most + 1.0)[:, None]
    states = phases * 2 * (most + 1)
    cost = (held * taken).reshape(states, actions)
    return Moves(taken.reshape(states, actions), cost, chance.reshape(states, actions, states))


def _staying(replica: Replica) -> FloatArray:
    """Return (actions, n - 1, most + 1) the distribution of how many of n rows do not end in a step."""
    most = len(replica.off)
    tokens = np.concatenate([[1.0], replica.tokens])[:, None, None]
    stays = (1.0 - 1.0 / replica.output) ** tokens
    n, k = np.arange(1.0, most + 1)[:, None], np.arange(most + 1.0)
    choose = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(np.maximum(n - k, 0) + 1)
    with np.errstate(divide="ignore"):
        logs = choose + special.xlogy(k, stays) + special.xlogy(np.maximum(n - k, 0), 1.0 - stays)
    return np.where(k <= n, np.exp(logs), 0.0)


def _after(staying: FloatArray, arrivals: FloatArray) -> FloatArray:
    """Return (n - 1, most + 1) how many are held after a step, *arrivals*, (n - 1,), being expected in it."""
    most = staying.shape[1] - 1
    k = np.arange(most + 1.0)
    arrived = np.exp(special.xlogy(k, arrivals[:, None]) - arrivals[:, None] - special.gammaln(k + 1))
    after = np.array([np.convolve(s, a)[: most + 1] for s, a in zip(staying, arrived, strict=True)])
    after[:, most] += np.maximum(1.0 - after.sum(axis=1), 0.0)
    return after


def _change(phases: tuple[Phase, ...], now: int, seconds: FloatArray) -> FloatArray:
    """Return (n - 1,) the chance that the other phase runs *seconds* later."""
    rates = sum(phase.ends for phase in phases)
    if len(phases) == 1 or not rates:
        return np.zeros_like(seconds)
    return np.asarray(phases[now].ends / rates * -np.expm1(-rates * seconds))


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
    return np.tile(by_rows, 2 * len(replica.phases))
