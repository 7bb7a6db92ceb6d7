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
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from dscnet.cli import main
from dscnet.config import Config
from dscnet.config.settings import replace_settings
from dscnet.data.loader import SeededSampler
from dscnet.distributed.batch import gather, shared_batch
from dscnet.distributed.launch import launch
from dscnet.distributed.ranks import join
from dscnet.losses.affinity import affinity_loss
from dscnet.losses.contrastive import pixel_contrast
from dscnet.pipeline.fitting import check_processes, check_shares
from dscnet.pipeline.runner import run
from dscnet.run_folder import RunFolder
from dscnet.training import TrainingModule
from dscnet.types import DscnetError
from helpers import small_config, stopped_in_the_second_epoch

RANKS, STEPS = 2, 4

SETTINGS = {
    "method.variant": "M4",
    "model.name": "seam",
    "train.keep": "best",
    # Several batches, so that each process has some.
    "cam.batch_size": 3,
    "refine.steps": ["pamr"],
    "segment.rounds": 2,
    "segment.epochs": 1,
}


def in_ranks(work: Callable[..., Any], *args: Any) -> None:
    """Call a function in two processes, as ``torchrun`` would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = get_context("spawn").Process
    processes = [start(target=_as_rank, args=(rank, port, work, args)) for rank in range(RANKS)]
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
    work(rank, *args)


def run_recording_gradients(config: Config, root: Path, name: str) -> None:
    """A whole run, which also writes the gradients of the CAM network, one file per step."""
    steps: list[dict[str, NDArray[Any]]] = []

    def record(self: TrainingModule, optimizer: Any) -> None:
        named = self.model.named_parameters()
        steps.append({name: p.grad.numpy().copy() for name, p in named if p.grad is not None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "on_before_optimizer_step", record)
        run(config, root / name, progress=False)
    for index, step in enumerate(steps[:STEPS]):
        np.savez(root / f"{name}{os.environ.get('RANK', '')}-{index}.npz", **step)


def losses_of(rows: slice) -> NDArray[np.float32]:
    """Gradients of losses whose denominators do not count photos, for some of four photos."""
    draw = torch.Generator().manual_seed(0)
    affinity = torch.rand(4, 30, generator=draw)[rows].requires_grad_()
    kinds = torch.randint(0, 3, (4, 30), generator=draw).sort(0).values[rows]
    embeddings = torch.randn(4, 10, 3, generator=draw)[rows].requires_grad_()
    labels = torch.randint(0, 3, (4, 10), generator=draw).sort(0).values[rows]
    with shared_batch():
        pairs = affinity_loss(affinity, kinds == 0, kinds == 1, kinds == 2).total
        pixels = pixel_contrast(gather(embeddings), gather(labels), temperature=0.5)
    (pairs + pixels).backward()
    assert affinity.grad is not None and embeddings.grad is not None
    return torch.cat([affinity.grad.flatten(1), embeddings.grad.flatten(1)], 1).numpy()


def _work_of_rank(rank: int, config: Config, root: Path) -> None:
    np.save(root / f"losses{rank}.npy", losses_of(slice(2 * rank, 2 * rank + 2)))
    run_recording_gradients(config, root, "two")
    run(config, root / "resumed", resume=True, stages=["train"], progress=False)


@pytest.fixture(scope="module")
def folders(scenes, tmp_path_factory) -> Path:
    """Folder of the runs ``one``, in one process, ``two``, in two, and ``resumed``, in both."""
    root = tmp_path_factory.mktemp("ranks")
    config = small_config(scenes, SETTINGS)
    run_recording_gradients(config, root, "one")
    with stopped_in_the_second_epoch():
        run(config, root / "resumed", stages=["train"], progress=False)
    in_ranks(_work_of_rank, config, root)
    return root


def close(expected: Any, found: Any, tolerance: float = 1e-5) -> None:
    expected, found = (np.asarray(each, dtype=np.float64) for each in (expected, found))
    largest = np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * largest)


def close_weights(expected: Path, found: Path) -> None:
    before, after = load_file(expected), load_file(found)
    assert before.keys() == after.keys()
    for name, value in before.items():
        close(value, after[name], 1e-4)


@pytest.mark.parametrize("rank", range(RANKS))
def test_gradients_are_those_of_one_process(folders, rank):
    for step in range(STEPS):
        expected = dict(np.load(folders / f"one-{step}.npz"))
        found = dict(np.load(folders / f"two{rank}-{step}.npz"))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_losses_with_other_denominators_have_the_gradients_of_one_process(folders):
    of_ranks = [np.load(folders / f"losses{rank}.npy") for rank in range(RANKS)]
    close(losses_of(slice(None)), np.concatenate(of_ranks) / RANKS)


def test_a_run_in_two_processes_is_that_of_one(folders):
    one, two = (RunFolder(folders / name) for name in ("one", "two"))
    files = [{p.relative_to(f.root) for p in f.root.rglob("*") if p.is_file()} for f in (one, two)]
    assert files[0] == files[1]
    memory = load_file(one.weights)["context.memory.pushed"]
    assert memory.sum() > 0
    close_weights(one.weights, two.weights)
    close_weights(one.segmenter_weights, two.segmenter_weights)
    rows = [[*csv.DictReader(f.losses.read_text().splitlines())] for f in (one, two)]
    assert len(rows[0]) == STEPS
    for expected, found in zip(*rows, strict=True):
        assert expected.keys() == found.keys()
        close([*map(float, expected.values())], [*map(float, found.values())])
    scores = [json.loads(f.tag_scores.read_text()) for f in (one, two)]
    close(scores[0]["scores"], scores[1]["scores"])
    maps = {path for path in files[0] if path.suffix == ".npz"}
    for path in maps:
        expected, found = np.load(one.root / path), np.load(two.root / path)
        for name in expected.files:
            np.testing.assert_allclose(found[name], expected[name], atol=2e-3)


@pytest.mark.parametrize("folder", ["labels", "masks", "self_training/2/labels"])
def test_labels_and_masks_of_two_processes_are_those_of_one(folders, folder):
    names = sorted(path.name for path in (folders / "one" / folder).iterdir())
    both = [
        np.stack([np.asarray(Image.open(folders / name / folder / file)) for file in names])
        for name in ("one", "two")
    ]
    assert (both[0] == both[1]).mean() >= 0.999


def test_metrics_of_two_processes_are_those_of_one(folders):
    one, two = (json.loads((folders / n / "metrics.json").read_text()) for n in ("one", "two"))
    assert one["cam"]["num_images"] == two["cam"]["num_images"] == 8
    for section in ("cam", "pseudo_label", "segmenter"):
        close(one[section]["miou"], two[section]["miou"], 1e-3)
    assert one["tags"]["mask_f1"] == pytest.approx(two["tags"]["mask_f1"], abs=1e-3)


def test_two_processes_resume_the_training_of_one(folders):
    one, resumed = (RunFolder(folders / name) for name in ("one", "resumed"))
    close_weights(one.weights, resumed.weights)
    assert one.losses.read_text().count("\n") == resumed.losses.read_text().count("\n")


def test_the_number_of_processes_makes_no_stage_out_of_date(folders):
    one, two = (RunFolder(folders / name) for name in ("one", "two"))
    for stage in ("train", "cam", "refine", "label", "segment"):
        assert one.fingerprint_of(stage) == two.fingerprint_of(stage)


@pytest.mark.parametrize(("length", "ranks"), [(12, 2), (15, 2), (13, 4), (3, 4)])
def test_ranks_share_the_batches_of_one_process(length, ranks):
    def samples(rank, ranks):
        sampler = SeededSampler(length, seed=3, batch_size=4, rank=rank, ranks=ranks)
        sampler.set_epoch(2)
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    whole, part = samples(0, 1), 4 // ranks
    shares = [samples(rank, ranks) for rank in range(ranks)]
    for batch in range(length // 4):
        joined = [pair for own in shares for pair in own[batch * part : (batch + 1) * part]]
        assert joined == whole[batch * 4 : (batch + 1) * 4]
    assert all(len(own) == length // 4 * part for own in shares)


def test_a_batch_that_cannot_be_shared_is_refused(scenes, monkeypatch):
    config = small_config(scenes, {"train.batch_size": 6})
    check_shares("train", config.train, 8)
    monkeypatch.setattr("dscnet.pipeline.fitting.world_size", lambda: 4)
    with pytest.raises(ValueError, match=r"train.batch_size: 6 photos .* 4 processes"):
        check_shares("train", config.train, 8)
    with pytest.raises(ValueError, match="batch_size must be a multiple of 4 ranks, got 6"):
        SeededSampler(8, seed=0, batch_size=6, ranks=4)


def test_devices_without_processes_are_refused(scenes):
    config = replace_settings(small_config(scenes), {"train.devices": 3})
    with pytest.raises(DscnetError, match=r"train.devices: 3 .* but 1 share this run"):
        check_processes(config.train)


def test_several_machines_need_torchrun(scenes, tmp_path, capsys):
    words = ["run", "--data", str(scenes), "--out", str(tmp_path / "run"), "--train.num_nodes", "2"]
    assert main(words) == 1
    assert "torchrun --nnodes 2 --nproc-per-node 1" in capsys.readouterr().err


def test_launched_processes_print_once(capfd):
    assert launch(["recipes"], devices=2, num_nodes=1) == 0
    launched = capfd.readouterr().out
    assert main(["recipes"]) == 0
    assert launched == capfd.readouterr().out


def test_a_failed_process_fails_the_command(capfd):
    assert launch(["recipes", "--none"], devices=2, num_nodes=1) == 1
    assert "--none" in capfd.readouterr().err


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_launched_processes_get_debug_and_their_part_of_the_cores(
    debug, scenes, tmp_path, monkeypatch
):
    started: list[tuple[list[str], int]] = []

    def launched(arguments, *, devices, num_nodes, threads):
        started.append((list(arguments), threads))
        return 0

    monkeypatch.setattr("dscnet.cli.launch", launched)
    monkeypatch.setattr("dscnet.command.threads.usable_cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    words = ["run", "--data", str(scenes), "--out", str(tmp_path / "run"), "--train.devices", "2"]
    assert main([*debug, *words]) == 0
    assert started == [([*words, *debug], 3)]
