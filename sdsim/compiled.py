"""Loops over arrays, compiled: numba translates them on first use and keeps the machine code on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile *function*, which reads and writes numbers and arrays alone; NUMBA_DISABLE_JIT=1 leaves it as it is."""
    if vars(numba.config).get(
        "DISABLE_JIT"
    ):  # numpy warns where the integers of a random stream wrap round, as they are meant to
        return np.errstate(over="ignore")(function)
    try:
        return cast(Function, numba.njit(cache=True)(function))
    except RuntimeError:  # no folder to keep it in: not beside the module, and not in the user's cache
        return cast(Function, numba.njit(function))
