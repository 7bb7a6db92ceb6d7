from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dscnet.build import build_model
from dscnet.config import (
    AugmentConfig,
    AuxSegConfig,
    CamConfig,
    Config,
    MethodConfig,
    ModelConfig,
    OptimiserConfig,
    ScaleConfig,
    TrainConfig,
)
from dscnet.context import ShrinkageLDA
from dscnet.data import EvalTransform, PhotoDataset, PhotoSet, Sample, read_image
from dscnet.data.scale import PhotoScale
from dscnet.labels.cam_files import read_cam
from dscnet.labels.thresholds import otsu_score
from dscnet.models import PlainCam
from dscnet.pipeline import fitting
from dscnet.pipeline.cam_maps import write_cams
from dscnet.pipeline.cam_network import fit_lda
from dscnet.pipeline.fitting import write_card
from dscnet.pipeline.full_images import photo_batches, same_size_batches
from dscnet.pipeline.job import Job
from dscnet.run_folder import RunFolder, fresh_folder


def photos(folder: Path, sizes: list[tuple[int, int]]) -> PhotoSet:
    samples = []
    for index, size in enumerate(sizes):
        path = folder / f"{index}.png"
        Image.new("RGB", size).save(path)
        tags = None if index == 2 else (1,) if index else ()
        samples.append(Sample(str(index), path, tags, path if index else None, None))
    return PhotoSet("made", ("cat", "dog"), tuple(samples), ())


def test_batches_hold_photos_of_one_size_each_once(tmp_path):
    made = photos(tmp_path, [(4, 6), (6, 4), (4, 6), (4, 6), (6, 4)])
    assert list(same_size_batches(made, PhotoScale(), [1.0], 2)) == [[0, 2], [3], [1, 4]]


def test_photos_of_one_shape_are_seen_together_whatever_their_size(tmp_path):
    made = photos(tmp_path, [(40, 60), (60, 40), (80, 120), (20, 30), (200, 400)])
    batches = list(same_size_batches(made, PhotoScale(30), [1.0, 1.5], 8))
    assert batches == [[0, 2, 3], [1], [4]]


def optimise(folder: Path, settings: OptimiserConfig) -> None:
    """A training on five photos."""
    made = photos(folder, [(4, 4)] * 5)
    training = fitting.Training(
        nn.Conv2d(3, 2, 1),
        lambda output, batch, progress: None,
        PhotoDataset(made, EvalTransform((0.5,) * 3, (0.5,) * 3)),
        settings,
        folder / "checkpoints",
        folder / "metrics.csv",
    )
    fitting.optimise(Job(Config(), RunFolder(folder / "run"), made, None), training, resume=False)


@pytest.mark.parametrize(
    ("iterations", "epochs", "steps"),
    [(None, 7, 14), (1, 1, 1), (4, 2, 4), (5, 3, 5), (20, 10, 20)],
)
def test_iterations_take_the_place_of_epochs(tmp_path, monkeypatch, iterations, epochs, steps):
    """Five photos in batches of two are two steps an epoch."""
    taken = []
    monkeypatch.setattr(
        fitting,
        "fit",
        lambda module, loader, *, epochs, **rest: taken.append((epochs, module.total_steps)),
    )
    optimise(tmp_path, TrainConfig(epochs=7, batch_size=2, iterations=iterations))
    assert taken == [(epochs, steps)]


def of_module(name):
    return lambda module, loader, given: getattr(module, name)


def of_rates(name):
    return lambda module, loader, given: module.rates[name]


def of_fit(name):
    return lambda module, loader, given: given[name]


# A value that is not the default, and where it arrives: module, loader, or arguments of `fit`.
OPTIMISER = {
    "epochs": (7, of_fit("epochs")),
    "iterations": (33, of_module("total_steps")),
    "batch_size": (2, lambda module, loader, given: loader.batch_size),
    "optimizer": ("adamw", of_module("optimizer_name")),
    "lr": (0.07, of_rates("lr")),
    "new_lr_factor": (3.0, of_rates("new_lr_factor")),
    "bias_lr_factor": (1.5, of_rates("bias_lr_factor")),
    "weight_decay": (0.2, of_rates("weight_decay")),
    "lr_warmup": (0.3, of_module("lr_warmup")),
    "clip": (2.0, of_fit("clip")),
    "precision": ("bf16-mixed", of_fit("precision")),
    "accelerator": ("gpu", of_fit("accelerator")),
    "deterministic": (True, of_fit("deterministic")),
}
QUIRKS = {
    "published_momentum_quirk": (0.2, 0.2),
    "published_positional_quirk": (0.2, 0.0),
}
"""Momentum and weight decay that come of a weight decay of 0.2."""


