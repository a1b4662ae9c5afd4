"""A cluster's network: routes on its graph, and the alpha-beta price of what is sent along them.

A round of flows takes the longest latency among its routes and the time of its most loaded link (Hockney 1994, with
the links' contention): alpha + beta x bytes. A collective is the sum of its rounds, so it is a line too; of several
algorithms the fastest at each size is charged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from sdsim.gpus import Gpu
from sdsim.network import collectives
from sdsim.network.collectives import Rounds
from sdsim.network.graph import cluster_graph
from sdsim.network.presets import Preset


class Line(NamedTuple):
    """Seconds, and seconds a byte of the payload."""

    alpha: float
    beta: float


class Network:
    """The network of *gpus*, joined as *preset* says. Sizes are bytes; GPUs are named by their numbers."""

    def __init__(self, gpus: Sequence[Gpu], preset: Preset) -> None:
        self.preset = preset
        self.graph = cluster_graph(gpus, preset)
        self._routes = cache(self._routes_from)
        self._lines = cache(self._price)

    def all_reduce(self, size: float, gpus: Sequence[int]) -> float:
        """Return the seconds in which *gpus* sum *size* bytes that each of them has."""
        return self._fastest("all_reduce", size, tuple(gpus))

    def all_to_all(self, size: float, gpus: Sequence[int]) -> float:
        """Return the seconds in which each of *gpus* sends *size* bytes in all, shared evenly by the others."""
        return self._fastest("all_to_all", size, tuple(gpus))

    def transfer(self, size: float, senders: Sequence[int], receivers: Sequence[int]) -> float:
        """Return the seconds in which *size* bytes that *senders* hold in equal parts reach *receivers*."""
        return self._fastest("transfer", size, tuple(senders), tuple(receivers))

    def route(self, sender: int, receiver: int) -> list[object]:
        """Return the vertices from one GPU to another: the path of least latency."""
        return self._routes(sender)[receiver]

    def _fastest(self, kind: str, size: float, *groups: tuple[int, ...]) -> float:
        if len(groups[0]) < 2 and len(groups) == 1:
            return 0.0
        return min(alpha + beta * size for alpha, beta in self._lines(kind, *groups))

    def _price(self, kind: str, *groups: tuple[int, ...]) -> tuple[Line, ...]:
        return tuple(self._line(rounds) for rounds in self._algorithms(kind, groups))

    def _algorithms(self, kind: str, groups: tuple[tuple[int, ...], ...]) -> Iterator[Rounds]:
        if kind == "transfer":
            return collectives.transfer(*groups)
        if kind == "all_to_all":
            return collectives.all_to_all(groups[0])
        return collectives.all_reduce(groups[0], self.preset.node)

    def _line(self, rounds: Rounds) -> Line:
        alpha = beta = 0.0
        for flows, times in rounds:
            load: defaultdict[tuple[object, object], float] = defaultdict(float)
            longest = 0.0
            for sender, receiver, share in flows:
                route = self.route(sender, receiver)
                edges = list(pairwise(route))
                longest = max(longest, sum(self.graph.edges[edge]["latency_s"] for edge in edges))
                for edge in edges:
                    load[edge] += share / self.graph.edges[edge]["bytes_per_s"]
            alpha += times * longest
            beta += times * max(load.values(), default=0.0)
        return Line(alpha, beta)

    def _routes_from(self, sender: int) -> dict[object, list[object]]:
        import networkx as nx

        found: dict[object, list[object]] = nx.single_source_dijkstra_path(self.graph, sender, weight="latency_s")
        return found
