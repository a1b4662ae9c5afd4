"""Collectives as rounds of flows. A flow is a share of the payload, sent from one GPU to another.

The flows of a round start together, a round starts when the one before has ended. Algorithms: Thakur, Rabenseifner and
Gropp, "Optimization of collective communication operations in MPICH" (2005), and the two-level ring of NCCL and
BlueConnect (Cho et al., 2019) for groups that span nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

Flow = tuple[int, int, float]
"""Sender, receiver, share of the payload."""


class Round(NamedTuple):
    """Flows that start together, and how often the round is repeated."""

    flows: tuple[Flow, ...]
    times: int = 1


Rounds = tuple[Round, ...]


def all_to_all(gpus: Sequence[int]) -> Iterator[Rounds]:
    """Yield the ways in which each GPU sends the payload to the others, an equal part to each: directly."""
    yield (_each_to_each(gpus, 1 / (len(gpus) - 1)),)


def all_reduce(gpus: Sequence[int], node: int) -> Iterator[Rounds]:
    """Yield the ways of summing a payload that every one of *gpus* has, nodes being *node* GPUs: an engine's to choose.

    At once: everyone reads all of everyone. Scattered: everyone sums its part, then sends it round. Ring: the same from
    neighbour to neighbour. Two-level, for groups of whole nodes: scattered within nodes, rings between them.
    """
    count = len(gpus)
    yield (_each_to_each(gpus, 1.0),)
    yield (_each_to_each(gpus, 1 / count)._replace(times=2),)
    yield (_ring([gpus], 1 / count)._replace(times=2 * (count - 1)),)
    nodes = _nodes(gpus, node)
    if len(nodes) > 1 and len({len(part) for part in nodes}) == 1 and len(nodes[0]) > 1:
        inside = Round(tuple(flow for part in nodes for flow in _each_to_each(part, 1 / len(part)).flows), 2)
        rings = list(zip(*nodes, strict=True))
        yield inside, _ring(rings, 1 / count)._replace(times=2 * (len(nodes) - 1))


def transfer(senders: Sequence[int], receivers: Sequence[int]) -> Iterator[Rounds]:
    """Yield the way of handing a payload that lies in equal parts on *senders* to *receivers*, in equal parts too."""
    pieces = max(len(senders), len(receivers))
    pairs = ((senders[i * len(senders) // pieces], receivers[i * len(receivers) // pieces]) for i in range(pieces))
    yield (Round(tuple((a, b, 1 / pieces) for a, b in pairs)),)


def _each_to_each(gpus: Sequence[int], share: float) -> Round:
    return Round(tuple((a, b, share) for a, b in permutations(gpus, 2)))


def _ring(rings: Sequence[Sequence[int]], share: float) -> Round:
    """Return a step of several rings at once."""
    return Round(tuple((a, b, share) for ring in rings for a, b in zip(ring, [*ring[1:], ring[0]], strict=True)))


def _nodes(gpus: Sequence[int], node: int) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for gpu in gpus:
        found.setdefault(gpu // node, []).append(gpu)
    return list(found.values())
