"""Time a training step of several processes with one thread each against that of one of them.

python benchmarks/ranks.py --json benchmarks/results/ranks.json

Both have the same batch. They take turns, so that other work on the machine slows both. The ratio
of the processor times of the single process and of the first of several is what the ratio of the
steps per second would be if every process had a core of its own and none waited for another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dscnet.build import build_model, build_objective
from dscnet.config import Config
from dscnet.config.recipes import find_recipe
from dscnet.config.settings import from_dict, replace_settings
from dscnet.distributed.batch import shared_batch
from dscnet.distributed.ranks import barrier, join, on_first, rank, world_size
from dscnet.distributed.trainer import DDP_OPTIONS
from dscnet.run_folder import environment, write_text
from dscnet.tables.step_time import random_batch
from dscnet.types import Batch

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


class Loss(nn.Module):
    """The weighted sum of a network's losses."""

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = build_model(config, num_classes).train()
        self.objective = build_objective(config.method, num_classes + 1).train()

    def forward(self, batch: Batch) -> Tensor:
        """Total loss of a batch, or of the part of it that this rank has."""
        with shared_batch():
            total: Tensor = self.objective(self.model(batch.image, batch.tags), batch, 1.0).total
        return total


def step_of(loss: nn.Module, batch: Batch, steps: int) -> Callable[[], dict[str, float]]:
    """Function that trains some steps and returns the seconds of one, by either clock."""
    weights = [weight for weight in loss.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1e-4, momentum=0.9)

    def timed() -> dict[str, float]:
        started = {name: clock() for name, clock in CLOCKS.items()}
        for _ in range(steps):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
        return {name: (clock() - started[name]) / steps for name, clock in CLOCKS.items()}

    return timed


def measure(index: int, options: argparse.Namespace) -> None:
    """What each process does; the first one writes the result."""
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index)}
    torch.set_num_threads(1)
    join("cpu")
    recipe = from_dict(Config, yaml.safe_load(find_recipe(options.config).read_text()))
    config = replace_settings(recipe, {"train.accelerator": "cpu", **options.set})
    whole = random_batch(config, options.num_classes)
    rows = slice(*(len(whole.ids) * part // world_size() for part in (rank(), rank() + 1)))
    own = replace(whole, image=whole.image[rows], tags=whole.tags[rows], ids=whole.ids[rows])
    alone = on_first(step_of(Loss(config, options.num_classes), whole, options.steps))
    shared = DistributedDataParallel(Loss(config, options.num_classes), **DDP_OPTIONS)
    together = step_of(shared, own, options.steps)
    turns = []
    for _ in range(options.turns + 1):
        one = alone()
        barrier()
        turns.append({"one": one, "all": together()})
    # The first turn warms up.
    seconds = {
        clock: {who: [turn[who][clock] for turn in turns[1:]] for who in ("one", "all")}
        for clock in CLOCKS
    }
    ratios = {
        clock: statistics.median(times["one"]) / statistics.median(times["all"])
        for clock, times in seconds.items()
    }
    if rank() == 0:
        print(f"{world_size()} processes, times the steps per second of one: {ratios}")
    content = {
        "processes": world_size(),
        "photos": len(whole.ids),
        "crop": config.augment.crop_size,
        "backbone": config.model.backbone,
        "variant": config.method.variant,
        "environment": environment(config.seed),
        "ratio": ratios,
        "seconds": seconds,
    }
    write_text(options.json, json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Start the processes on this machine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--config", default="msrc_seam_dscnet")
    parser.add_argument("--num-classes", type=int, default=17)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps per turn")
    parser.add_argument("--set", type=yaml.safe_load, default={}, help="{dotted.setting: value}")
    options = parser.parse_args()
    os.environ |= {
        "WORLD_SIZE": str(options.processes),
        "LOCAL_WORLD_SIZE": str(options.processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
    }
    start = get_context("spawn").Process
    processes = [start(target=measure, args=(index, options)) for index in range(options.processes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
