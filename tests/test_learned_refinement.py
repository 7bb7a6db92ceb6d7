from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from dscnet.build import build_affinity_net, build_boundary_net, build_model
from dscnet.cli import main
from dscnet.config import Config
from dscnet.config.settings import dotted_settings, replace_settings
from dscnet.data import open_dataset
from dscnet.data.transforms import TrainTransform
from dscnet.labels.cam_files import read_cam, write_cam
from dscnet.models.checkpoint import store
from dscnet.pipeline.job import Job
from dscnet.pipeline.refine import STAGE, photo_steps, refinement_start
from dscnet.pipeline.refinement import affinity, irn, learning
from dscnet.pipeline.runner import run, run_single
from dscnet.refine.pair_walk import affinity_walk, boundary_walk
from dscnet.refine.pairs import pair_affinity
from dscnet.refine.steps import refine_labels
from dscnet.run_folder import RunFolder
from dscnet.types import DscnetError
from helpers import small_config, stopped_in_the_second_epoch

STAGE_NAMES = ["refine", "label", "evaluate"]


@pytest.fixture(scope="module")
def cams(scenes, tmp_path_factory) -> Path:
    """Maps made elsewhere: half of each object, at a low score beside it, and one photo of none."""
    folder = tmp_path_factory.mktemp("cams")
    for number, path in enumerate(sorted((scenes / "SegmentationClass").glob("*.png"))):
        mask = np.asarray(Image.open(path))
        present = sorted(set(np.unique(mask)) - {0, 255}) if number else []
        maps = np.zeros((len(present), *mask.shape))
        for one, label in zip(maps, present, strict=True):
            one[mask == label] = 0.2
            one[:, ::2][mask[:, ::2] == label] = 0.9
        write_cam(folder / f"{path.stem}.npz", {"cam": maps}, [label - 1 for label in present])
    return folder


def settings(scenes: Path, cams: Path, *steps: str) -> Config:
    """The smallest networks whose crops hold pairs; the backbone needs no CAM network."""
    small = {"batch_size": 2, "accelerator": "cpu", "start": "weights"}
    changes = {
        "affinity": {"epochs": 2, "radius": 3, **small},
        "irn": {"epochs": 1, "radius": 5, "walk_radius": 3, "log_steps": 3, **small},
    }
    return small_config(
        scenes,
        {
            "model.output_stride": 16,
            "augment.long_side": [64, 80],
            "refine.steps": list(steps),
            "label.bg_score": 0.3,
            "label.cams": str(cams),
            **dotted_settings(changes),
        },
    )


