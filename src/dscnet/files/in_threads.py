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
    workers: int = 1,
    *,
    ahead: int | None = None,
    start: Callable[[], None] | None = None,
) -> Iterator[R]:
    """Apply a function to items in threads, a few items ahead of the consumer.

    The items are taken in the consumer's thread, so that a generator of results followed by
    a function that writes them computes in one thread and writes in another.

    Args:
        work: The function; must be safe to call from several threads.
        items: Its arguments; taken as needed.
        workers: Number of threads, >= 1.
        ahead: Items started before the result of an earlier one is taken, >= 0, as they and
            their results take memory; None = ``2 * workers - 1``.
        start: Called once in each thread before any work.

    Yields:
        The results, in the order of the items.

    Raises:
        Exception: The first that ``work`` raised, in the order of the items; items that were not
            started by then are not.
    """
    most = 2 * workers if ahead is None else ahead + 1
    pool = ThreadPoolExecutor(workers, initializer=start)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
