"""CPU threads of tensor operations: how many, and how they wait for each other."""

from __future__ import annotations

import os
import sys

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


SPINS = 1000
"""Tens of microseconds: with none, waking a thread takes longer than many operations."""


def spin_briefly() -> None:
    """Let OpenMP threads soon sleep when they wait for each other, unless the user chose otherwise.

    By default they spin for milliseconds. Beside other work the thread that is waited for may not
    be running at all, and every barrier takes a time slice of the scheduler.

    OpenMP reads the variables when it is loaded, so this has no effect on a process that has
    already imported torch, only on those that it starts.
    """
    if not any(name in os.environ for name in _WAITING):
        # GNU's OpenMP, and LLVM's and Intel's (macOS, Windows).
        os.environ.update(GOMP_SPINCOUNT=str(SPINS), KMP_BLOCKTIME="0")


def use_threads(count: int | None) -> None:
    """Set the number of threads of this process and of those that it starts.

    Args:
        count: Threads; None = leave the default, all cores or ``OMP_NUM_THREADS``.

    Raises:
        ValueError: If ``count`` is below 1.
    """
    if count is None:
        return
    if count < 1:
        raise ValueError(f"threads must be at least 1, got {count}")
    os.environ.update(dict.fromkeys(_COUNTS, str(count)))
    if "torch" in sys.modules:  # it has read the variables already
        sys.modules["torch"].set_num_threads(count)


def threads_per_process(processes: int) -> int:
    """Threads of each of several parallel processes: ``OMP_NUM_THREADS``, else their part.

    Args:
        processes: Their number, at least 1.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdecimal() and int(first) > 0:
        return int(first)
    return max(1, usable_cores() // processes)


def usable_cores() -> int:
    """Cores that this process may use: in a container or under ``taskset`` fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
