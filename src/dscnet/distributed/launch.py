"""Starts the processes of a run on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def is_launched() -> bool:
    """Whether this process is one of several that ``torchrun`` has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process reports: the only one, or the first of several."""
    return not is_launched() or int(os.environ.get("RANK", "0")) == 0


def launch(arguments: Sequence[str], *, devices: int, num_nodes: int, threads: int = 1) -> int:
    """Run a dscnet command in several processes, by ``torchrun``.

    Args:
        arguments: The command line, from the verb on.
        devices: Processes on this machine.
        num_nodes: Machines.
        threads: CPU threads of each process, unless ``OMP_NUM_THREADS`` is set.

    Returns:
        0, or 1 if a process failed, which has printed why.

    Raises:
        DscnetError: If there are more machines than this one.
    """
    from dscnet.types import DscnetError

    if num_nodes > 1:
        raise DscnetError(
            f"train.num_nodes: {num_nodes} machines need a start on each of them: torchrun"
            f" --nnodes {num_nodes} --nproc-per-node {devices} --rdzv-backend c10d --rdzv-endpoint"
            " HOST:PORT -m dscnet.cli ..., see docs/devices.md"
        )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Otherwise every process would use all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Whether all parameters have a gradient depends on the step; torch warns if they do at first.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=f"dscnet-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "dscnet.cli", *arguments)
    except ChildFailedError:
        return 1
    return 0
