"""Training with a compiled backbone."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from dscnet.config import Config, TrainConfig
from dscnet.config.settings import from_dict
from dscnet.models.compiled import CompiledForward, compiler_problem
from dscnet.models.convolutions import use_fast_convolutions
from dscnet.pipeline import fitting
from dscnet.pipeline.fitting import check_compiler
from dscnet.pipeline.stage import flat_settings

CPU = torch.device("cpu")


@pytest.fixture
def no_compiler(monkeypatch) -> None:
    monkeypatch.setattr(fitting, "compiler_problem", lambda device: "no g++")


def test_a_compiled_network_has_the_same_output_and_gradients():
    """With each kind of layer that has a backward pass of our own: networks take minutes."""
    if problem := compiler_problem(CPU):
        pytest.skip(problem)
    torch.manual_seed(0)
    wide = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), wide)
    net[1].eval()
    use_fast_convolutions(net)
    image, compiled, names = (
        9 * torch.randn(2, 3, 9, 9),
        CompiledForward(net),
        list(net.state_dict()),
    )

    def step() -> list[torch.Tensor]:
        net.zero_grad()
        output = net(image)
        output.square().mean().backward()
        return [output.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    plain = step()
    compiled.on()
    assert net.forward is compiled.compiled
    fast = step()
    assert list(net.state_dict()) == names
    compiled.off()
    assert "forward" not in vars(net)
    assert len(fast) == len(plain) > 4
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


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
