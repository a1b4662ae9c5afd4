"""Networks: routes, closed forms of collectives, and laws that any price must keep."""

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsim.errors import ScenarioError
from sdsim.gpus import load_gpu
from sdsim.network import Network, load_network, network_names
from sdsim.network.graph import FABRIC

H200 = load_gpu("h200")
HGX = load_network("hgx")
RATE = H200.link_bandwidth * HGX.inside_fraction
MB = 1e6


def hgx(gpus=16):
    return Network([H200] * gpus, HGX)


def test_routes_stay_within_a_node_where_they_can():
    network = hgx()
    assert network.route(0, 7) == [0, "switch 0", 7]
    assert network.route(0, 8) == [0, FABRIC, 8]
    assert nx.is_strongly_connected(network.graph)


def test_two_gpus_reduce_at_the_rate_of_their_link():
    """Small: one round. Large: each sends its half of the sums and of the summands, all bytes once."""
    network = hgx()
    assert network.all_reduce(1.0, (0, 1)) == pytest.approx(H200.link_latency_s, rel=1e-3)
    assert network.all_reduce(1e9, (0, 1)) == pytest.approx(1e9 / RATE, rel=0.01)


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_large_all_reduce_moves_what_a_ring_moves(gpus):
    """2 (n - 1) / n of the bytes through each link, which is the least that any algorithm without multicast can do."""
    found = hgx(8).all_reduce(10e9, range(gpus))
    assert found == pytest.approx(2 * (gpus - 1) / gpus * 10e9 / RATE, rel=0.01)


def test_nodes_reduce_over_their_adapters():
    """Two-level: an eighth of the payload through each adapter, twice (m - 1) / m of it for m nodes."""
    found = hgx(16).all_reduce(8e9, range(16))
    inside, between = 2 * 7 / 8 * 8e9 / RATE, 2 * (1 / 2) * 1e9 / HGX.nic_bytes_per_s
    assert found == pytest.approx(inside + between, rel=0.01)


def test_all_to_all_fills_each_link_once():
    assert hgx(8).all_to_all(7e9, range(8)) == pytest.approx(7e9 / RATE, rel=0.01)
    outside = 8 / 15 * 15e9 / HGX.nic_bytes_per_s
    assert hgx(16).all_to_all(15e9, range(16)) == pytest.approx(outside, rel=0.01)


@pytest.mark.parametrize(("ranks", "dispatch_us", "combine_us"), [(16, 118, 195), (64, 173, 314), (128, 192, 369)])
def test_exchanges_are_near_the_published_ones(ranks, dispatch_us, combine_us):
    """DeepEP's low-latency kernels (H800, NDR, its README): 128 tokens of 7,168, top 8 of 288, fp8 out and bf16 back.

    They send a token once for each expert, all of it over the adapters; 16 ranks here keep half of it inside.
    """
    network = Network([load_gpu("h800")] * ranks, HGX)
    payload = 128 * 8 * 7168
    for width, published_us in ((1, dispatch_us), (2, combine_us)):
        predicted_us = 1e6 * network.all_to_all(width * payload, range(ranks))
        low, high = (0.6, 1.3) if ranks > 16 else (0.4, 1.3)
        assert low < predicted_us / published_us < high


def test_kv_goes_by_as_many_adapters_as_both_sides_have():
    network = hgx(32)
    one = network.transfer(1e9, [0], [8])
    assert one == pytest.approx(1e9 / HGX.nic_bytes_per_s, rel=0.01)
    assert network.transfer(1e9, range(8), range(8, 16)) == pytest.approx(one / 8, rel=0.01)
    assert network.transfer(1e9, range(8), range(8, 12)) == pytest.approx(one / 4, rel=0.01)
    assert network.transfer(1e9, [0], [1]) == pytest.approx(1e9 / RATE, rel=0.01)


def test_a_mesh_shares_the_links_of_a_gpu():
    mesh = load_network("mesh")
    network = Network([H200] * 4, mesh)
    assert network.route(0, 3) == [0, 3]
    assert network.all_to_all(3e9, range(4)) == pytest.approx(
        3e9 / (H200.link_bandwidth * mesh.inside_fraction), rel=0.01
    )
    assert network.transfer(1e9, [0], [1]) == pytest.approx(
        3e9 / (H200.link_bandwidth * mesh.inside_fraction), rel=0.01
    )


def test_slower_gpus_slow_the_group():
    mixed = Network([H200, load_gpu("a100")], HGX)
    assert mixed.all_reduce(1e9, (0, 1)) == pytest.approx(1e9 / (300e9 * HGX.inside_fraction), rel=0.01)


@settings(deadline=None)
@given(
    st.sampled_from(network_names()),
    st.integers(2, 20),
    st.floats(1, 1e9),
    st.floats(1, 8),
    st.sampled_from(["all_reduce", "all_to_all"]),
)
def test_prices_grow_with_bytes_and_never_faster(name, gpus, size, more, kind):
    network = Network([H200] * gpus, load_network(name))
    one, other = (getattr(network, kind)(n, range(gpus)) for n in (size, more * size))
    assert 0 < one <= other <= more * one * (1 + 1e-9)


def test_one_gpu_talks_to_nobody():
    assert hgx(1).all_reduce(MB, [0]) == hgx(1).all_to_all(MB, [0]) == 0.0


def test_an_unknown_network_is_refused():
    with pytest.raises(ScenarioError, match="did you mean hgx"):
        load_network("hgxx")
