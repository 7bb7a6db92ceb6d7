"""Work on many files in threads: reading, computing and writing of neighbours overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(
    work: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    *,
    start: Callable[[], None] | None = None,
) -> Iterator[R]:
    """Apply a function to items in threads, a few items ahead of the consumer.

    Args:
        work: The function; must be safe to call from several threads.
        items: Its arguments; taken as needed.
        workers: Number of threads, >= 1. At most ``2 * workers`` results are held in memory.
        start: Called once in each thread before any work.

    Yields:
        The results, in the order of the items.

    Raises:
        Exception: The first that ``work`` raised, in the order of the items; items that were not
            started by then are not.
    """
    pool = ThreadPoolExecutor(workers, initializer=start)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
