"""Tests of ``dscnet.pipeline.memory_use``."""

from __future__ import annotations

import sys

import pytest
import torch

from dscnet.pipeline import memory_use as machine
from dscnet.pipeline.memory_use import free_memory, memory_in_use, peak_memory

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of processes")


@linux
def test_the_peak_is_what_was_held_at_once_though_it_is_gone_again():
    def work():
        for _ in range(8):
            torch.ones(25_000_000).add_(1)

    memory, seconds = peak_memory(work, CPU)
    # One of 100 MB at a time; the system may count one that was just freed with the next.
    assert 95e6 < memory < 250e6
    assert seconds > 0
    less, _ = peak_memory(lambda: torch.ones(5_000_000).add_(1), CPU)
    assert less < 60e6, "each measurement begins anew"


@linux
def test_what_is_kept_counts_from_an_earlier_mark_on():
    before = memory_in_use(CPU)
    kept = torch.ones(25_000_000)
    own, _ = peak_memory(lambda: torch.ones(5_000_000).add_(1), CPU)
    both, _ = peak_memory(lambda: torch.ones(5_000_000).add_(1), CPU, before)
    assert both - own > 0.8 * kept.nbytes


@linux
def test_free_memory_is_the_least_of_what_bounds_it(monkeypatch):
    assert free_memory(CPU) > 0
    monkeypatch.setattr(machine, "_available", lambda: 5e9)
    monkeypatch.setattr(machine, "_left_in_cgroup", lambda: 3e9)
    monkeypatch.setattr(machine, "_left_of_address_space", lambda: None)
    assert free_memory(CPU) == 3e9
    monkeypatch.setattr(machine, "_left_of_address_space", lambda: -1.0)
    assert free_memory(CPU) == 0
    for name in ("_available", "_left_in_cgroup", "_left_of_address_space"):
        monkeypatch.setattr(machine, name, lambda: None)
    assert free_memory(CPU) is None


@linux
def test_a_bound_of_addresses_leaves_what_the_program_does_not_have(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (10**15, 10**15))
    left = machine._left_of_address_space()
    assert 0.9e15 < left < 1e15
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert machine._left_of_address_space() is None
