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

from sdsim.policy import FloatArray

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1

_GOLDEN = np.uint64(GOLDEN)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = (np.uint64(shift) for shift in (30, 27, 31, 11))
_ROWS = 8192
"""Coins hashed at a time: two buffers of 64 KiB stay in the L2 cache."""

Integers = int | npt.NDArray[np.int64] | npt.NDArray[np.uint64]


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of the quantity called *names*: Philox, keyed by a hash of *seed* and *names*."""
    entropy = int.from_bytes(_digest(seed, *names), "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def coins(seed: int, name: str, request_ids: Integers, positions: Integers) -> FloatArray:
    """Return the coins of *request_ids* at *positions*, broadcast together: float64 in [0, 1).

    Ids of shape (rows, 1) and positions of shape (1, K) give a (rows, K) array, and the hash of an id
    is then computed once a row.
    """
    ids, places = _unsigned(request_ids), _unsigned(positions)
    shape = np.broadcast_shapes(ids.shape, places.shape)
    state = _sequence(np.atleast_1d(ids), coin_key(seed, name))
    _mix_blocks(state)
    steps = _sequence(np.atleast_1d(places), 0)
    mixed = np.add(state, steps, order="C")
    uniform = np.empty(mixed.shape)
    _mix_blocks(mixed, uniform)
    return uniform.reshape(shape)


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


def _unsigned(values: Integers) -> npt.NDArray[np.uint64]:
    if isinstance(values, int):
        return np.array([values & MASK], dtype=np.uint64).reshape(())
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"coins take integer ids and positions, not {array.dtype}")
    return array.astype(np.uint64, copy=False)


def _sequence(numbers: npt.NDArray[np.uint64], start: int) -> npt.NDArray[np.uint64]:
    """Return start + (numbers + 1) G as a new C-ordered array, which `_mix_blocks` can flatten without a copy."""
    steps = np.add(numbers, np.uint64(1), order="C")
    np.multiply(steps, _GOLDEN, out=steps)
    return np.add(steps, np.uint64(start), out=steps)


def _mix_blocks(values: npt.NDArray[np.uint64], uniform: FloatArray | None = None) -> None:
    """Mix *values* in place, block by block; fill *uniform* of the same shape with the top 53 bits, if given."""
    flat = values.reshape(-1)
    out = None if uniform is None else uniform.reshape(-1)
    spare = np.empty(min(_ROWS, flat.size), dtype=np.uint64)
    for start in range(0, flat.size, _ROWS):
        block = flat[start : start + _ROWS]
        _mix(block, spare[: block.size])
        if out is not None:
            np.right_shift(block, _S11, out=block)
            np.multiply(block, 2.0**-53, out=out[start : start + block.size])


def _mix(z: npt.NDArray[np.uint64], spare: npt.NDArray[np.uint64]) -> None:
    np.right_shift(z, _S30, out=spare)
    np.bitwise_xor(z, spare, out=z)
    np.multiply(z, _FIRST, out=z)
    np.right_shift(z, _S27, out=spare)
    np.bitwise_xor(z, spare, out=z)
    np.multiply(z, _SECOND, out=z)
    np.right_shift(z, _S31, out=spare)
    np.bitwise_xor(z, spare, out=z)
