"""Processes that share work: this one, a local pool, or a dask.distributed cluster, all through one map.

Items travel in chunks that shrink towards the end, so that sending costs little and the last worker does not run alone
for long. What a worker reads, such as a calibration, it keeps: it is parsed once a process.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sdsim.errors import ScenarioError, SdsimError
from sdsim.fingerprint import package_digest

Item = TypeVar("Item")
Found = TypeVar("Found")

LONGEST_CHUNK = 4
"""Items: what a worker that is killed loses at most."""
CONNECT_S = 10
CHECK_S = 30


@dataclass(frozen=True, slots=True)
class Workers:
    """An executor and how many items it runs at a time; no executor: this process, one after another."""

    executor: Executor | None = None
    count: int = 1
    check: Callable[[], None] = lambda: None
    """Raises SdsimError if nobody is left to work; called now and then."""

    def map(self, work: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[tuple[int, Found]]:
        """Yield (place in *items*, work(item)) as they finish. Raises SdsimError if a worker ends before its work."""
        if self.executor is None:
            yield from ((place, work(item)) for place, item in enumerate(items))
            return
        places: dict[Future[list[Found]], int] = {}
        for start, stop in chunks(len(items), self.count):
            places[self.executor.submit(_work, work, items[start:stop])] = start
        for future in _finished(set(places), self.check):
            found = _result(future)
            yield from enumerate(found, places.pop(future))


IN_PROCESS = Workers()


def chunks(count: int, workers: int) -> Iterator[tuple[int, int]]:
    """Yield consecutive (start, stop) that cover *count* items, the last of them single."""
    start = 0
    while start < count:
        stop = start + min(max((count - start) // (8 * workers), 1), LONGEST_CHUNK)
        yield start, stop
        start = stop


def _work(work: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    return [work(item) for item in items]


def _finished(left: set[Future[Found]], check: Callable[[], None]) -> Iterator[Future[Found]]:
    """Yield the futures *left* as they finish; where none might any more, *check* raises."""
    while left:
        try:
            for future in as_completed(left, timeout=CHECK_S):
                left.discard(future)
                yield future
        except TimeoutError:
            check()


def _result(future: Future[Found]) -> Found:
    try:
        return future.result()
    except BrokenExecutor:
        raise _ended() from None
    except CancelledError:
        raise SdsimError("the cluster's scheduler ended before the work did; start it again, and its workers") from None
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            raise
        raise _ended() from None


def _ended() -> SdsimError:
    return SdsimError(
        "a worker process ended before its work did; allowed: workers that stay; "
        "it may have run out of memory: use fewer processes, or smaller runs"
    )


@contextmanager
def local_workers(jobs: int) -> Iterator[Workers]:
    """Yield *jobs* processes, forked where the system can: they start with everything imported. One is this process."""
    if jobs == 1:
        yield IN_PROCESS
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_follow_parent) as pool:
        try:
            with _interrupts_held():
                pool.submit(_nothing)
            yield Workers(pool, jobs)
        except BaseException:
            running: list[Any] = list((pool._processes or {}).values())
            thread: Any = pool._executor_manager_thread
            # the pool itself cancels what waits: its thread fails on what others have cancelled
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:  # what they are at, nobody waits for
                process.terminate()
            if thread is not None:
                thread.join()  # one that closes its pipe while the interpreter exits fails there
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let interrupts wait: a process that is just being forked would raise what is its parent's to say."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _nothing() -> None:
    """Work that makes a pool start its processes."""


def _follow_parent() -> None:
    """Leave interrupts to the parent, and end when it is gone: one that was killed cannot tell its pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def cluster_workers(address: str) -> Iterator[Workers]:
    """Yield the workers of the dask.distributed scheduler at *address*.

    Raises ScenarioError if there is none, if it has no workers, or if one of them runs another sdsim than this.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ScenarioError("--cluster: needs dask.distributed; install it with pip install 'sdsim[cluster]'") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # whose end is said here, in a line
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        found = f"no scheduler answers at {address!r} ({str(error) or type(error).__name__})"
        raise ScenarioError(f"--cluster: {found}; allowed: such as tcp://host:8786; start a dask scheduler") from None
    with client:
        _check_workers(client, address)
        count = sum(client.nthreads().values())
        yield Workers(client.get_executor(pure=False), count, partial(_await_worker, client, address))


def _await_worker(client: Any, address: str) -> None:
    """Return once there is a worker; raise ScenarioError if none comes."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError:
        found = f"{address} has no workers; allowed: one or more; start dask worker {address} --nthreads 1"
        raise ScenarioError(f"--cluster: {found}") from None


def _check_workers(client: Any, address: str) -> None:
    _await_worker(client, address)
    try:
        digests = client.run(package_digest)
    except ImportError as error:
        raise ScenarioError(f"--cluster: the workers have no sdsim ({error}); install it where they run") from None
    others = sorted(worker for worker, digest in digests.items() if digest != package_digest())
    if others:
        found = f"{', '.join(others)} run another sdsim, numpy or scipy than this process"
        raise ScenarioError(f"--cluster: {found}; allowed: the same, so that figures agree; install the same there")
