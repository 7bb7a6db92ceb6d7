"""Decoded photos in memory, of one process or shared by all workers of a loader."""

from __future__ import annotations

import math
import mmap
import multiprocessing
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_DTYPES = (torch.uint8, torch.float32, torch.float16, torch.float64)
_MOST_AXES = 3
_ALIGNED = 16  # bytes
_ROW = 3 + _MOST_AXES
"""Of a tensor: 1 + place of its dtype in ``_DTYPES`` (0 = no tensor), start, axes, shape."""

Planes = tuple[Tensor | None, ...]


class PhotoCache:
    """Tensors by index, up to a number of bytes, in this process.

    Args:
        limit: Maximum number of bytes; 0 = nothing is kept. In a worker process, of all workers
            together: each takes its part.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[int, Planes] = {}
        self._used = 0

    def get(self, index: int) -> Planes | None:
        """The tensors of an item, not to be changed; None if it is not kept."""
        return self._kept.get(index)

    def put(self, index: int, planes: Planes) -> None:
        """Keep the tensors of an item if there is room."""
        worker = get_worker_info()
        limit = self._limit // (1 if worker is None else worker.num_workers)
        size = sum(plane.nbytes for plane in planes if plane is not None)
        if index not in self._kept and self._used + size <= limit:
            self._kept[index] = planes
            self._used += size


class SharedPhotoCache:
    """The same, shared by a loader and all its workers within one limit.

    It is in anonymous shared memory, which is taken from the system as it is filled: worker
    processes forked from this one read what the others wrote. A worker that is started otherwise
    (spawned) gets a ``PhotoCache`` of its own instead.

    Args:
        count: Number of items.
        planes: Number of tensors of each item.
        limit: Maximum number of bytes; 0 = nothing is kept.
    """

    def __init__(self, count: int, planes: int, limit: int) -> None:
        self._limit = limit
        self._lock = multiprocessing.Lock()
        # Not of /dev/shm, as torch's shared tensors are, which is small in containers.
        self._memory = mmap.mmap(-1, max(limit, 1))
        index = mmap.mmap(-1, 8 * (1 + count * planes * _ROW))
        self._used, rows = torch.frombuffer(index, dtype=torch.int64).tensor_split([1])
        self._rows = rows.view(count, planes, _ROW)

    def __reduce__(self) -> tuple[type[PhotoCache], tuple[int]]:
        """What a process gets that does not inherit the memory."""
        return PhotoCache, (self._limit,)

    def get(self, index: int) -> Planes | None:
        """The tensors of an item, not to be changed; None if it is not kept."""
        with self._lock:
            rows = self._rows[index].tolist()
        return tuple(map(self._tensor, rows)) if any(row[0] for row in rows) else None

    def put(self, index: int, planes: Planes) -> None:
        """Keep the tensors of an item if there is room."""
        sizes = [0 if plane is None else _padded(plane.nbytes) for plane in planes]
        with self._lock:
            start = int(self._used)
            if self._rows[index].any() or start + sum(sizes) > self._limit:
                return
            self._used += sum(sizes)
        rows = torch.zeros(len(planes), _ROW, dtype=torch.int64)
        for row, plane, size in zip(rows, planes, sizes, strict=True):
            if plane is not None:
                row[:] = torch.tensor(_row_of(plane, start))
                self._tensor(row.tolist()).copy_(plane)  # type: ignore[union-attr]
                start += size
        with self._lock:
            self._rows[index] = rows

    def _tensor(self, row: Sequence[int]) -> Tensor | None:
        """The tensor in memory that a row describes."""
        kind, start, axes, *shape = row
        if kind == 0:
            return None
        dtype, shape = _DTYPES[kind - 1], shape[:axes]
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        count = math.prod(shape)
        return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=start).view(shape)


def _row_of(plane: Tensor, start: int) -> list[int]:
    shape = [*plane.shape, *[0] * (_MOST_AXES - plane.ndim)]
    return [1 + _DTYPES.index(plane.dtype), start, plane.ndim, *shape]


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
