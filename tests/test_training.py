from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dscnet.data import EvalTransform, PhotoDataset, make_loader, open_dataset
from dscnet.data.scenes import write_scenes
from dscnet.training import CollapseWatch, TrainingModule, fit, parameter_groups, tag_entropy
from dscnet.types import DscnetError, LossTerms, ModelOutput


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU())
        self.dropout = nn.Dropout2d(0.5)
        self.head = nn.Conv2d(4, 7, 1)

    def forward(self, image, tags=None):
        return ModelOutput(cam_logits=self.head(self.dropout(self.backbone(image))))


def objective(output, batch, progress):
    scores = output.cam_logits[:, 1:].mean((2, 3))
    return LossTerms({"cls": F.multilabel_soft_margin_loss(scores, batch.tags)})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("training") / "scenes"
    write_scenes(root, num_train=12, num_val=0, size=64, seed=0)
    return open_dataset(root, "train")


def train(
    photos,
    folder: Path,
    epochs: int,
    *,
    total: int = 4,
    resume: bool = False,
    workers: int = 0,
    **options,
):
    torch.manual_seed(0)
    transform = EvalTransform((0.5,) * 3, (0.5,) * 3)
    loader = make_loader(
        PhotoDataset(photos, transform),
        batch_size=4,
        seed=0,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
    )
    module = TrainingModule(Net(), objective, total_steps=total * len(loader), **options)
    fit(
        module,
        loader,
        epochs=epochs,
        folder=folder,
        log_path=folder / "metrics.csv",
        clip=1.0,
        accelerator="cpu",
        resume=resume,
        progress=False,
    )
    return module


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_groups_are_seams():
    groups = parameter_groups(Net(), lr=0.01, new_lr_factor=10, weight_decay=5e-4)
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.02, 0.1, 0.2])
    assert [group["weight_decay"] for group in groups] == [5e-4, 0, 5e-4, 0]


def test_frozen_parameters_are_in_no_group():
    net = Net()
    net.backbone.requires_grad_(False)
    groups = parameter_groups(net, lr=0.01, new_lr_factor=10, weight_decay=0)
    assert sum(len(group["params"]) for group in groups) == 2


def test_resuming_equals_training_without_a_break(photos, tmp_path):
    whole = train(photos, tmp_path / "whole", 4)
    train(photos, tmp_path / "broken", 2)
    resumed = train(photos, tmp_path / "broken", 4, resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")


def test_same_seed_same_weights_for_any_number_of_workers(photos, tmp_path):
    one = train(photos, tmp_path / "a", 1).model.state_dict()
    two = train(photos, tmp_path / "b", 1, workers=2).model.state_dict()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_learning_rate_is_poly(photos, tmp_path):
    train(photos, tmp_path, 4, lr=0.5, poly_power=0.9)
    logged = [float(row["lr"]) for row in rows(tmp_path)]
    assert len(logged) == 12
    # The row of a step is written after the schedule has moved on to the next.
    assert logged == pytest.approx(
        [0.5 * (1 - (step + 1) / 12) ** 0.9 for step in range(12)], rel=1e-4
    )


def test_log_has_a_row_a_step_and_names_the_terms(photos, tmp_path):
    train(photos, tmp_path, 1)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"]
    assert set(rows(tmp_path)[0]) == {"step", "epoch", "lr", "cls", "total"}


def test_entropy_is_the_loss_of_guessing_the_frequency():
    tags = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    by_hand = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert tag_entropy(tags) == pytest.approx(by_hand, rel=1e-5)
    guess = torch.full((4, 1), math.log(0.25 / 0.75))
    assert F.multilabel_soft_margin_loss(guess, tags).item() == pytest.approx(by_hand, rel=1e-5)


def test_collapse_is_noticed():
    watch = CollapseWatch("cls", floor=0.3)
    watch.values = [0.9] * 50 + [0.29] * 50
    assert watch.collapsed
    watch.values = [0.9] * 50 + [0.1] * 50
    assert not watch.collapsed


def test_a_loss_that_is_not_finite_ends_the_training():
    class Trainer:
        global_step = 3

    with pytest.raises(DscnetError, match="lower the learning rate"):
        CollapseWatch("cls", 0.3).on_train_batch_end(
            Trainer(), None, {"terms": {"cls": math.nan}}, None, 0
        )


def test_argument_errors():
    with pytest.raises(ValueError, match="optimizer"):
        TrainingModule(Net(), objective, optimizer="lion", total_steps=1)


def test_biases_may_learn_at_their_layers_rate():
    groups = parameter_groups(Net(), lr=0.01, new_lr_factor=10, weight_decay=0, bias_lr_factor=1.0)
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.01, 0.1, 0.1])
