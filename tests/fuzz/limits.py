"""What one input may take: five seconds of the processor, and five hundred megabytes beyond what the process holds."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SECONDS = 5
BYTES = 500e6


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raise AssertionError if the block takes longer, or at some time more memory, than one input may."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held = _held("VmRSS")
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    if (more := _held("VmHWM") - held) > BYTES:
        raise AssertionError(f"{more / 1e6:,.0f} MB")


def _held(key: str) -> float:
    """Return the bytes that the kernel tells of this process under *key*."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(status[key].split()[0]) * 1024