ELSEWHERE = {"devices", "num_nodes", "compile"}  # see test_distributed.py and test_compiled.py


def test_every_setting_of_the_optimiser_has_a_case():
    assert {field.name for field in fields(TrainConfig)} == {
        *OPTIMISER,
        *QUIRKS,
        "keep",
        *ELSEWHERE,
    }


@pytest.mark.parametrize("name", [*OPTIMISER, *QUIRKS])
def test_settings_of_the_optimiser_arrive(tmp_path, monkeypatch, name):
    taken = []
    monkeypatch.setattr(
        fitting, "fit", lambda module, loader, **given: taken.append((module, loader, given))
    )
    # On a CPU, operations repeat whatever is set.
    monkeypatch.setattr(fitting, "device_of", lambda accelerator: torch.device("cuda"))
    usual = {"batch_size": 4, "epochs": 5}
    changed = {name: OPTIMISER[name][0]} if name in OPTIMISER else {name: True, "weight_decay": 0.2}
    settings = TrainConfig(**(usual | changed))
    optimise(tmp_path, settings)
    (parts,) = taken
    if name in QUIRKS:
        assert (parts[0].momentum, parts[0].rates["weight_decay"]) == QUIRKS[name]
        return
    # Five photos in batches of four are a step an epoch, in batches of two, two.
    steps = {"iterations": 33, "epochs": 7, "batch_size": 10}.get(name, 5)
    epochs = 5 if name == "batch_size" else steps
    for key, (_, arrived) in OPTIMISER.items():
        expected = {"iterations": steps, "epochs": epochs}.get(key, getattr(settings, key))
        assert arrived(*parts) == expected, key


def test_seed_and_workers_arrive_in_the_training(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        fitting, "fit", lambda module, loader, **given: taken.append((module, given))
    )
    made = photos(tmp_path, [(4, 4)] * 5)
    loaders = []
    monkeypatch.setattr(
        fitting, "make_loader", lambda dataset, **given: loaders.append(given) or range(2)
    )
    config = Config(seed=11, augment=AugmentConfig(num_workers=3))
    training = fitting.Training(
        nn.Conv2d(3, 2, 1),
        lambda output, batch, progress: None,
        PhotoDataset(made, EvalTransform((0.5,) * 3, (0.5,) * 3)),
        TrainConfig(batch_size=8),
        tmp_path / "checkpoints",
        tmp_path / "metrics.csv",
        ["callback"],
    )
    job = Job(config, RunFolder(tmp_path / "run"), made, None, progress=False)
    fitting.optimise(job, training, resume=True)
    ((module, given),) = taken
    assert module.seed == 11
    assert given["folder"] == tmp_path / "checkpoints"
    assert given["log_path"] == tmp_path / "metrics.csv"
    assert (given["resume"], given["progress"]) == (True, False)
    assert given["callbacks"][0] == "callback"
    expected = {"seed": 11, "num_workers": 3, "shuffle": True, "drop_last": True}
    expected |= {"rank": 0, "ranks": 1}
    assert loaders == [expected | {"batch_size": 5}], "no more than there are photos"


@pytest.mark.parametrize(
    ("device", "asked", "exact"),
    [("cpu", False, True), ("cuda", False, False), ("cuda", True, True)],
)
def test_a_gpu_repeats_exactly_where_it_is_asked_to(tmp_path, monkeypatch, device, asked, exact):
    taken = []
    monkeypatch.setattr(fitting, "device_of", lambda accelerator: torch.device(device))
    monkeypatch.setattr(
        fitting, "fit", lambda *arguments, deterministic, **rest: taken.append(deterministic)
    )
    optimise(tmp_path, TrainConfig(batch_size=2, deterministic=asked))
    assert taken == [exact]


