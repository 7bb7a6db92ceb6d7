from __future__ import annotations

import pytest

from dscnet.build import build_model
from dscnet.config import (
    AugmentConfig,
    AuxSegConfig,
    Config,
    MethodConfig,
    ModelConfig,
    TrainConfig,
)
from dscnet.context import fusion
from dscnet.tables.step_time import contrast_step, random_batch, take_turns, training_step


def settings(base: str, contrast: str = "groups", variant: str = "M1") -> Config:
    return Config(
        augment=AugmentConfig(crop_size=64),
        model=ModelConfig(name=base),
        auxseg=AuxSegConfig(branch_channels=4),
        method=MethodConfig(variant=variant, contrast=contrast, warmup=0.5),
        train=TrainConfig(batch_size=2, accelerator="cpu"),
    )


@pytest.fixture
def clusterings(monkeypatch) -> list[int]:
    """Grows by one whenever pixels are grouped."""
    calls: list[int] = []
    group = fusion.group_pixels

    def counted(*positional, **named):
        calls.append(1)
        return group(*positional, **named)

    monkeypatch.setattr(fusion, "group_pixels", counted)
    return calls


def test_steps_take_turns_and_the_first_turn_does_not_count():
    order: list[str] = []
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    assert all(value >= 0 for values in seconds.values() for value in values)


@pytest.mark.parametrize("base", ["seam", "auxsegnet"])
def test_a_batch_has_what_its_base_learns_from(base):
    config = settings(base)
    config.train.batch_size = 5
    batch = random_batch(config, 6)
    assert batch.image.shape == (5, 3, 64, 64)
    assert batch.tags.sum(1).tolist() == [1, 2, 3, 4, 1]
    assert (batch.mask is None) == (batch.saliency is None) == (base == "seam")


@pytest.mark.parametrize(("base", "views"), [("seam", 2), ("auxsegnet", 1)])
def test_only_the_contrast_of_groups_clusters(base, views, clusterings):
    for contrast, expected in (("pixels", 0), ("groups", views)):
        config = settings(base, contrast)
        step = contrast_step(config, random_batch(config, 3), 3)
        clusterings.clear()
        step()
        step()
        assert len(clusterings) == 2 * expected


@pytest.mark.parametrize("base", ["seam", "auxsegnet"])
def test_a_step_reaches_the_backbone(base, monkeypatch):
    models = []

    def build(*positional, **named):
        models.append(build_model(*positional, **named))
        return models[-1]

    monkeypatch.setattr("dscnet.tables.step_time.build_model", build)
    config = settings(base)
    training_step(config, random_batch(config, 3), 3)()
    (model,) = models
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    assert model.context.projection.weight.grad.abs().sum() > 0, "the contrasts are on"


def test_the_baseline_has_no_contrast_to_time():
    config = settings("seam", variant="baseline")
    with pytest.raises(ValueError, match="got baseline"):
        contrast_step(config, random_batch(config, 3), 3)
