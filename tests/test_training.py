from __future__ import annotations

import csv
import math
import pickle
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from dscnet.data import EvalTransform, PhotoDataset, make_loader, open_dataset
from dscnet.data.scenes import write_scenes
from dscnet.training import (
    CollapseWatch,
    CsvLog,
    KeepBest,
    TrainingModule,
    fit,
    parameter_groups,
    tag_entropy,
)
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
    steps: int | None = None,
    resume: bool = False,
    workers: int = 0,
    callbacks=(),
    deterministic: bool = True,
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
    module = TrainingModule(Net(), objective, total_steps=steps or total * len(loader), **options)
    fit(
        module,
        loader,
        epochs=epochs,
        folder=folder,
        log_path=folder / "metrics.csv",
        clip=1.0,
        accelerator="cpu",
        deterministic=deterministic,
        resume=resume,
        callbacks=callbacks,
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


@pytest.mark.parametrize("exact", [True, False])
def test_operations_repeat_exactly_as_asked(photos, tmp_path, exact):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, *rest):
            seen.append(torch.are_deterministic_algorithms_enabled())

    train(photos, tmp_path, 1, callbacks=[Watch()], deterministic=exact)
    assert seen == [exact] * 3


def test_learning_rate_is_poly(photos, tmp_path):
    train(photos, tmp_path, 4, lr=0.5, poly_power=0.9)
    logged = [float(row["lr"]) for row in rows(tmp_path)]
    assert len(logged) == 12
    assert logged == pytest.approx([0.5 * (1 - step / 12) ** 0.9 for step in range(12)], rel=1e-4)


def test_learning_rate_rises_before_it_decays(photos, tmp_path):
    train(photos, tmp_path, 4, lr=0.5, lr_warmup=0.25)
    logged = [float(row["lr"]) for row in rows(tmp_path)]
    rise = [1 / 3, 2 / 3, 1.0, 1.0]
    assert logged[:4] == pytest.approx(
        [0.5 * r * (1 - s / 12) ** 0.9 for s, r in enumerate(rise)], rel=1e-4
    )


def test_training_ends_where_the_learning_rate_does(photos, tmp_path):
    """Four steps of three an epoch: the second epoch is a part of one; resuming changes nothing."""
    whole = train(photos, tmp_path / "whole", 2, steps=4, lr=0.5)
    logged = [float(row["lr"]) for row in rows(tmp_path / "whole")]
    assert logged == pytest.approx([0.5 * (1 - n / 4) ** 0.9 for n in range(4)], rel=1e-4)
    train(photos, tmp_path / "broken", 1, steps=4, lr=0.5)
    assert len(rows(tmp_path / "broken")) == 3
    for _ in range(2):  # the second time nothing is left to do
        resumed = train(photos, tmp_path / "broken", 2, steps=4, lr=0.5, resume=True)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), name
        assert rows(tmp_path / "whole") == rows(tmp_path / "broken")


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


def test_collapse_is_noticed(caplog):
    watch = CollapseWatch("cls", floor=0.3)
    watch.values = [0.9] * 50 + [0.29] * 50
    assert watch.collapsed
    watch.on_train_end(None, None)
    expected = "loss 'cls' ended at 0.290, no better than predicting class frequencies (0.300)"
    assert expected in caplog.text
    watch.values = [0.9] * 50 + [0.1] * 50
    assert not watch.collapsed
    certain = CollapseWatch("cls", floor=0.0)
    certain.values = [0.9, 0.1]
    assert not certain.collapsed, "where every photo has the same tags nothing is below"


def test_a_loss_that_is_not_finite_ends_the_training():
    class Trainer:
        global_step = 3

    with pytest.raises(DscnetError, match="lower the learning rate"):
        CollapseWatch("cls", 0.3).on_train_batch_end(
            Trainer(), None, {"terms": {"cls": math.nan}}, None, 0
        )


def scripted(scores):
    """A score that follows a script, and the weights that it saw."""
    seen = []

    def score(model):
        assert not any(part.training for part in model.modules())
        torch.manual_seed(99)  # scoring may draw what it likes
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return scores[len(seen) - 1]

    return score, seen