def test_a_fresh_folder_is_empty(tmp_path):
    fresh_folder(tmp_path / "x")
    (tmp_path / "x" / "old").touch()
    fresh_folder(tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []


def test_published_views_are_scaled_and_then_normalised(tmp_path, generator):
    photo = torch.randint(0, 256, (3, 8, 6), generator=generator, dtype=torch.uint8)
    made = photos(tmp_path, [(6, 8)] * 2)
    for sample in made.samples:
        Image.fromarray(photo.permute(1, 2, 0).numpy()).save(sample.image_path)
    transform = EvalTransform((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    cam = CamConfig(published_resize_quirk=True)
    config = Config(cam=cam, scale=ScaleConfig(relative_to="photo"))
    job = Job(config, RunFolder(tmp_path / "run"), made, None)
    (batch,) = photo_batches(job, transform, scales=[0.5, 1.0])
    half, whole = batch.views
    assert (half.shape, whole.shape) == ((2, 3, 4, 3), (2, 3, 8, 6))
    assert torch.equal(whole[1], transform(photo, None)[0])
    scaled = Image.fromarray(photo.permute(1, 2, 0).numpy()).resize((3, 4), Image.BICUBIC)
    expected = transform(torch.from_numpy(np.array(scaled)).permute(2, 0, 1), None)[0]
    assert torch.equal(half[0], expected)


class Ramp(nn.Module):
    """A network whose plain map is the red channel and whose refined one is half of it."""

    def score_maps(self, images, tags):
        red = images[:, :1].expand(-1, 2, -1, -1)
        return {"cam": red, "refined": red / 2}


@pytest.mark.parametrize("name", ["seam", "auxsegnet"])
@pytest.mark.parametrize("quirk", [False, True])
def test_maps_are_written_as_the_settings_say(tmp_path, name, quirk):
    made = photos(tmp_path, [(6, 8), (6, 8)])
    photo = np.zeros((8, 6, 3), dtype=np.uint8)
    photo[2:5] = 200
    Image.fromarray(photo).save(tmp_path / "1.png")
    config = Config(
        model=ModelConfig(name=name),
        auxseg=AuxSegConfig(published_cam_quirk=quirk),
        cam=CamConfig(scales=[1.0, 2.0], published_resize_quirk=quirk),
        scale=ScaleConfig(relative_to="photo"),
    )
    job = Job(config, RunFolder(tmp_path / "run"), made, None)
    write_card(job.folder.model_card, job, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    write_cams(job, Ramp())
    maps, classes = read_cam(job.folder.cams / "1.npz")
    assert classes.tolist() == [1]
    assert read_cam(job.folder.cams / "0.npz")[0]["cam"].shape == (0, 8, 6)
    assert maps["cam"].max() == pytest.approx(1, abs=1e-3)
    stretched = name == "seam" or not quirk
    if stretched:
        assert maps["refined"].max() == pytest.approx(1, abs=1e-3)
    else:
        assert maps["refined"].max() == pytest.approx(100 / 255, abs=0.05)


@pytest.mark.parametrize("tiles", [1, 2])
def test_photos_of_one_scene_have_the_same_maps_at_any_resolution(tmp_path, tiles):
    scene = np.zeros((24, 36, 3), dtype=np.uint8)
    scene[6:15, 10:30] = 200
    samples = []
    for times in (1, 3, 8):
        path = tmp_path / f"{times}.png"
        Image.fromarray(scene.repeat(times, 0).repeat(times, 1)).save(path)
        samples.append(Sample(str(times), path, (0,), None, None))
    made = PhotoSet("made", ("cat", "dog"), tuple(samples), ())
    config = Config(scale=ScaleConfig(side=36, tiles=tiles), cam=CamConfig(scales=[1.0, 1.5]))
    job = Job(config, RunFolder(tmp_path / "run"), made, None)
    write_card(job.folder.model_card, job, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    write_cams(job, Ramp())
    first, *others = [read_cam(job.folder.cams / f"{s.image_id}.npz")[0] for s in samples]
    assert first["cam"].shape == (1, 24 * tiles, 36 * tiles)
    assert first["cam"][0, 10 * tiles, 20 * tiles] > 0.8 > 0.1 > first["cam"][0, 2, 2]
    for maps in others:
        for name, values in maps.items():
            # Edges are sharper in the larger photo, the more so the larger it is seen.
            assert np.abs(values - first[name]).mean() < 0.02 * tiles


def scored_photos(folder: Path) -> PhotoSet:
    """Three photos of two classes, the last without any."""
    rng, samples = np.random.default_rng(0), []
    for index, tags in enumerate([(0,), (0, 1), ()]):
        path = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
        samples.append(Sample(str(index), path, tags, None, None))
    return PhotoSet("made", ("cat", "dog"), tuple(samples), ())


def fitted(folder: Path, variant: str = "M4", **method) -> tuple[Job, PlainCam]:
    settings = MethodConfig(variant=variant, **method)
    model = ModelConfig(backbone="tf_efficientnet_lite0", weights="none", output_stride=16)
    own_size = ScaleConfig(relative_to="photo")
    training = TrainConfig(accelerator="cpu")
    config = Config(model=model, method=settings, train=training, scale=own_size)
    job = Job(config, RunFolder(folder / "run"), scored_photos(folder), None)
    torch.manual_seed(0)
    network = build_model(config, 2, pretrained=False)
    fit_lda(job, network)
    return job, network


@pytest.mark.parametrize("variant", ["M1", "M4"])
def test_the_discriminant_is_fitted_to_the_networks_own_labels(tmp_path, variant):
    job, network = fitted(tmp_path, variant)
    learned = network.context.lda
    transform = EvalTransform(network.backbone.mean, network.backbone.std)
    images = [transform(read_image(sample.image_path), None)[0] for sample in job.train.samples]
    torch.manual_seed(job.config.seed)
    network.likeness = 0.0
    with torch.no_grad():
        output = network.one_view(torch.stack(images), torch.tensor([[1, 0], [1, 1], [0, 0]]))
    expected = ShrinkageLDA(3, network.context.embedding_dim)
    for photo, tags in enumerate([[0], [0, 1], []]):
        maps = [output.cam_refined[photo, tag + 1].flatten() for tag in tags]
        maps = [(m - m.min()).div(m.max() - m.min()).numpy() for m in maps]
        labels = np.zeros(12, dtype=np.int64)
        if tags:
            best = np.max(maps, axis=0)
            cut = otsu_score(np.histogram(best, 100, (0, 1))[0])
            labels = np.where(best > cut, np.array(tags)[np.argmax(maps, axis=0)] + 1, 0)
        embedded = network.context.embed(output.features)
        expected.add(embedded[photo], torch.from_numpy(labels))
    assert learned.pixels.tolist() == expected.pixels.tolist()
    assert (learned.pixels > 0).all()
    torch.testing.assert_close(learned.total, expected.total)
    torch.testing.assert_close(learned.squares, expected.squares)


def test_no_share_changes_what_the_discriminant_learns(tmp_path):
    one, other = (fitted(tmp_path, class_similarity=share)[1].context.lda for share in (0.0, 0.9))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_an_earlier_discriminant_has_no_say_in_the_next(tmp_path):
    job, network = fitted(tmp_path, class_similarity=0.9)
    learned = network.context.lda
    first = {name: value.clone() for name, value in learned.state_dict().items()}
    # One that takes each label for another.
    turned = {name: first[name].flip(0) for name in ("pixels", "total")}
    learned.load_state_dict(first | turned)
    fit_lda(job, network)
    assert all(torch.equal(value, first[name]) for name, value in learned.state_dict().items())


@pytest.mark.parametrize("variant", ["baseline", "M2"])
def test_without_the_contrast_there_is_nothing_to_fit(tmp_path, variant):
    config = Config(method=MethodConfig(variant=variant), train=TrainConfig(accelerator="cpu"))
    config.model = ModelConfig(backbone="tf_efficientnet_lite0", weights="none")
    network = build_model(config, 2, pretrained=False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fit_lda(Job(config, RunFolder(tmp_path / "run"), scored_photos(tmp_path), None), network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
