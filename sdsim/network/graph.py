"""The graph of a cluster: GPUs 0, 1, ..., switches, and between them links with a latency and a rate.

Links are directed, since they carry both directions at once. GPUs are numbered node after node.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

from sdsim.gpus import Gpu
from sdsim.network.presets import Preset

if TYPE_CHECKING:
    import networkx as nx

FABRIC = "fabric"
"""What the adapters of all nodes are on."""


def cluster_graph(gpus: Sequence[Gpu], preset: Preset) -> nx.DiGraph[object]:
    """Return the graph of *gpus*, in nodes as *preset* says; edges carry `latency_s` and `bytes_per_s`.

    A route within a node has the latency of the GPUs' smallest collective, which is one round of messages.
    """
    import networkx as nx  # 0.15 s to import, and a single GPU has no network

    graph: nx.DiGraph[object] = nx.DiGraph()
    graph.add_nodes_from(range(len(gpus)))
    for start in range(0, len(gpus), preset.node):
        node = range(start, min(start + preset.node, len(gpus)))
        (_add_switch if preset.inside == "switch" else _add_mesh)(graph, gpus, node, preset)
    if len(gpus) > preset.node:
        for gpu in range(len(gpus)):
            _join(graph, gpu, FABRIC, preset.nic_latency_s / 2, preset.nic_bytes_per_s)
    return graph


def _join(graph: nx.DiGraph[object], one: object, other: object, latency_s: float, bytes_per_s: float) -> None:
    graph.add_edge(one, other, latency_s=latency_s, bytes_per_s=bytes_per_s)
    graph.add_edge(other, one, latency_s=latency_s, bytes_per_s=bytes_per_s)


def _add_switch(graph: nx.DiGraph[object], gpus: Sequence[Gpu], node: range, preset: Preset) -> None:
    for i in node:
        rate = gpus[i].link_bandwidth * preset.inside_fraction
        _join(graph, i, f"switch {node.start // preset.node}", gpus[i].link_latency_s / 2, rate)


def _add_mesh(graph: nx.DiGraph[object], gpus: Sequence[Gpu], node: range, preset: Preset) -> None:
    for i, j in permutations(node, 2):
        rate = gpus[i].link_bandwidth * preset.inside_fraction / (preset.node - 1)
        graph.add_edge(i, j, latency_s=gpus[i].link_latency_s, bytes_per_s=rate)
