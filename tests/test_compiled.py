"""Training with a compiled backbone."""

from __future__ import annotations

import logging

import pytest
import torch

from dscnet.build import build_model, build_objective
from dscnet.config import Config, TrainConfig
from dscnet.config.settings import from_dict, replace_settings
from dscnet.models.compiled import CompiledForward, compiler_problem
from dscnet.pipeline import fitting
from dscnet.pipeline.fitting import check_compiler
from dscnet.pipeline.stage import flat_settings
from dscnet.tables.step_time import random_batch
from helpers import SMALL_NETWORK

CPU = torch.device("cpu")


@pytest.fixture
def no_compiler(monkeypatch) -> None:
    monkeypatch.setattr(fitting, "compiler_problem", lambda device: "no g++")


def test_a_compiled_backbone_has_the_same_losses_and_gradients():
    if problem := compiler_problem(CPU):
        pytest.skip(problem)
    changes = {"augment.crop_size": 32, "train.batch_size": 2, "train.accelerator": "cpu"}
    config = replace_settings(Config(), SMALL_NETWORK | changes | {"method.variant": "baseline"})
    torch.manual_seed(0)
    model, batch = build_model(config, 3).train(), random_batch(config, 3)
    objective, compiled = build_objective(config.method, 4), CompiledForward(model.backbone)
    names = list(model.state_dict())

    def step() -> tuple[float, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        total = objective(model(batch.image, batch.tags), batch).total
        total.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return total.item(), torch.cat(gradients)

    plain = step()
    compiled.on()
    assert model.backbone.forward is compiled.compiled
    fast = step()
    assert list(model.state_dict()) == names
    compiled.off()
    assert "forward" not in vars(model.backbone)
    assert fast[0] == pytest.approx(plain[0], rel=1e-5)
    torch.testing.assert_close(fast[1], plain[1], rtol=1e-3, atol=1e-5)


def test_without_a_compiler_auto_warns_and_true_is_refused(no_compiler, caplog):
    settings = TrainConfig(accelerator="cpu", compile="auto")
    with caplog.at_level(logging.WARNING, "dscnet"):
        assert not check_compiler(settings)
    assert "train.compile: nothing is compiled: no g++" in caplog.text
    with pytest.raises(ValueError, match=r"train.compile: .* no g\+\+"):
        check_compiler(TrainConfig(accelerator="cpu", compile=True))


def test_by_default_nothing_is_compiled(no_compiler):
    assert not check_compiler(TrainConfig(accelerator="cpu"))


def test_a_compiler_that_fails_is_a_problem(monkeypatch):
    def broken(function):
        raise RuntimeError("no headers\nmore")

    monkeypatch.setattr(torch, "compile", broken)
    assert compiler_problem(CPU) == "no headers"


@pytest.mark.parametrize("value", [True, False, "auto"])
def test_the_setting_is_not_part_of_a_fingerprint(value):
    config = from_dict(Config, {"train": {"compile": value}})
    assert config.train.compile == value
    assert flat_settings({"train": config.train}) == flat_settings({"train": TrainConfig()})
