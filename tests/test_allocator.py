from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dscnet.pipeline.allocator import fast_allocation

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")


def page_faults() -> int:
    """Page faults of thirty uses of 64 MiB; small blocks in the old memory may call for new."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@glibc
def test_freed_memory_is_used_again_inside_and_returned_at_the_end():
    """In a process of its own: what ran before decides what the allocator has at hand."""
    code = """
from test_allocator import fast_allocation, page_faults, resident
outside, at_first = page_faults(), resident()
with fast_allocation():
    inside, kept = page_faults(), resident()
print(outside, inside, at_first, kept, resident())
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE)
    outside, inside, at_first, kept, at_last = map(int, done.stdout.split())
    assert inside < outside / 4
    assert kept > at_first + 2**25
    assert at_last < at_first + 2**24


def test_new_tensors_are_not_filled_inside_only():
    assert torch.utils.deterministic.fill_uninitialized_memory
    with fast_allocation():
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_without_glibc_nothing_happens(monkeypatch):
    def refuse(name):
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", refuse)
    with fast_allocation():
        assert page_faults() >= 0
