from __future__ import annotations

import os
import queue

import torch

from dscnet.experiments import workers
from dscnet.experiments.workers import GPU_VARIABLE, assign_gpus, start_pool, visible_gpus


def test_gpus_are_given_in_turn_and_one_is_left_alone():
    assert assign_gpus(5, ["2", "5"]) == ["2", "5", "2", "5", "2"]
    assert assign_gpus(2, ["2", "5", "7"]) == ["2", "5"]
    assert assign_gpus(2, ["0"]) == assign_gpus(2, []) == [None, None]


def test_the_gpus_of_the_parent_are_shared_out(monkeypatch):
    monkeypatch.delenv(GPU_VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert visible_gpus() == ["0", "1", "2"]
    monkeypatch.setenv(GPU_VARIABLE, "4, 6")
    assert visible_gpus() == ["4", "6"]
    monkeypatch.setenv(GPU_VARIABLE, "")
    assert visible_gpus() == []


def test_a_worker_takes_a_gpu_of_its_own(monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(os.environ, GPU_VARIABLE, "0,1,2")
    gpus: queue.Queue = queue.Queue()
    for gpu in ("2", None):
        gpus.put(gpu)
    workers._start_worker(3, gpus)
    assert os.environ[GPU_VARIABLE] == "2"
    workers._start_worker(3, gpus)
    assert os.environ[GPU_VARIABLE] == "2", "None leaves what the parent sees"
    assert threads == [3, 3]


def test_a_process_of_the_pool_sees_its_gpu(monkeypatch):
    monkeypatch.setenv(GPU_VARIABLE, "4,6")
    with start_pool(2) as pool:
        assert pool.submit(os.getenv, GPU_VARIABLE).result() in ("4", "6")


def test_a_process_of_the_pool_starts_with_the_chosen_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(GPU_VARIABLE, "")
    with start_pool(1) as pool:
        assert pool.submit(os.getenv, "MKL_NUM_THREADS").result() == "1"
        # Imported only now, after the variables were set.
        assert pool.submit(eval, "'torch' in __import__('sys').modules").result() is False
        assert pool.submit(torch.get_num_threads).result() == 1
