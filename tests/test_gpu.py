"""What a GPU must do as a CPU does; each test needs one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dscnet.build import build_model, build_objective
from dscnet.config import (
    AffinityConfig,
    AugmentConfig,
    AuxSegConfig,
    CamConfig,
    Config,
    IrnConfig,
    MethodConfig,
    ModelConfig,
    RefineConfig,
    ScaleConfig,
    SegmentConfig,
    TrainConfig,
)
from dscnet.data import open_dataset, read_image
from dscnet.data.scenes import write_scenes
from dscnet.objective import AuxSegObjective
from dscnet.pipeline.runner import run
from dscnet.predictor import Predictor
from dscnet.tables.step_time import random_batch
from dscnet.types import LossTerms

pytestmark = pytest.mark.gpu

BASES = ["seam", "auxsegnet", "cam"]


def settings(base: str, precision: str = "32", **changes) -> Config:
    """The smallest run that still goes through everything, on the GPU by default."""
    values = {
        "augment": AugmentConfig(crop_size=64, long_side=[64, 96]),
        "scale": ScaleConfig(side=64),
        "model": ModelConfig(name=base, classifier_gain=1.0),
        "auxseg": AuxSegConfig(rounds=1, branch_channels=16),
        # Starts that draw nothing: a GPU draws other numbers.
        "method": MethodConfig(warmup=0.0, kmeans_init="cam", num_groups=None),
        "train": TrainConfig(epochs=2, batch_size=4, lr=0.002, precision=precision),
        "cam": CamConfig(scales=[1.0], flip=False),
        "segment": SegmentConfig(epochs=2, batch_size=4, decoder_channels=16, precision=precision),
    }
    return Config(**(values | changes))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("gpu") / "scenes"
    write_scenes(root, num_train=12, num_val=4, size=64, seed=0)
    return root


def losses(config: Config, device: str) -> tuple[LossTerms, dict[str, torch.Tensor]]:
    """Terms of two steps' losses, the memory filled by the first, and the second's gradients."""
    torch.manual_seed(0)
    model = build_model(config, 5).to(device).train()
    for part in model.modules():
        if isinstance(part, nn.Dropout2d):
            part.p = 0.0
    objective: nn.Module = build_objective(config.method, 6).to(device).train()
    if config.has_rounds:
        objective = AuxSegObjective(objective).train()
    config.train.accelerator = "cpu"
    batch = random_batch(config, 5).to(device)
    for _ in range(2):
        model.zero_grad()
        terms = objective(model(batch.image, batch.tags), batch, 1.0)
        terms.total.backward()
    gradients = {
        name: weight.grad.cpu()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    return terms, gradients


@pytest.fixture
def whole_float32(monkeypatch):
    """Convolutions without TF32, which keeps three digits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("base", BASES)
def test_losses_and_gradients_are_those_of_a_cpu(base, whole_float32):
    (terms, gradients), (expected, reference) = (
        losses(settings(base), device) for device in ("cuda", "cpu")
    )
    assert terms.terms.keys() == expected.terms.keys()
    for name, value in expected.terms.items():
        torch.testing.assert_close(terms.terms[name].cpu(), value, rtol=1e-3, atol=1e-4)
    assert gradients.keys() == reference.keys()
    for name, value in reference.items():
        difference = (gradients[name] - value).norm() / value.norm().clamp_min(1e-3)
        assert difference < 0.02, name


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("base", BASES)
def test_a_run_goes_through_all_stages(base, precision, scenes, tmp_path):
    config = settings(base, precision, data=str(scenes))
    run(config, tmp_path / "run", progress=False)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert all(0 < metrics[part]["miou"] <= 1 for part in ("cam", "pseudo_label", "segmenter"))
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["device"] == torch.cuda.get_device_name()


def test_a_finished_training_is_resumed_without_another(scenes, tmp_path):
    config = settings("seam", data=str(scenes))
    run(config, tmp_path / "run", progress=False)
    before = (tmp_path / "run" / "metrics.csv").read_text()
    run(config, tmp_path / "run", resume=True, progress=False)
    assert (tmp_path / "run" / "metrics.csv").read_text() == before


def test_learned_refinements_and_self_training_run(scenes, tmp_path):
    config = settings(
        "seam",
        data=str(scenes),
        refine=RefineConfig(steps=["affinity", "irn"]),
        affinity=AffinityConfig(epochs=1, radius=3, batch_size=2),
        irn=IrnConfig(epochs=1, radius=5, walk_radius=3, log_steps=3, batch_size=2),
    )
    config.segment.rounds = 2
    run(config, tmp_path / "run", progress=False)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(metrics["refine"]["steps"]) == 2
    assert len(list((tmp_path / "run" / "self_training" / "2" / "labels").glob("*.png"))) == 12


def test_masks_are_those_of_a_cpu(scenes, tmp_path, whole_float32):
    run(settings("seam", data=str(scenes)), tmp_path / "run", progress=False)
    on_gpu = Predictor.from_run(tmp_path / "run")
    assert on_gpu.device.type == "cuda"
    on_cpu = Predictor.from_run(tmp_path / "run")
    on_cpu.device = torch.device("cpu")
    on_cpu.model.cpu()
    for sample in open_dataset(scenes, "val").samples:
        photo = read_image(sample.image_path)
        assert np.mean(on_gpu(photo) == on_cpu(photo)) > 0.99
