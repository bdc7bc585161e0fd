"""Students side by side on a CPU: small networks gain little from several threads, several of them much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Mapper = Callable[[Callable[[Item], Result], Sequence[Item]], list[Result]]


def one_by_one(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``work`` of each item, in order."""
    return [work(item) for item in items]


@contextmanager
def side_by_side(count: int, device: torch.device) -> Iterator[Mapper]:
    """Yield what maps a function over ``count`` students, on the CPU as many at a time as torch has threads.

    The process's threads are shared out evenly: with fewer students than threads each has several. Every student's
    numbers are those it has with that many threads, whoever is beside it. Where there is nothing to share, and on
    other devices, students take turns.
    """
    threads = torch.get_num_threads()
    workers = min(count, threads)
    if device.type != "cpu" or workers < 2:
        yield one_by_one
        return
    begun = Barrier(workers + 1)

    def begin() -> None:
        begun.wait()  # so that every worker is there, and none begins later with what the main thread has set
        torch.set_num_threads(threads // workers)
        torch.get_num_threads()  # torch takes the number over at a thread's first question
        begun.wait()

    with ThreadPoolExecutor(workers) as pool:
        ready = [pool.submit(begin) for _ in range(workers)]
        begun.wait()
        begun.wait()
        for one in ready:
            one.result()
        torch.set_num_threads(threads)  # the main thread's own, and what threads begin with from now on
        yield lambda work, items: list(pool.map(work, items))
