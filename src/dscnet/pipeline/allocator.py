"""Memory of training steps on CPUs, neither returned to the system nor filled.

glibc returns each freed block above 32 MiB to the system at once, so that every step pays for its
large activations in page faults. And PyTorch's deterministic mode fills every new tensor, in case
something reads what it has not written; nothing here does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Options of ``mallopt`` (malloc.h)."""

KEPT = {TRIM_THRESHOLD: 2**31 - 1, MMAP_THRESHOLD: 2**30}
USUAL = {TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25}
"""Where glibc's own adjustment of its thresholds ends."""


@contextmanager
def fast_allocation() -> Iterator[None]:
    """Keep freed memory until the end of the block, if the library is glibc; leave it unfilled."""
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with _freed_memory_kept():
            yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


@contextmanager
def _freed_memory_kept() -> Iterator[None]:
    try:
        libc = ctypes.CDLL(None)
        _, _ = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):
        yield
        return
    for option, value in KEPT.items():
        libc.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in USUAL.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
