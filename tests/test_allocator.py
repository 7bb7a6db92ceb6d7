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
    """Page faults of the second use of 64 MiB, the first of which may need new memory."""
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_freed_memory_is_used_again_inside_only():
    """In a process of its own: what ran before decides what the allocator has at hand."""
    code = """
from test_allocator import fast_allocation, page_faults
before = page_faults()
with fast_allocation():
    inside = page_faults()
print(before, inside, page_faults())
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE)
    before, inside, after = map(int, done.stdout.split())
    pages = 2**26 // resource.getpagesize()
    assert inside < pages / 5000
    assert min(before, after) > pages / 600  # huge pages are 512 usual ones


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
