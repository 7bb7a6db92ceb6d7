from __future__ import annotations

import threading

import pytest

from dscnet.files.in_threads import in_threads


def test_results_keep_the_order_of_the_items():
    first = threading.Event()

    def work(item):
        # The first item ends last.
        assert first.wait(10) if item == 0 else item
        if item == 2:
            first.set()
        return item * 10

    assert list(in_threads(work, range(7), workers=2, ahead=3)) == [0, 10, 20, 30, 40, 50, 60]


def test_items_are_taken_as_needed_by_the_consumers_thread():
    taken = []

    def items():
        for item in range(10):
            taken.append((item, threading.current_thread()))
            yield item

    results = in_threads(str, items(), ahead=2)
    assert next(results) == "0"
    assert taken == [(item, threading.main_thread()) for item in range(3)]
    assert list(results)[-1] == "9"


def test_work_runs_in_threads_that_were_started_up():
    started = []

    def start():
        started.append(threading.current_thread())

    seen = set(in_threads(lambda _: threading.current_thread(), range(20), 2, start=start))
    assert seen <= set(started) and len(started) <= 2
    assert threading.main_thread() not in seen


def test_the_first_error_stops_the_work():
    done = []

    def work(item):
        if item == 1:
            raise ZeroDivisionError
        done.append(item)
        return item

    results = in_threads(work, range(100))
    assert next(results) == 0
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert max(done) < 4


def test_no_items():
    assert list(in_threads(str, [])) == []
