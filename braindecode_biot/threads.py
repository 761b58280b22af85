"""Threads that compute alone, each on one core.

Owns how windows are shared out among them. A product of small matrices that several
threads share waits for the slowest one each time; windows that go through a whole
network in one thread do not wait at all. Must not know what is computed.
"""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["run_each", "run_shares"]

Item = TypeVar("Item")
T = TypeVar("T")


def run_each(run: Callable[[int], T], n: int) -> list[T]:
    """Call a function with each index, whichever thread is free.

    Parameters
    ----------
    run : callable
        Takes an index.
    n : int
        Number of indices.

    Returns
    -------
    list
        What it returned, in order.

    Examples
    --------
    >>> run_each(lambda i: i**2, 4)
    [0, 1, 4, 9]
    """
    return _map(run, range(n))


def run_shares(
    run: Callable[[range], T], n: int, n_shares: int | None = None
) -> list[T]:
    """Call a function with shares of the indices that hang on nothing but their number.

    For sums over indices, which round otherwise where shares differ.

    Parameters
    ----------
    run : callable
        Takes the indices of a share.
    n : int
        Number of indices.
    n_shares : int | None
        Number of shares; None is one for each thread that torch may use here.

    Returns
    -------
    list
        What it returned for each share.

    Examples
    --------
    >>> run_shares(list, 5, n_shares=2)
    [[0, 2, 4], [1, 3]]
    """
    n_shares = min(n, n_shares or torch.get_num_threads())
    shares = [range(i, n, n_shares) for i in range(n_shares)]
    return [run(shares[0])] if n_shares == 1 else _map(run, shares)


def _map(run: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    n_threads = torch.get_num_threads()
    if n_threads > 1:
        try:
            results = _workers(n_threads).map(run, items)  # hands all out at once
        except RuntimeError:
            pass  # no more threads can be had, as where the main one has ended
        else:
            return list(results)
    return [run(item) for item in items]


@functools.cache
def _workers(n_threads: int) -> ThreadPoolExecutor:
    """Return threads that compute alone, each on one core."""
    everyone = threading.Barrier(n_threads)

    def start() -> None:
        torch.get_num_threads()  # a thread's first look takes over what holds for all
        torch.set_num_threads(1)
        everyone.wait()

    pool = ThreadPoolExecutor(n_threads, "biot", initializer=start)
    try:
        list(pool.map(lambda _: everyone.wait(), range(n_threads)))
    except RuntimeError:
        everyone.abort()  # or those that did start would wait for ever
        raise
    # What a thread sets for itself also holds for threads that start later: put back.
    torch.set_num_threads(n_threads)
    return pool


# Threads do not live on in a forked process, such as a worker of a DataLoader.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)
