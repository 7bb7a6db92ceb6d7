"""Memory use of the process and free memory, on CPU or GPU."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_GROUP = Path("/sys/fs/cgroup")


def memory_in_use(device: torch.device) -> float:
    """Bytes in use by the process; 0 if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    _release_freed()
    return float(_status("VmRSS"))


def peak_memory(
    work: Callable[[], object], device: torch.device, before: float | None = None
) -> tuple[float, float]:
    """Run a function and measure its peak memory and time.

    Args:
        work: The function to run.
        device: Device that it runs on.
        before: Bytes to subtract; None = those in use now, which may include memory that was freed
            but not returned to the system.

    Returns:
        Peak bytes beyond ``before`` (0 if unknown), and seconds.
    """
    if device.type == "cuda":
        before = memory_in_use(device) if before is None else before
        torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        return max(0.0, torch.cuda.max_memory_allocated(device) - before), seconds
    before = memory_in_use(device) if before is None else before
    _reset_peak()
    started = time.perf_counter()
    work()
    return max(0.0, _status("VmHWM") - before), time.perf_counter() - started


def free_memory(device: torch.device) -> float | None:
    """Bytes that the process can still allocate; None if unknown.

    The minimum of free memory, the limit of the control group and ``ulimit -v``.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    bounds = [_available(), _left_in_cgroup(), _left_of_address_space()]
    known = [bound for bound in bounds if bound is not None]
    return max(0.0, min(known)) if known else None


def _release_freed() -> None:
    """Return freed memory to the system, so that it is not counted as in use."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def _reset_peak() -> None:
    """Reset the peak memory counter, if permitted."""
    try:
        _RESET.write_text("5", encoding="utf-8")
    except OSError:
        return


def _status(name: str) -> int:
    """A memory value of this process in bytes, 0 if unknown."""
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) * 1024 if values else 0


def _available() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(values[0]) * 1024.0 if values else None


def _left_in_cgroup() -> float | None:
    try:
        bound = (_GROUP / "memory.max").read_text(encoding="utf-8").strip()
        taken = (_GROUP / "memory.current").read_text(encoding="utf-8")
    except OSError:
        return None
    return None if bound == "max" else float(int(bound) - int(taken))


def _left_of_address_space() -> float | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    bound = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if bound == resource.RLIM_INFINITY else float(bound - _status("VmSize"))
