"""Facts of the machine that every launch needs, and the one switch of the interpreter."""

import os

# Triton's interpreter (TRITON_INTERPRET=1) computes bf16 dots and bf16 arithmetic silently wrong: with UPCAST, every
# kernel widens its operands to fp32 right after loading them. On a GPU it is False and the branch disappears.
UPCAST = os.environ.get("TRITON_INTERPRET") == "1"
SMS = 132  # streaming multiprocessors of an H100 or H200
L2_BYTES = 60 * 2**20  # what an H200 reports


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The smallest power of two that is n or more."""
    return 1 << max(0, n - 1).bit_length()