@pytest.fixture(scope="module")
def finished(scenes, cams, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(settings(scenes, cams, "affinity", "irn"), out, stages=STAGE_NAMES, progress=False)
    return out


def test_both_networks_are_trained_and_refine_the_labels(finished):
    for name in ("affinity", "irn"):
        folder = finished / "affinity" / name
        columns = (folder / "metrics.csv").read_text().splitlines()[0]
        assert all(term in columns for term in ("aff_bg", "aff_fg", "aff_neg"))
        assert (folder / "weights.safetensors").exists()
        assert (folder / "last.ckpt").exists()
    assert len(list((finished / "labels").glob("*.png"))) == 8
    for path in sorted((finished / "refined").glob("*.npz")):
        maps, classes = read_cam(path)
        assert list(maps) == ["affinity", "irn"]
        for values in maps.values():
            assert values.shape == (len(classes), 64, 64)
            assert np.isfinite(values).all()
            assert (values.sum(0) <= 1 + 1e-3).all()


def test_training_and_steps_are_timed_and_measured(finished):
    section = json.loads((finished / "metrics.json").read_text())["refine"]
    assert [step["step"] for step in section["steps"]] == ["affinity", "irn"]
    for step in section["steps"]:
        assert step["seconds"] > 0
        assert step["training_seconds"] > 0
        assert 0 <= step["miou"] <= 1


def test_an_unchanged_refinement_does_nothing_again(finished, scenes, cams):
    config = settings(scenes, cams, "affinity", "irn")
    assert not run_single("refine", config, finished, progress=False)
    assert main(["refine", "--out", str(finished)]) == 0


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(finished, scenes, cams, tmp_path):
    config, out = settings(scenes, cams, "affinity"), tmp_path / "run"
    with stopped_in_the_second_epoch():
        run(config, out, stages=["refine"], progress=False)
    assert not (out / "affinity" / "affinity" / "weights.safetensors").exists()
    spent = out / "affinity" / "affinity" / "training.json"
    assert json.loads(spent.read_text())["training_seconds"] > 0
    spent.write_text('{"training_seconds": 1000.0}')
    run(config, out, stages=["refine"], resume=True, progress=False)
    one, two = (
        load_file(root / "affinity" / "affinity" / "weights.safetensors")
        for root in (finished, out)
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    lines = [(root / "affinity/affinity/metrics.csv").read_text() for root in (finished, out)]
    assert lines[0] == lines[1]
    seconds = json.loads(spent.read_text())["training_seconds"]
    assert 1000 < seconds < 1900, "with the time before the interruption"


def test_other_settings_of_the_walk_train_nothing_and_force_does(finished, scenes, cams, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    config = settings(scenes, cams, "affinity", "irn")
    weights = [out / "affinity" / name / "weights.safetensors" for name in ("affinity", "irn")]
    before = [path.stat().st_mtime_ns for path in weights]
    other = replace_settings(config, {"affinity.beta": 2.0, "irn.walk_radius": 2})
    assert run_single("refine", other, out, progress=False)
    assert [path.stat().st_mtime_ns for path in weights] == before
    other = replace_settings(other, {"irn.lr": 0.02})
    assert run_single("refine", other, out, force=True, progress=False)
    changed = [path.stat().st_mtime_ns > old for path, old in zip(weights, before, strict=True)]
    assert changed == [False, True], "what fits is kept"
    assert run_single("refine", other, out, force=True, progress=False)
    assert all(path.stat().st_mtime_ns > old for path, old in zip(weights, before, strict=True))


def test_training_starts_from_the_backbone_of_the_cam_network(scenes, cams, tmp_path, monkeypatch):
    config = replace_settings(settings(scenes, cams, "affinity"), {"affinity.start": "cam"})
    job = Job(config, RunFolder(tmp_path), open_dataset(scenes, "train"), None)
    trained = build_model(config, job.train.num_classes, pretrained=False)
    store(trained, job.folder.weights)
    seen = []
    monkeypatch.setattr(
        learning, "optimise", lambda job, training, resume: seen.append(training.model)
    )
    photo_steps(job)
    state = trained.backbone.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in seen[0].backbone.state_dict().items())


def test_a_learned_walk_that_comes_first_starts_from_the_scores_as_they_are(scenes, cams):
    config = settings(scenes, cams, "affinity", "crf")
    cam = np.array([[[0.4, 0.0]], [[0.6, 0.1]]], dtype=np.float32)
    start = refinement_start(config, cam, 0.3)
    assert start.flatten().tolist() == pytest.approx([0.3, 0.3, 0.4, 0.0, 0.6, 0.1])
    config.refine.bg_power = 6.0
    start = refinement_start(config, cam, 0.3)
    assert start[0].flatten().tolist() == pytest.approx([0.4**6, 0.9**6])
    config.refine.steps = ["crf", "affinity"]
    assert refinement_start(config, cam, 0.3).sum(0).flatten().tolist() == pytest.approx([1, 1])


def test_the_step_is_the_published_walk_on_the_padded_photo(scenes, cams, generator):
    # An untrained network finds little alike: a low exponent makes its affinities count.
    config = replace_settings(
        settings(scenes, cams, "affinity"), {"affinity.beta": 0.2, "affinity.log_steps": 2}
    )
    net = build_affinity_net(config)
    step = affinity._affinity_step(config, net)
    photo = torch.randint(0, 256, (1, 3, 61, 75), dtype=torch.uint8, generator=generator)
    scores = torch.rand(1, 3, 61, 75, generator=generator)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (net.backbone.mean, net.backbone.std))
    image = F.pad((photo / 255 - mean) / std, (0, 5, 0, 3))
    with torch.no_grad():
        pairs = pair_affinity(net(image).features, radius=3)[0]
    walked = affinity_walk(scores[0], pairs, radius=3, beta=0.2, log_steps=2)
    torch.testing.assert_close(step(scores, photo)[0], walked / walked.sum(0), atol=1e-5, rtol=0)


def test_irnets_step_is_the_published_one_for_photo_and_mirror_image(scenes, cams, generator):
    config = settings(scenes, cams, "irn")
    net = build_boundary_net(config, pretrained=False)
    step = irn._boundary_step(config, net)
    photo = torch.randint(0, 256, (1, 3, 40, 50), dtype=torch.uint8, generator=generator)
    scores = torch.rand(1, 3, 40, 50, generator=generator)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (net.backbone.mean, net.backbone.std))
    image = (photo / 255 - mean) / std
    with torch.no_grad():
        plain, mirrored = (net(view).boundary_logits[0, 0] for view in (image, image.flip(3)))
    boundary = torch.sigmoid(plain / 2 + mirrored.flip(1) / 2)
    cells = torch.zeros(2, 10, 13)
    for y in range(10):
        for x in range(13):
            rows, columns = slice(4 * y, 4 * y + 4), slice(4 * x, min(4 * x + 4, 50))
            cells[:, y, x] = scores[0, 1:, rows, columns].mean((1, 2))
    spread = boundary_walk(cells, boundary, radius=3, log_steps=3)
    spread = F.interpolate(spread[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    spread = spread[:, :40, :50] / spread[:, :40, :50].max()
    expected = torch.cat([torch.full((1, 40, 50), 0.25), spread])
    expected = expected / expected.sum(0)
    torch.testing.assert_close(step(scores, photo)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (9, 3), (30, 41)])
@pytest.mark.parametrize("classes", [0, 1, 3])
def test_odd_photos_go_through_both_steps(scenes, cams, size, classes):
    config = settings(scenes, cams, "affinity", "irn")
    steps = {
        "affinity": affinity._affinity_step(config, build_affinity_net(config, pretrained=False)),
        "irn": irn._boundary_step(config, build_boundary_net(config, pretrained=False)),
    }
    photo = torch.zeros(3, *size, dtype=torch.uint8)
    for cam in (np.zeros((classes, *size)), np.ones((classes, *size))):
        start = refinement_start(config, cam, 0.3)
        for _, after in refine_labels(start, photo, steps):
            assert after.shape == (classes + 1, *size)
            if classes:
                torch.testing.assert_close(after.sum(0), torch.ones(size))
                assert (after.argmax(0) > 0).all() == bool(cam.any())


def test_labels_of_cells_are_merged_from_averaged_scores(scenes, tmp_path, generator):
    photos = open_dataset(scenes, "train")
    classes = [0, 3]
    maps = {name: torch.rand(2, 64, 64, generator=generator) / 2 for name in ("low", "high")}
    for sample in photos.samples:
        write_cam(tmp_path / f"{sample.image_id}.npz", maps, classes)
    transform = TrainTransform(
        80, long_side=(64, 64), jitter=0, flip=False, mean=(0.5,) * 3, std=(1.0,) * 3
    )
    torch.manual_seed(0)
    dataset = affinity.scored_photos(photos, transform, scores=tmp_path, stride=8)
    item = dataset[0]
    # Where the photo lies in the crop is told by its zeros: the mean colour is not black.
    inside = (item.image != 0).any(0).nonzero()
    (top, left), (bottom, right) = inside.amin(0).tolist(), (inside.amax(0) + 1).tolist()
    assert (bottom - top, right - left) == (64, 64)
    expected = torch.full((10, 10), 255)
    stacks = {}
    for name, part in maps.items():
        part = part.half().float()
        full = torch.zeros(3, 80, 80)
        full[:, top:bottom, left:right] = torch.cat([1 - part.sum(0, keepdim=True), part])
        stacks[name] = full
    for y in range(10):
        for x in range(10):
            cell = (slice(None), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
            low, high = (stacks[name][cell].mean((1, 2)) for name in ("low", "high"))
            if max(low.max(), high.max()) >= 1e-5:
                label = int(low.argmax()) or 255
                expected[y, x] = 0 if int(high.argmax()) == 0 else label
    assert torch.equal(item.mask, expected)
    assert (item.mask == 255).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"affinity.powers": [24.0, 4.0]}, "affinity.powers must be two ascending"),
        ({"affinity.beta": 0.0}, "affinity.beta must be > 0"),
        ({"affinity.radius": 1}, "radius must be at least 2"),
        ({"affinity.radius": 5}, "augment.crop_size must be above 64, or affinity.radius lower"),
        ({"affinity.scale_range": [1.0]}, "scale_range must be an ascending range above 0"),
        ({"affinity.output_stride": 7}, "output_stride must be one of"),
        ({"irn.bg_scores": [0.3]}, "irn.bg_scores must be two ascending"),
        ({"irn.bg_scores": [0.3, 1.3]}, "irn.bg_scores and irn.threshold must be in"),
        ({"irn.log_steps": -1}, "irn.log_steps >= 0"),
        ({"irn.radius": 10}, "augment.crop_size must be above 72, or irn.radius lower"),
    ],
)
def test_settings_that_cannot_work_are_refused(scenes, cams, change, message):
    config = replace_settings(settings(scenes, cams, "affinity", "irn"), change)
    job = Job(config, RunFolder(Path("run")), open_dataset(scenes, "train"), None)
    with pytest.raises((ValueError, DscnetError), match=message):
        STAGE.check(job)
    config.refine.steps = ["pamr"]
    STAGE.check(job)


