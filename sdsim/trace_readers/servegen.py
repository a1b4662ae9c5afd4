"""ServeGen client traces (github.com/alibaba/ServeGen, Apache-2.0; Xiang et al., NSDI 2026).

A folder of clients, or one client's NAME-trace.csv. A trace has no requests but windows: start in s,
rate in requests/s, CV of the gaps, Gamma or Weibull, shape, scale. NAME-dataset.json beside it has
histograms of input and output tokens per window.

Requests are generated from them. A window of W s at rate r holds round(r W) requests, the count that
was published; their gaps and the one after the last have the window's law and shape, and are scaled
together to fill the window. For a Gamma of shape 1 that is a Poisson process given its count. The
published scale is not used: it contradicts the rate in a part of the windows. A window takes its
client's latest histograms; where there are none yet, or no file, those of the folder's other clients,
weighted by their requests, or the lengths that the caller gives; prompt and output are independent.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from sdsim.lengths import LengthLaw
from sdsim.policy import FloatArray, IntArray
from sdsim.streams import stream
from sdsim.trace_readers.histograms import Histogram, Histograms, pooled, read_histograms
from sdsim.trace_readers.mistakes import Mistakes
from sdsim.trace_readers.rows import Read, Rows
from sdsim.trace_readers.servegen_windows import MAX_REQUESTS, Window, read_windows

SUFFIX = "-trace.csv"


@dataclass(frozen=True, slots=True)
class Client:
    """One client: the windows in which it sends requests, by start, and its lengths."""

    name: str
    windows: dict[float, Window]
    lengths: Histograms


def reader(path: Path, seed: int, lengths: LengthLaw | None) -> Read:
    """Read and check the files of *path*; return a function that gives the requests that *seed* makes of them.

    *lengths* is the law of requests for which their client has no histogram, in place of the other clients'.
    """
    clients = [_client(file) for file in _files(path)]
    pool = None if lengths else pooled((client.lengths, client.windows) for client in clients)
    if pool is None and lengths is None:
        Mistakes(path).stop("no *-dataset.json with lengths beside the trace; one is needed; add it, or set lengths")
    starts = sorted({start for client in clients for start in client.windows})
    if not starts:
        Mistakes(path).stop("no window with a rate over 0; one is needed; give another client or folder")
    _check_grid(clients, starts, path)
    _check_sizes(clients, path)
    return lambda: (_generated(clients, starts, pool, lengths, seed), Mistakes(path))


def _check_grid(clients: Sequence[Client], starts: Sequence[float], path: Path) -> None:
    """Raise if windows of two clients overlap in part: requests are generated window after window."""
    following = dict(pairwise(starts))
    for client in clients:
        for start, window in client.windows.items():
            if start + window.length_s > following.get(start, math.inf):
                found = f"the window of {client.name} at {start:g} s ends after another client's next one begins"
                Mistakes(path).stop(f"{found}; the same windows in each file are allowed; give one client at a time")


def _check_sizes(clients: Sequence[Client], path: Path) -> None:
    """Raise if a window has more requests than can be generated at once."""
    requests: Counter[float] = Counter()
    for client in clients:
        requests.update({start: window.requests for start, window in client.windows.items()})
    start, most = max(requests.items(), key=lambda item: item[1])
    if most > MAX_REQUESTS:
        found = f"{most:,} requests in the window at {start:g} s"
        Mistakes(path).stop(f"{found}; up to {MAX_REQUESTS:,} are allowed; give fewer clients, or correct their rates")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in path.iterdir() if file.name.endswith(SUFFIX)]
    if not files:
        Mistakes(path).stop(f"a folder without *{SUFFIX}; one for each client is needed; give another folder")
    return sorted(files, key=_natural)


def _natural(file: Path) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def _client(file: Path) -> Client:
    windows = {window.start_s: window for window in read_windows(file) if window.requests}
    dataset = file.with_name(file.name.removesuffix(SUFFIX) + "-dataset.json")
    return Client(file.name, windows, read_histograms(dataset) if dataset.exists() else {})


def _generated(
    clients: Sequence[Client],
    starts: Sequence[float],
    pool: tuple[Histogram, Histogram] | None,
    lengths: LengthLaw | None,
    seed: int,
) -> Iterator[Rows]:
    for start in starts:
        parts = [
            _window(client, start, pool, lengths, stream(seed, "servegen", client.name, str(start)))
            for client in clients
            if start in client.windows
        ]
        times, prompts, outputs = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.argsort(times, kind="stable")
        yield Rows(times[order], prompts[order], outputs[order])


def _window(
    client: Client,
    start: float,
    pool: tuple[Histogram, Histogram] | None,
    lengths: LengthLaw | None,
    generator: np.random.Generator,
) -> tuple[FloatArray, IntArray, IntArray]:
    times = client.windows[start].arrivals(generator)
    before = [key for key in client.lengths if key <= start]
    histograms = client.lengths[max(before)] if before else pool
    if histograms is None:
        assert lengths is not None
        scores = generator.standard_normal((2, len(times)))
        return times, *lengths(scores[0], scores[1])
    prompt, output = (histogram.sample(generator.random(len(times))) for histogram in histograms)
    return times, prompt, output