def same(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_best_epoch_is_kept_the_later_of_equals_and_training_is_as_without(photos, tmp_path):
    score, seen = scripted([0.3, 0.7, 0.7, 0.1])
    best = KeepBest(score)
    module = train(photos, tmp_path / "best", 4, callbacks=[best])
    plain = train(photos, tmp_path / "last", 4)
    assert same(module.model.state_dict(), plain.model.state_dict())
    assert rows(tmp_path / "best") == rows(tmp_path / "last")
    assert (best.epoch, best.scores) == (3, [0.3, 0.7, 0.7, 0.1])
    best.restore(module.model)
    assert same(module.model.state_dict(), seen[2])
    assert not same(seen[2], seen[3])


def test_a_resumed_training_chooses_the_same(photos, tmp_path):
    score, seen = scripted([0.2, 0.9, 0.4, 0.1])
    train(photos, tmp_path, 2, callbacks=[KeepBest(score)])

    class Stop(Exception):
        pass

    def stop(model):
        raise Stop

    with pytest.raises(Stop):
        train(photos, tmp_path, 4, resume=True, callbacks=[KeepBest(stop)])
    best = KeepBest(score)
    module = train(photos, tmp_path, 4, resume=True, callbacks=[best])
    assert (best.epoch, best.scores) == (2, [0.2, 0.9, 0.4, 0.1])
    best.restore(module.model)
    assert same(module.model.state_dict(), seen[1])
    finished = KeepBest(stop)
    train(photos, tmp_path, 4, resume=True, callbacks=[finished])
    assert (finished.epoch, finished.scores) == (best.epoch, best.scores), "nothing is scored again"


def test_scoring_gives_every_part_its_mode_back():
    class Trainer:
        current_epoch = 0

    class Module:
        model = Net()

    Module.model.head.eval()
    best = KeepBest(lambda model: 1.0)
    best.on_train_epoch_end(Trainer(), Module())
    assert Module.model.training
    assert Module.model.dropout.training
    assert not Module.model.head.training


def test_before_the_first_epoch_nothing_is_kept():
    net, best = Net(), KeepBest(lambda model: 1.0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    best.restore(net)
    assert same(net.state_dict(), before)
    assert best.epoch == 0


def test_a_score_that_is_not_a_number_ends_the_training(photos, tmp_path):
    with pytest.raises(DscnetError, match="score of epoch 1 is not a number"):
        train(photos, tmp_path, 1, callbacks=[KeepBest(lambda model: math.nan)])


def test_argument_errors():
    with pytest.raises(ValueError, match="optimizer"):
        TrainingModule(Net(), objective, optimizer="lion", total_steps=1)
    with pytest.raises(ValueError, match="lr_warmup"):
        TrainingModule(Net(), objective, lr_warmup=1.0, total_steps=1)


def test_biases_may_learn_at_their_layers_rate():
    groups = parameter_groups(Net(), lr=0.01, new_lr_factor=10, weight_decay=0, bias_lr_factor=1.0)
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.01, 0.1, 0.1])


def test_randomness_differs_by_epoch_and_by_seed(photos, tmp_path):
    class Watch(Callback):
        def __init__(self):
            self.seeds = []

        def on_train_batch_start(self, trainer, module, batch, index):
            if index == 0:
                self.seeds.append(torch.initial_seed())

    watches = [Watch() for _ in range(3)]
    for watch, seed in zip(watches, (1, 1, 2), strict=True):
        train(photos, tmp_path, 3, callbacks=[watch], seed=seed)
    first, again, other = (watch.seeds for watch in watches)
    assert first == again
    assert len({*first, *other}) == 6


def test_a_folder_holds_one_checkpoint_and_nothing_is_drawn(photos, tmp_path):
    class Watch(Callback):
        def on_train_start(self, trainer, module):
            kinds.append({type(callback).__name__ for callback in trainer.callbacks})

    kinds = []
    for _ in range(2):  # the second training begins anew in the same folder
        train(photos, tmp_path, 1, callbacks=[Watch()])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "metrics.csv"]
    assert kinds == [{"CsvLog", "ModelCheckpoint", "Watch"}] * 2


def test_a_checkpoint_that_holds_code_is_not_read(photos, tmp_path):
    train(photos, tmp_path, 1)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.save(state | {"foreign": Net()}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        train(photos, tmp_path, 2, resume=True)


def test_the_log_is_one_text_on_every_system_and_makes_its_folders(tmp_path):
    class Trainer:
        current_epoch, max_epochs = 0, 1

    written = CsvLog(tmp_path / "new" / "folder" / "metrics.csv")
    written.rows = [{"step": 0, "total": "0.5"}, {"step": 1, "total": "0.25"}]
    written.on_train_epoch_end(Trainer(), None)
    assert written.path.read_bytes() == b"step,total\n0,0.5\n1,0.25\n"
    assert [path.name for path in written.path.parent.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(("clip", "clipped"), [(0.0, None), (2.5, 2.5)])
def test_what_lightning_is_told(monkeypatch, tmp_path, clip, clipped):
    class Stop(Exception):
        pass

    def trainer(**options):
        told.update(options)
        raise Stop

    told = {}
    monkeypatch.setattr("lightning.Trainer", trainer)
    module = TrainingModule(Net(), objective, total_steps=1)
    settings = {"epochs": 7, "folder": tmp_path, "log_path": tmp_path / "metrics.csv"}
    with pytest.raises(Stop):
        fit(module, [], clip=clip, precision="16", accelerator="cpu", **settings)
    expected = {
        "max_epochs": 7,
        "accelerator": "cpu",
        "devices": 1,
        "precision": "16",
        "gradient_clip_val": clipped,
        "deterministic": "warn",
        "default_root_dir": tmp_path,
        "logger": False,
    }
    assert {name: told[name] for name in expected} == expected
