"""Streams and coins: the written rule, and what a good random number must pass."""

from __future__ import annotations

import time
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sdsim.streams import coin_key, coins, stream

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1

seeds = st.integers(-(2**70), 2**70)
names = st.text(max_size=12)
words = st.integers(-(2**63), 2**63 - 1)


def mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def tagged(item: str | int) -> bytes:
    text = str(item).encode()
    return str(len(text)).encode() + b":" + (b"i" if isinstance(item, int) else b"s") + text


def coin(seed: int, name: str, request: int, position: int) -> float:
    """Return the coin as the module's docstring defines it, in plain Python."""
    items = (seed, "coins", name)
    digest = blake2b(b"".join(tagged(item) for item in items), digest_size=16).digest()
    state = mix((int.from_bytes(digest[:8], "little") + (request + 1) * GOLDEN) & MASK)
    return (mix((state + (position + 1) * GOLDEN) & MASK) >> 11) / 2**53


@pytest.mark.parametrize(
    ("seed", "name", "request_id", "position", "expected"),
    [
        (7, "acceptance", 0, 0, 0.3205731554318778),
        (7, "acceptance", 0, 1, 0.8252407885738401),
        (7, "acceptance", 1, 0, 0.5969691149294197),
        (8, "acceptance", 0, 0, 0.01959304719340027),
        (7, "draft-available", 0, 0, 0.9320395654216116),
        (0, "", 999_999, 4095, 0.5980344468384458),
    ],
)
def test_a_few_coins_never_change(seed: int, name: str, request_id: int, position: int, expected: float) -> None:
    assert coins(seed, name, request_id, position) == expected
    assert coin(seed, name, request_id, position) == expected


def test_splitmix64_gives_its_published_outputs() -> None:
    """Seed 1234567 gives these five numbers in the reference implementation (Rosetta Code, Vigna)."""
    outputs = [mix((1234567 + (i + 1) * GOLDEN) & MASK) for i in range(5)]
    assert outputs == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(seeds, names, words, words)
def test_the_written_rule_is_the_implemented_one(seed: int, name: str, request: int, position: int) -> None:
    assert float(coins(seed, name, request, position)) == coin(seed, name, request, position)


@given(seeds, st.lists(st.tuples(words, words), min_size=1, max_size=50))
def test_a_coin_does_not_depend_on_its_batch(seed: int, pairs: list[tuple[int, int]]) -> None:
    ids, positions = (np.array(column) for column in zip(*pairs, strict=True))
    together = coins(seed, "x", ids, positions)
    assert [float(coins(seed, "x", *pair)) for pair in pairs] == together.tolist()
    shuffled = np.random.default_rng(abs(seed)).permutation(len(pairs))
    assert np.array_equal(coins(seed, "x", ids[shuffled], positions[shuffled]), together[shuffled])


def test_shapes_broadcast_whatever_the_memory_order() -> None:
    ids, positions = np.arange(300), np.arange(100)
    table = coins(3, "x", ids[:, None], positions[None, :])
    assert table.shape == (300, 100)
    flat = coins(3, "x", np.repeat(ids, 100), np.tile(positions, 300))
    assert np.array_equal(table.ravel(), flat)
    grid = np.asfortranarray(np.broadcast_to(ids[:, None], (300, 100)))
    assert np.array_equal(coins(3, "x", grid, positions), table)
    assert np.array_equal(coins(3, "x", ids[::3], 5), table[::3, 5])
    assert np.array_equal(coins(3, "x", ids.astype(np.uint64)[:, None], positions), table)
    assert coins(3, "x", np.arange(0), 1).shape == (0,)


def test_arguments_are_left_alone_and_must_be_integers() -> None:
    ids = np.arange(10)
    coins(1, "x", ids, ids)
    assert np.array_equal(ids, np.arange(10))
    with pytest.raises(TypeError, match="integer"):
        coins(1, "x", np.array([0.5]), 0)  # type: ignore[arg-type]


def test_coins_are_uniform() -> None:
    u = coins(7, "acceptance", np.arange(2000)[:, None], np.arange(500)[None, :])
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert stats.kstest(u.ravel(), "uniform").pvalue > 0.01
    assert stats.kstest(u[:, 0], "uniform").pvalue > 0.01
    assert stats.kstest(u.mean(axis=1) * np.sqrt(12 * 500) - np.sqrt(3 * 500), "norm").pvalue > 0.01


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("lag", [1, 2, 3, 8, 64])
def test_neighbours_are_independent(axis: int, lag: int) -> None:
    u = coins(7, "acceptance", np.arange(1000)[:, None], np.arange(1000)[None, :])
    size = u.shape[axis]
    early, late = (u.take(np.arange(*part), axis=axis).ravel() for part in ((0, size - lag), (lag, size)))
    assert abs(np.corrcoef(early, late)[0, 1]) < 4.0 / np.sqrt(early.size)
    cells = np.histogram2d(early, late, bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.ravel()).pvalue > 0.001


def test_runs_of_won_coins_are_geometric() -> None:
    """The use that the simulator makes of them: with q = 0.8 a run has length n with probability 0.2 x 0.8^n."""
    won = coins(7, "acceptance", np.arange(200_000)[:, None], np.arange(40)[None, :]) < 0.8
    runs = np.argmin(won, axis=1)
    seen = np.bincount(runs, minlength=12)[:12]
    expected = 200_000 * 0.2 * 0.8 ** np.arange(12)
    seen, expected = (np.append(counts, 200_000 - counts.sum()) for counts in (seen, expected))
    assert stats.chisquare(seen, expected).pvalue > 0.01


def test_seeds_and_names_give_other_coins() -> None:
    ids = np.arange(100_000)
    base = coins(7, "acceptance", ids, 0)
    for other in (coins(8, "acceptance", ids, 0), coins(7, "acceptance2", ids, 0), coins(-7, "acceptance", ids, 0)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 4.0 / np.sqrt(len(ids))
    assert len({coin_key(seed, name) for seed in range(100) for name in "abc"}) == 300


def test_a_coin_costs_a_few_nanoseconds() -> None:
    """The aim is 15 ns; the bound leaves room for a busy machine."""
    ids, positions = np.repeat(np.arange(5000), 200), np.tile(np.arange(200), 5000)
    seconds = []
    for _ in range(8):
        start = time.process_time()
        coins(7, "acceptance", ids, positions)
        seconds.append(time.process_time() - start)
    assert min(seconds) / len(ids) < 60e-9


def test_streams_are_named() -> None:
    assert stream(7, "arrivals").random() == stream(7, "arrivals").random()
    draws = [
        stream(*key).random()
        for key in ((7, "arrivals"), (8, "arrivals"), (-7, "arrivals"), (7, "a", "b"), (7, "ab"), (7, "a", "b", ""))
    ]
    draws += [stream(7, 1).random(), stream(7, "1").random(), stream(7, "a", 1).random(), stream(7, "a1").random()]
    assert len(set(draws)) == len(draws)


def test_a_stream_never_changes() -> None:
    assert stream(7, "arrivals").random() == 0.7106296313303364
