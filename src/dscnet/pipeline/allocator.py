"""Keeps freed memory in the process while a network is trained on CPUs.

glibc returns each freed block above 32 MiB to the system at once, so that every step of a training
pays for its large activations in page faults: a tenth of a step of SEAM, a seventh of one of
DeepLabV3+ (docs/speed.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Options of ``mallopt`` (malloc.h)."""

KEPT = {TRIM_THRESHOLD: 2**31 - 1, MMAP_THRESHOLD: 2**30}
USUAL = {TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25}
"""Where glibc's own adjustment of its thresholds ends."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory until the end of the block; no effect without glibc."""
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
