from __future__ import annotations

import platform
import resource

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
    pages = 2**26 // resource.getpagesize()
    assert page_faults() > pages / 600  # huge pages are 512 usual ones
    with fast_allocation():
        assert page_faults() < pages / 5000
    assert page_faults() > pages / 600


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
