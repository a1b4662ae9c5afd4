"""Named random streams, and the coins that decide acceptance.

Two kinds of randomness, both a pure function of the scenario's seed and a name:

* `stream` gives a NumPy generator for quantities that are drawn in order: arrivals, lengths, classes.
  Each quantity has its own, so drawing more of one never moves another.
* `coins` gives one number in [0, 1) for each (request, position) without any state, so that a coin is
  the same under every policy, every batching and every order of evaluation.

The coin of request r at position j is the (j + 1)-th output of a SplitMix64 generator (Steele, Lea and
Flood 2014; constants as in Vigna's splitmix64.c) whose seed is itself a hash of r. Exactly, with all
arithmetic modulo 2**64 and negative numbers in two's complement:

    mix(z)  = z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31
    G       = 0x9E3779B97F4A7C15
    key     = the first 8 bytes, little-endian, of digest(seed, "coins", name)
    state   = mix(key + (r + 1) * G)
    u(r, j) = (mix(state + (j + 1) * G) >> 11) / 2**53

and digest(seed, *names) is BLAKE2b with 16 bytes of output over the concatenation, seed first, of each
item as the decimal byte length of its text, `:`, a tag (`i` for an integer, `s` for a string), and its
UTF-8 text; an integer's text is its decimal form.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from sdsim.compiled import compiled
from sdsim.policy import FloatArray, IntArray

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1

_GOLDEN = np.uint64(GOLDEN)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = (np.uint64(shift) for shift in (30, 27, 31, 11))
_ONE = np.uint64(1)
_MOST = 255

Integers = int | npt.NDArray[np.int64] | npt.NDArray[np.uint64]
Unsigned = npt.NDArray[np.uint64]
Depths = npt.NDArray[np.uint8]
"""Drafts that a chain from each output position would have accepted."""


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of the quantity called *names*: Philox, keyed by a hash of *seed* and *names*."""
    entropy = int.from_bytes(_digest(seed, *names), "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def coins(seed: int, name: str, request_ids: Integers, positions: Integers) -> FloatArray:
    """Return the coins of *request_ids* at *positions*, broadcast together: float64 in [0, 1)."""
    ids, places = np.broadcast_arrays(_unsigned(request_ids), _unsigned(positions))
    uniform = np.empty(ids.shape)
    # copies: a view of what was broadcast warns as soon as numba asks numpy 1.26 whether it may be written
    _toss(np.uint64(coin_key(seed, name)), ids.flatten(), places.flatten(), uniform.reshape(-1))
    return uniform


def runs(seed: int, name: str, request_ids: IntArray, widths: IntArray, rates: FloatArray) -> Depths:
    """Return the lengths, at most 255, of the runs of coins below a request's rate that begin at each of its positions.

    Those of a request's positions 0 to width - 1 stand together, request after request; a run ends at the width.
    """
    lengths = np.empty(int(widths.sum()), dtype=np.uint8)
    _run(np.uint64(coin_key(seed, name)), _unsigned(request_ids), widths, rates, lengths)
    return lengths


@lru_cache(maxsize=1024)
def coin_key(seed: int, name: str) -> int:
    """Return the 64-bit key of the coins called *name*."""
    return int.from_bytes(_digest(seed, "coins", name)[:8], "little")


def _digest(*items: str | int) -> bytes:
    text = b"".join(_tagged(item) for item in items)
    return blake2b(text, digest_size=16).digest()


def _tagged(item: str | int) -> bytes:
    text = str(item).encode()
    return b"%d:%s%s" % (len(text), b"s" if isinstance(item, str) else b"i", text)


def _unsigned(values: Integers) -> Unsigned:
    if isinstance(values, int):
        return np.array([values & MASK], dtype=np.uint64).reshape(())
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"coins take integer ids and positions, not {array.dtype}")
    return array.astype(np.uint64, copy=False)


@compiled
def _mix(z: np.uint64) -> np.uint64:
    z ^= z >> _S30
    z *= _FIRST
    z ^= z >> _S27
    z *= _SECOND
    z ^= z >> _S31
    return z


@compiled
def _coin(state: np.uint64, position: np.uint64) -> float:
    return (_mix(state + (position + _ONE) * _GOLDEN) >> _S11) * 2.0**-53


@compiled
def _toss(key: np.uint64, ids: Unsigned, positions: Unsigned, uniform: FloatArray) -> None:
    state, last = _mix(key + (ids[0] + _ONE) * _GOLDEN) if len(ids) else key, ids[0] if len(ids) else key
    for i in range(len(ids)):
        if ids[i] != last:
            state, last = _mix(key + (ids[i] + _ONE) * _GOLDEN), ids[i]
        uniform[i] = _coin(state, positions[i])


@compiled
def _run(key: np.uint64, ids: Unsigned, widths: IntArray, rates: FloatArray, lengths: Depths) -> None:
    start = 0
    for i in range(len(ids)):
        state, run = _mix(key + (ids[i] + _ONE) * _GOLDEN), 0
        for position in range(widths[i] - 1, -1, -1):
            won = _coin(state, np.uint64(position)) < rates[i]
            run = min(run + 1, _MOST) if won else 0
            lengths[start + position] = run
        start += widths[i]
