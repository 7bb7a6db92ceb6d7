"""Pool of parallel processes that share the CPU cores and GPUs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from dscnet.command.threads import threads_per_process, use_threads

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


def start_pool(jobs: int) -> ProcessPoolExecutor:
    """A pool of ``jobs`` spawned processes; several GPUs are assigned in turn.

    Each process has ``OMP_NUM_THREADS`` threads; without it, they share the cores.
    """
    context = get_context("spawn")
    gpus = context.Queue()
    for gpu in assign_gpus(jobs, visible_gpus()):
        gpus.put(gpu)
    return ProcessPoolExecutor(
        jobs,
        mp_context=context,
        initializer=_start_worker,
        initargs=(threads_per_process(jobs), gpus),
    )


def assign_gpus(jobs: int, gpus: Sequence[str]) -> list[str | None]:
    """The GPU of each process; None = no restriction, if there are fewer than two GPUs.

    Example:
        >>> assign_gpus(3, ["0", "1"])
        ['0', '1', '0']
        >>> assign_gpus(2, ["0"])
        [None, None]
    """
    if len(gpus) < 2:
        return [None] * jobs
    return [gpus[index % len(gpus)] for index in range(jobs)]


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as in ``CUDA_VISIBLE_DEVICES``."""
    chosen = os.environ.get(GPU_VARIABLE)
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _start_worker(threads: int, gpus: Any) -> None:
    gpu = gpus.get()
    # Early enough: torch, which reads both when it is loaded, is not imported by this module.
    if gpu is not None:
        os.environ[GPU_VARIABLE] = gpu
    use_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(processName)s: %(message)s")
