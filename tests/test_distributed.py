"""Two processes on the CPU compute what one does."""

from __future__ import annotations

import csv
import json
import os
import socket
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dscnet.config import Config
from dscnet.distributed.ranks import join
from dscnet.models.checkpoint import load_file
from dscnet.pipeline.runner import open_run
from dscnet.pipeline.train import train
from dscnet.run_folder import RunFolder
from dscnet.training import TrainingModule
from helpers import small_config

RANKS = 2

M4 = {"method.variant": "M4", "model.name": "seam", "train.keep": "best", "method.num_groups": 4}


def in_ranks(work: Callable[..., Any], *args: Any) -> None:
    """Call a function in two processes, as ``torchrun`` would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("spawn")
    processes = [
        context.Process(target=_as_rank, args=(rank, port, work, args)) for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * RANKS


def _as_rank(rank: int, port: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    torch.set_num_threads(1)
    join("cpu")
    work(*args)


def train_recording_gradients(config: Config, root: Path) -> None:
    """Run stage ``train`` and write the gradients of every step, by parameter."""
    steps: list[dict[str, np.ndarray[Any, Any]]] = []

    def record(self: TrainingModule, optimizer: Any) -> None:
        named = self.model.named_parameters()
        steps.append({name: p.grad.numpy().copy() for name, p in named if p.grad is not None})

    root.mkdir(exist_ok=True)
    job = open_run(config, RunFolder(root), progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "on_before_optimizer_step", record)
        train(job, False)
    place = root / f"gradients{os.environ.get('RANK', '')}"
    for index, step in enumerate(steps):
        np.savez(f"{place}-{index}.npz", **step)


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of an M4 training in one process and of the same in two."""
    root = tmp_path_factory.mktemp("trained")
    config = small_config(scenes, M4)
    train_recording_gradients(config, root / "one")
    in_ranks(train_recording_gradients, config, root / "two")
    return root / "one", root / "two"


def close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1e-3, np.abs(a).max(initial=0)))


@pytest.mark.parametrize("rank", range(RANKS))
def test_gradients_are_those_of_one_process(trained, rank):
    one, two = trained
    for step in range(4):
        expected = dict(np.load(one / f"gradients-{step}.npz"))
        found = dict(np.load(two / f"gradients{rank}-{step}.npz"))
        assert set(expected) == set(found)
        for name in expected:
            close(expected[name], found[name])


def test_losses_scores_and_memory_are_those_of_one_process(trained):
    one, two = (RunFolder(root) for root in trained)
    losses = [list(csv.DictReader(f.losses.read_text().splitlines())) for f in (one, two)]
    assert len(losses[0]) == 4
    for expected, found in zip(*losses, strict=True):
        assert expected.keys() == found.keys()
        close([*map(float, expected.values())], [*map(float, found.values())])
    tags = [json.loads(f.tag_scores.read_text()) for f in (one, two)]
    close(tags[0]["scores"], tags[1]["scores"])
    weights = [load_file(f.weights) for f in (one, two)]
    assert weights[0]["context.memory.pushed"].sum() > 0
    for name, expected in weights[0].items():
        close(expected, weights[1][name])
