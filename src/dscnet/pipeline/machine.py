"""What memory the program takes and what is free, on the processor that it computes on."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_GROUP = Path("/sys/fs/cgroup")


def memory_taken(device: torch.device) -> float:
    """Bytes that the program has now; 0 where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    _give_back()
    return float(_status("VmRSS"))


def peak_memory(
    work: Callable[[], object], device: torch.device, before: float | None = None
) -> tuple[float, float]:
    """Run something and measure it.

    Args:
        work: What to run.
        device: Where it computes.
        before: Bytes that do not count; None = those that the program has now. What something else
            had and gave back may still be counted to the program.

    Returns:
        Bytes at its peak beyond ``before``, and its seconds. Bytes are 0 where the system does not
        tell.
    """
    if device.type == "cuda":
        before = memory_taken(device) if before is None else before
        torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        return max(0.0, torch.cuda.max_memory_allocated(device) - before), seconds
    before = memory_taken(device) if before is None else before
    _forget_peak()
    started = time.perf_counter()
    work()
    return max(0.0, _status("VmHWM") - before), time.perf_counter() - started


def free_memory(device: torch.device) -> float | None:
    """Bytes that the program may take beyond what it has; None where the system does not tell.

    The least of what is free, what the control group allows and what ``ulimit -v`` allows.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    bounds = [_available(), _left_to_group(), _left_of_addresses()]
    known = [bound for bound in bounds if bound is not None]
    return max(0.0, min(known)) if known else None


def _give_back() -> None:
    """Give back what was freed: it would count to what the program has."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def _forget_peak() -> None:
    """Let the highest mark of memory begin anew; where that is not allowed it stays."""
    try:
        _RESET.write_text("5", encoding="utf-8")
    except OSError:
        return


def _status(name: str) -> int:
    """A number of bytes of this process, 0 where the system does not tell."""
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


def _left_to_group() -> float | None:
    try:
        bound = (_GROUP / "memory.max").read_text(encoding="utf-8").strip()
        taken = (_GROUP / "memory.current").read_text(encoding="utf-8")
    except OSError:
        return None
    return None if bound == "max" else float(int(bound) - int(taken))


def _left_of_addresses() -> float | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    bound = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if bound == resource.RLIM_INFINITY else float(bound - _status("VmSize"))
