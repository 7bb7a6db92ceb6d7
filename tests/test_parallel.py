from __future__ import annotations

import threading
import time

import pytest
import torch

from dscnet.data.parallel import AHEAD, in_parallel

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_of_one_core_each():
    seen = set()

    def work(item):
        seen.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.02 * (item % 3 == 0))
        return item**2

    assert list(in_parallel(work, range(20), CPU)) == [item**2 for item in range(20)]
    assert {cores for _, cores in seen} == {1}
    assert len(seen) == 2


def test_few_items_are_ahead_of_their_use():
    begun = []
    results = in_parallel(lambda item: begun.append(item), range(1000), CPU)
    next(results)
    time.sleep(0.1)
    assert len(begun) <= 2 * AHEAD + 1
    results.close()


def test_an_error_ends_it_and_the_rest_is_not_begun():
    begun = []

    def work(item):
        begun.append(item)
        if item == 3:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        list(in_parallel(work, range(1000), CPU))
    assert len(begun) < 30


@pytest.mark.parametrize("items", [[], [5]])
def test_a_single_item_is_done_by_all_cores(items):
    assert list(in_parallel(lambda item: torch.get_num_threads(), items, CPU)) == [2] * len(items)