def test_other_steps_leave_trained_networks_alone(finished, scenes, cams, tmp_path):
    """Going back to them trains nothing again."""
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    weights = out / "affinity" / "affinity" / "weights.safetensors"
    trained = weights.stat().st_mtime_ns
    for steps in (["pamr"], ["affinity", "irn"], ["affinity", "crf"]):
        run(settings(scenes, cams, *steps), out, stages=["refine"], resume=True, progress=False)
    assert weights.stat().st_mtime_ns == trained


def test_a_trained_network_is_not_trained_over(finished, scenes, cams, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    config = replace_settings(settings(scenes, cams, "affinity"), {"affinity.lr": 0.5})
    with pytest.raises(DscnetError, match=r"finished training of 'affinity'.*affinity\.lr was"):
        run(config, out, stages=["refine"], resume=True, progress=False)
    config = replace_settings(config, {"affinity.start": "weights", "affinity.lr": 0.1})
    weights = out / "affinity" / "affinity" / "weights.safetensors"
    trained = weights.stat().st_mtime_ns
    assert run_single("refine", config, out, force=True, progress=False)
    assert weights.stat().st_mtime_ns != trained


def test_only_the_refinement_steps_asked_for_count():
    config = replace_settings(Config(), {"label.cams": "cams"})
    config.affinity.start = config.irn.start = "weights"
    assert STAGE.settings(config) == {"refine.steps": []}
    config.refine.steps = ["pamr"]
    names = {"refine", "scale", "label.bg_score", "label.cams"}
    assert set(STAGE.settings(config)) == names
    assert STAGE.needs(config) == ()
    config.refine.steps = ["affinity"]
    assert "affinity" in STAGE.settings(config)
    assert "irn" not in STAGE.settings(config)
    assert STAGE.needs(config) == ()
    config.affinity.start = "cam"
    assert STAGE.needs(config) == ("train",)
