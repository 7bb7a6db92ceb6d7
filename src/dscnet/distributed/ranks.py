"""The ranks of a run: which part of the work each does, and how their results are joined.

Every function works in a single process too, where it does nothing or returns its argument. All
ranks must call them in the same order.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")
P = ParamSpec("P")

PATIENCE = timedelta(days=2)
"""How long ranks wait for each other. The launcher stops them earlier if one of them fails."""

_alone = False
"""Whether the first rank works while the others wait; for all threads, unlike a ``ContextVar``."""


def join(accelerator: str) -> None:
    """Join the processes that ``torchrun`` has started, unless done before.

    Args:
        accelerator: Lightning's ``accelerator``; each rank of a machine uses a GPU of its own.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    backend = "gloo"
    if accelerator != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def group_size() -> int:
    """Number of ranks of the run, also in work that only the first rank does."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def world_size() -> int:
    """Number of ranks; 1 in a single process, and in work that only the first rank does."""
    return 1 if _alone else group_size()


def rank() -> int:
    """Index of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def local_size() -> int:
    """Number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if world_size() > 1 else 1


def barrier() -> None:
    """Wait until all ranks are here."""
    if world_size() > 1:
        # On the CPU, so that waiting is not limited by the timeout of the GPUs' watchdog.
        dist.all_reduce(torch.zeros(1))


def on_first(work: Callable[P, T]) -> Callable[P, T]:
    """Decorator: the first rank does the work and the others get its result.

    It starts when all ranks are there, so no rank still reads the files that it changes.
    """

    @wraps(work)
    def done(*args: P.args, **kwargs: P.kwargs) -> T:
        global _alone
        if world_size() == 1:
            return work(*args, **kwargs)
        barrier()
        result: list[T | None] = [None]
        if rank() == 0:
            _alone = True
            try:
                result = [work(*args, **kwargs)]
            finally:
                _alone = False
        dist.broadcast_object_list(result, device=torch.device("cpu"))
        return cast(T, result[0])

    return done


def own_part(items: Sequence[T]) -> Sequence[T]:
    """The items that this rank works on: every n-th of n ranks."""
    return items[rank() :: world_size()]


def share(items: Sequence[T]) -> Iterator[T]:
    """Iterate over :func:`own_part`; the loop ends when all ranks have done theirs."""
    yield from own_part(items)
    barrier()


def gather_parts(own: Sequence[T]) -> list[T]:
    """Join the results for the items of :func:`own_part`, in the order of the items."""
    parts = gather_objects(own)
    whole: list[T | None] = [None] * sum(len(part) for part in parts)
    for index, part in enumerate(parts):
        whole[index :: len(parts)] = part
    return cast(list[T], whole)


def gather_objects(own: T) -> list[T]:
    """An object of each rank, in the order of the ranks."""
    if world_size() == 1:
        return [own]
    everyone: list[T | None] = [None] * world_size()
    dist.all_gather_object(everyone, own)
    return cast(list[T], everyone)


def sum_over_ranks(*values: Tensor | NDArray[Any]) -> None:
    """Replace arrays, or tensors on the CPU, by their sums over the ranks, in place."""
    if world_size() > 1:
        for value in values:
            dist.all_reduce(torch.as_tensor(value))
