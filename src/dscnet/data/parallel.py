"""Work on many photos at once, by threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS_OF_GPU = 4
"""Enough to read and write while the GPU computes."""

AHEAD = 4
"""Items per thread that are under way or finished and not yet used: bounds the memory."""


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Iterator[Result]:
    """Apply a function to items, one per thread, in their order.

    On a CPU each thread uses one core: small networks keep two cores busy with two photos, but not
    with two halves of one photo.

    Args:
        work: The function; PyTorch and file operations run in parallel.
        items: What it is applied to.
        device: Device that it computes on.

    Yields:
        Its results, in order. An exception ends the iteration; items not yet begun are dropped.
    """
    cores = torch.get_num_threads()
    on_cpu = device.type == "cpu"
    threads = min(cores if on_cpu else THREADS_OF_GPU, max(1, len(items)))
    if threads == 1:
        yield from map(work, items)
        return
    initializer = (lambda: torch.set_num_threads(1)) if on_cpu else (lambda: None)
    pool = ThreadPoolExecutor(threads, initializer=initializer)
    try:
        waiting = iter(items)
        queue = [pool.submit(work, item) for item in islice(waiting, AHEAD * threads)]
        while queue:
            yield queue.pop(0).result()
            queue += [pool.submit(work, item) for item in islice(waiting, 1)]
    finally:
        pool.shutdown(cancel_futures=True)
        # Threads that start later inherit the last setting of any thread.
        torch.set_num_threads(cores)
