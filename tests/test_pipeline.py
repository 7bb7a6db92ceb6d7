from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dscnet.cli import main
from dscnet.config.settings import replace_settings
from dscnet.data import open_dataset
from dscnet.files.label_images import read_labels
from dscnet.labels.cam_files import read_cam, write_cam
from dscnet.metrics.tag_agreement import tag_agreement
from dscnet.pipeline.cam import cam
from dscnet.pipeline.job import Job, with_absolute_paths
from dscnet.pipeline.registry import list_stages
from dscnet.pipeline.resources import cam_bytes
from dscnet.pipeline.runner import open_run, run, run_single, run_stage
from dscnet.predictor import Predictor
from dscnet.run_folder import RunFolder
from dscnet.types import DataError, DscnetError
from helpers import (
    SECTION_KEYS,
    class_maps,
    small_config,
    stopped_in_the_second_epoch,
    without,
)


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(small_config(scenes), out, progress=False)
    return out


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_run_leaves_the_files_of_the_contract(finished):
    for name in ("config.yaml", "environment.json", "metrics.csv", "metrics.json", "report.html"):
        assert (finished / name).stat().st_size > 0, name
    assert len(list((finished / "cams").glob("*.npz"))) == 8
    assert len(list((finished / "labels").glob("*.png"))) == 8
    assert len(list((finished / "masks").glob("*.png"))) == 3
    assert (finished / "segmenter" / "weights.safetensors").exists()
    assert not list(finished.rglob("*.tmp"))


def test_the_maps_take_what_was_foretold(finished, scenes):
    samples = open_dataset(scenes, "train").samples
    written = sum(file.stat().st_size for file in finished.rglob("*.npz"))
    # The files' headers are the rest.
    assert written == pytest.approx(cam_bytes(small_config(scenes), samples), rel=0.1)


def test_metrics_keep_the_contract(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["schema"] == 1
    for name in ("cam", "pseudo_label", "segmenter"):
        assert set(metrics[name]) >= SECTION_KEYS
        assert len(metrics[name]["iou"]) == 7
        assert 0 <= metrics[name]["miou"] <= 1
    assert metrics["cam"]["miou_best_bg"] >= metrics["cam"]["miou"]
    assert metrics["pseudo_label"]["miou_best_bg"] is None
    assert metrics["segmenter"]["split"] == "val"
    assert 0 < metrics["tags"]["map"] <= 1


def test_labels_are_the_maps_at_the_background_score(finished):
    """Writing a label and measuring it loses nothing against measuring the map."""
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["pseudo_label"]["miou"] == pytest.approx(metrics["cam"]["miou"], abs=1e-9)


def test_labels_hold_no_class_that_the_photo_is_not_tagged_with(finished, scenes):
    lines = (scenes / "ImageSets" / "tags.csv").read_text().splitlines()[1:]
    names = (scenes / "classes.txt").read_text().split()
    for line in lines:
        image_id, tags = line.split(",")
        path = finished / "labels" / f"{image_id}.png"
        if path.exists():
            allowed = {0} | {names.index(tag) for tag in tags.split(";") if tag}
            assert set(np.unique(np.asarray(Image.open(path)))) <= allowed


def test_an_unchanged_run_does_nothing_again(copy, scenes):
    before = {
        path: path.stat().st_mtime_ns
        for path in copy.rglob("*")
        if path.suffix in (".npz", ".png", ".safetensors")
    }
    run(small_config(scenes), copy, resume=True, progress=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_changed_setting_runs_what_it_changes(copy, scenes):
    config = small_config(scenes)
    config.label.bg_score = 0.9
    weights = (copy / "checkpoints" / "weights.safetensors").stat().st_mtime_ns
    assert not run_single("train", config, copy, resume=True)
    assert not run_single("cam", config, copy)
    assert run_single("label", config, copy)
    assert (copy / "checkpoints" / "weights.safetensors").stat().st_mtime_ns == weights
    assert RunFolder(copy).fingerprint_of("segment") is None, "it learned from other labels"


def test_another_weight_of_the_discriminant_makes_maps_and_does_not_train_again(copy, scenes):
    config = small_config(scenes)
    config.method.class_similarity = 0.5
    before = {path.name: read_cam(path)[0]["refined"] for path in (copy / "cams").iterdir()}
    assert not run_single("train", config, copy, resume=True)
    assert run_single("cam", config, copy)
    after = {path.name: read_cam(path)[0]["refined"] for path in (copy / "cams").iterdir()}
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)


def test_another_way_of_testing_does_not_train_again(copy, scenes):
    config, weights = small_config(scenes), copy / "segmenter" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    masks = {path: path.stat().st_mtime_ns for path in (copy / "masks").glob("*.png")}
    config.segment.test_scales = [0.5, 1.0]
    assert run_single("segment", config, copy)
    assert weights.stat().st_mtime_ns == before
    assert all(path.stat().st_mtime_ns != written for path, written in masks.items())
    config.segment.lr = 1e-3
    with pytest.raises(DscnetError, match=r"finished training of the segm.*segment\.lr was"):
        run_single("segment", config, copy)
    assert weights.stat().st_mtime_ns == before
    assert run_single("segment", config, copy, force=True)
    assert weights.stat().st_mtime_ns != before


def test_runs_are_deterministic(finished, scenes, tmp_path):
    run(small_config(scenes), tmp_path / "again", stages=["train", "cam"], progress=False)
    for path in sorted((finished / "cams").glob("*.npz")):
        with np.load(path) as one, np.load(tmp_path / "again" / "cams" / path.name) as two:
            for name in one.files:
                np.testing.assert_array_equal(one[name], two[name])


def test_maps_do_not_depend_on_what_ran_before(copy, scenes):
    before = {path.name: read_cam(path)[0] for path in (copy / "cams").iterdir()}
    shutil.rmtree(copy / "cams")
    torch.manual_seed(99)
    cam(Job(small_config(scenes), RunFolder(copy), open_dataset(scenes, "train"), None), False)
    assert {path.name for path in (copy / "cams").iterdir()} == before.keys()
    for name, maps in before.items():
        for kind, values in read_cam(copy / "cams" / name)[0].items():
            np.testing.assert_array_equal(values, maps[kind])


def test_an_existing_run_is_not_overwritten(copy, scenes):
    with pytest.raises(DscnetError, match="--resume"):
        run(small_config(scenes), copy, progress=False)


def test_a_stage_without_its_input_says_what_to_run(scenes, tmp_path):
    with pytest.raises(DscnetError, match="dscnet train"):
        run_single("cam", small_config(scenes), tmp_path / "new")


def test_external_cams_and_labels(scenes, tmp_path):
    """Someone else's maps become labels; a network learns from them; no CAM network is trained."""
    cams = tmp_path / "cams"
    cams.mkdir()
    for path in (scenes / "SegmentationClass").glob("*.png"):
        maps, classes = class_maps(np.asarray(Image.open(path)))
        write_cam(cams / f"{path.stem}.npz", {"cam": maps}, classes)
    config = small_config(scenes)
    config.label.cams = str(cams)
    metrics = run(config, tmp_path / "run", stages=["label", "segment", "evaluate"], progress=False)
    assert metrics["pseudo_label"]["miou"] > 0.99
    assert metrics["cam"] is None
    assert metrics["segmenter"] is not None


@pytest.fixture(scope="module")
def refined(finished, tmp_path_factory) -> Path:
    """The finished run with all refinement steps and a background score of the maps."""
    out = Path(shutil.copytree(finished, tmp_path_factory.mktemp("refined") / "run"))
    steps = ["--refine.steps", "[walk, crf, pamr]", "--label.bg_score", "auto"]
    for verb in ("refine", "label"):
        assert main([verb, "--out", str(out), *(steps if verb == "refine" else [])]) == 0
    assert main(["evaluate", "--out", str(out)]) == 0
    assert main(["report", "--out", str(out)]) == 0
    return out


def test_refined_labels_are_measured_step_by_step(refined, finished):
    metrics = json.loads((refined / "metrics.json").read_text())
    assert [step["step"] for step in metrics["refine"]["steps"]] == ["walk", "crf", "pamr"]
    assert all(step["seconds"] > 0 for step in metrics["refine"]["steps"])
    assert metrics["refine"]["miou_before"] == pytest.approx(metrics["cam"]["miou"], abs=1e-9)
    last = metrics["refine"]["steps"][-1]["miou"]
    assert metrics["pseudo_label"]["miou"] == pytest.approx(last, abs=1e-9)
    assert last != metrics["refine"]["miou_before"]
    assert "refine" not in json.loads((finished / "metrics.json").read_text())


def test_metrics_name_the_number_that_a_criterion_chose(refined):
    metrics = json.loads((refined / "metrics.json").read_text())
    threshold = json.loads((refined / "threshold.json").read_text())
    assert metrics["cam"]["bg_score"] == metrics["pseudo_label"]["bg_score"] == threshold["used"]
    assert threshold["used"] == threshold["agreement"] != threshold["class_otsu"]
    assert threshold["setting"] == "auto"


def test_refinement_is_in_the_report(refined):
    page = (refined / "report.html").read_text()
    for words in (
        "<h2>Refinement</h2>",
        "after walk",
        "Label before refinement of",
        "by criterion",
    ):
        assert words in page


def test_refined_labels_hold_no_class_without_a_tag(refined, finished):
    for path in sorted((finished / "cams").glob("*.npz")):
        allowed = {0, *(read_cam(path)[1] + 1)}
        label = np.asarray(Image.open(refined / "labels" / f"{path.stem}.png"))
        assert set(np.unique(label)) <= allowed


def test_an_unchanged_refinement_does_nothing_again(refined):
    config = RunFolder(refined).read_config()
    assert not run_single("refine", config, refined)
    assert not run_single("label", config, refined)


def test_without_steps_refinement_leaves_nothing(copy, finished, scenes):
    config = small_config(scenes)
    config.refine.steps = ["pamr"]
    assert run_single("refine", config, copy)
    assert (copy / "refined").exists()
    config.refine.steps = []
    assert run_single("refine", config, copy)
    assert not (copy / "refined").exists()
    assert run_single("label", config, copy)
    for path in (finished / "labels").glob("*.png"):
        assert path.read_bytes() == (copy / "labels" / path.name).read_bytes()


def test_the_background_score_is_chosen_without_masks(scenes, finished, tmp_path):
    """A criterion gives the same number where there is no mask to open."""
    bare = without(scenes, tmp_path / "bare", "SegmentationClass")
    chosen = []
    for name, data in {"with": scenes, "without": bare}.items():
        config = small_config(data)
        config.label.bg_score = "tags"
        config.label.cams = str(finished / "cams")
        assert run_single("label", config, tmp_path / name)
        chosen.append(json.loads((tmp_path / name / "threshold.json").read_text()))
    assert chosen[0] == chosen[1]
    assert chosen[0]["used"] == chosen[0]["tags"]


def test_labels_are_merged_with_external_masks(scenes, tmp_path):
    """Maps beside their objects, masks of the true regions: merging finds the objects' places."""
    masks, cams = tmp_path / "masks", tmp_path / "cams"
    masks.mkdir()
    for path in (scenes / "SegmentationClass").glob("*.png"):
        true = np.asarray(Image.open(path))
        maps, classes = class_maps(np.roll(true, 3, axis=1))
        write_cam(cams / f"{path.stem}.npz", {"cam": maps}, classes)
        # Regions from 1 on; undecided pixels, 255, become 0: in no mask.
        Image.fromarray(true + np.uint8(1)).save(masks / path.name)
    config = small_config(
        scenes,
        {
            "refine.steps": ["masks"],
            "refine.masks": str(masks),
            "label.cams": str(cams),
            "label.bg_score": 0.5,
        },
    )
    stages = ["refine", "label", "evaluate"]
    metrics = run(config, tmp_path / "run", stages=stages, progress=False)
    (step,) = metrics["refine"]["steps"]
    assert step["step"] == "masks"
    assert step["seconds"] >= 0
    assert step["miou"] > metrics["refine"]["miou_before"] + 0.05
    assert metrics["pseudo_label"]["miou"] == pytest.approx(step["miou"], abs=1e-9)
    assert not run_single("refine", config, tmp_path / "run")
    path = next(iter(masks.glob("*.png")))
    Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    assert run_single("refine", config, tmp_path / "run"), "other masks, other labels"


def test_scales_choose_where_they_are_kept(copy, finished, scenes):
    config = small_config(
        scenes,
        {"cam.scales": [1.0, 1.5], "cam.keep_scales": True, "label.bg_score": "scales"},
    )
    assert run_single("cam", config, copy)
    assert run_single("label", config, copy)
    threshold = json.loads((copy / "threshold.json").read_text())
    assert threshold["used"] == threshold["scales"]
    assert 0 < threshold["used"] < 1
    before = json.loads((finished / "threshold.json").read_text())
    assert before["scales"] is None


def forbid_masks(monkeypatch) -> None:
    """Whoever reads a mask fails, in whichever module."""

    def forbidden(path):
        raise AssertionError(f"{path} was opened")

    for name, module in list(sys.modules.items()):
        if name.startswith("dscnet") and hasattr(module, "read_mask"):
            monkeypatch.setattr(module, "read_mask", forbidden)


def test_no_choice_ever_opens_a_mask(scenes, tmp_path, monkeypatch):
    """Epoch, background score and labels are the same with masks that must not be read and without.

    The masks that are there are no images, so that nothing else could read them either.
    """
    masked = without(scenes, tmp_path / "masked")
    for path in (masked / "SegmentationClass").glob("*.png"):
        path.write_bytes(b"not to be opened")
    bare = without(masked, tmp_path / "bare", "SegmentationClass")
    segments = tmp_path / "segments"
    segments.mkdir()
    for path in (scenes / "JPEGImages").glob("*.jpg"):
        bands = np.repeat(np.arange(1, 5, dtype=np.uint8), 16)[:, None]
        Image.fromarray(np.repeat(bands, 64, axis=1)).save(segments / f"{path.stem}.png")
    forbid_masks(monkeypatch)
    made = []
    for data in (masked, bare):
        config = small_config(
            data,
            {
                "train.keep": "best",
                "cam.scales": [1.0, 1.5],
                "cam.keep_scales": True,
                "label.bg_score": "scales",
                "refine.steps": ["masks", "pamr"],
                "refine.masks": str(segments),
            },
        )
        out = tmp_path / f"run_{data.name}"
        job = open_run(config, RunFolder(out), progress=False)
        assert all((s.mask_path is not None) == (data is masked) for s in job.train.samples)
        job.folder.create()
        for stage in ("train", "cam", "refine", "label"):
            assert run_stage(stage, job)
        tags = json.loads((out / "checkpoints" / "tags.json").read_text())
        assert tags["criterion"] == "tag mAP on the validation photos"
        assert len(tags["scores"]) == 2
        last_of_best = max(index for index in (1, 2) if tags["scores"][index - 1] == tags["map"])
        assert tags["kept_epoch"] == last_of_best
        assert tags["map"] == max(tags["scores"])
        labels = {path.name: path.read_bytes() for path in (out / "labels").iterdir()}
        made.append((tags, (out / "threshold.json").read_text(), labels))
    assert made[0] == made[1]


def test_numbers_of_files_that_become_others_are_gone(copy, scenes):
    config = small_config(scenes, {"label.bg_score": 0.6})
    assert run(config, copy, resume=True, stages=["label"], progress=False) == {}
    assert not (copy / "metrics.json").exists() and not (copy / "report.html").exists()
    with pytest.raises(DscnetError, match=r"segmentation network.*'label' gives different results"):
        run(config, copy, resume=True, progress=False)
    assert run_single("segment", config, copy, force=True)
    assert run(config, copy, resume=True, progress=False)["pseudo_label"]["bg_score"] == 0.6


def test_a_run_is_read_without_the_processor_it_was_trained_on(copy, scenes):
    there = {"train.accelerator": "tpu", "segment.accelerator": "tpu"}
    run_single("evaluate", small_config(scenes, there), copy, progress=False)
    for stage in ("train", "segment"):
        with pytest.raises(ValueError, match=f"{stage}.accelerator or {stage}.precision: "):
            run_single(stage, small_config(scenes, there), copy, resume=True)
    assert (copy / "segmenter" / "weights.safetensors").exists()


def test_force_runs_a_stage_again(copy, scenes):
    label = sorted((copy / "labels").iterdir())[0]
    label.write_bytes(b"")
    assert not run_single("label", small_config(scenes), copy, progress=False)
    assert run_single("label", small_config(scenes), copy, force=True, progress=False)
    assert read_labels(label).shape == (64, 64)
    assert run_single("label", small_config(scenes), copy, progress=False) is False


def test_places_are_kept_whole(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(scenes)
    places = {"label.cams": "cams", "refine.masks": "../sam"}
    config = small_config(Path("."), places | {"model.weights": "packaged"})
    found = with_absolute_paths(config)
    assert (found.data, found.label.cams) == (str(scenes), str(scenes / "cams"))
    assert found.refine.masks == str(scenes.parent / "sam")
    assert found.segment.labels is None
    # Weights by name are no place, and a folder of that name does not make them one.
    (tmp_path / "packaged").mkdir()
    monkeypatch.chdir(tmp_path)
    config = replace_settings(config, {"segment.weights": "trained/resnet38.pth"})
    found = with_absolute_paths(config)
    assert found.model.weights == "packaged"
    assert found.segment.weights == str(tmp_path / "trained" / "resnet38.pth")


@pytest.mark.parametrize("setting", ["model.weights", "segment.weights"])
def test_files_of_weights_are_looked_at_before_photos(scenes, tmp_path, monkeypatch, setting):
    monkeypatch.setattr("dscnet.pipeline.check_photos", lambda job: pytest.fail("photos first"))
    other = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(1)}, other)
    for path, message in (
        ("imagnet", "weights 'imagnet' is not"),
        (tmp_path / "none.pth", "none.pth: no such weight file"),
        (other, "other.safetensors does not match the model: .* tensors are missing"),
    ):
        config = small_config(scenes, {setting: str(path)})
        with pytest.raises(DscnetError, match=message):
            run(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refine.steps": ["magic"]}, "steps must be among pamr, crf, walk, masks, affinity, irn"),
        ({"refine.steps": ["magic"]}, "name its module in DSCNET_PLUGINS"),
        ({"refine.steps": ["crf"], "label.ignore_band": [0.2, 0.6]}, "label.ignore_band"),
        ({"refine.certainty": 0.2}, "certainty must be in"),
        ({"label.bg_score": 2.0}, "bg_score must be in"),
        ({"label.bg_score": "saliency"}, "needs a saliency map of every training photo"),
        (
            {"segment.test_scales": [0.5, 0.0]},
            "segment.test_scales must be one or more positive numbers",
        ),
        ({"segment.scale_range": [1.5, 0.5]}, "scale_range must be an ascending range above 0"),
        ({"segment.iterations": 0}, "segment.iterations must be at least 1, got 0"),
        ({"train.epochs": 0}, "train.epochs must be at least 1, got 0"),
        ({"train.batch_size": 0}, "train.batch_size must be at least 1, got 0"),
        ({"segment.batch_size": 0}, "segment.batch_size must be at least 1, got 0"),
        ({"segment.batch_size": 1}, "DeepLabV3. needs at least 2 photos per step, got 1"),
        ({"segment.lr_warmup": 1.0}, "segment.lr_warmup must be in"),
        ({"segment.precision": "foo"}, "segment.accelerator or segment.precision: .*foo"),
        ({"train.accelerator": "tpu"}, "train.accelerator or train.precision: "),
        ({"model.view_scale": 0.0}, "view_scale must be positive"),
        ({"method.temperature": 0.0}, "temperature must be > 0"),
        ({"augment.crop_size": 0}, "crop_size must be at least 1"),
        ({"segment.epochs": -1}, "segment.epochs must be at least 1, got -1"),
        ({"segment.output_stride": 32}, r"output_stride must be one of \(8, 16\), got 32"),
        ({"segment.backbone": "no_such_net"}, "no_such_net"),
        ({"segment.labels": "no/such"}, "segment.labels: .*no/such is not a folder"),
        ({"label.cams": "no/such"}, "label.cams: .*no/such is not a folder"),
        ({"label.ignore_band": [0.9, 0.1]}, "label.ignore_band must be two ascending scores"),
        ({"label.ignore_band": [0.1]}, "label.ignore_band must be two ascending scores"),
        ({"cam.scales": []}, "cam.scales must be one or more positive numbers"),
        ({"cam.scales": [math.nan]}, "cam.scales must be one or more positive numbers"),
        ({"scale.side": 0}, "scale.side must be at least 1, got 0"),
        ({"model.classifier_gain": -1.0}, "model.classifier_gain must be at least 0, got -1.0"),
        ({"cam.batch_size": 0}, "cam.batch_size must be at least 1, got 0"),
        ({"val_split": "vall"}, "val_split must be one of train, val, got 'vall'"),
        (
            {"label.bg_score": "agreement", "model.name": "cam", "method.variant": "M2"},
            "choose model seam",
        ),
        ({"label.bg_score": "scales"}, "criterion 'scales' compares CAMs of single scales"),
        (
            {"label.bg_score": "scales", "cam.keep_scales": True, "cam.scales": [1.0, 1.0]},
            "at least two different cam.scales, got true and",
        ),
        ({"refine.steps": ["masks"]}, "step 'masks' needs refine.masks"),
        ({"refine.steps": ["masks"], "refine.masks": "no/such"}, "no such folder or JSON file"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(scenes, tmp_path, change, message):
    bare = without(scenes, tmp_path / "bare", "saliency")
    config = small_config(bare, change)
    with pytest.raises((ValueError, DscnetError), match=message):
        run(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_true_masks_that_are_not_there_teach_nothing(scenes, tmp_path):
    bare = without(scenes, tmp_path / "bare", "SegmentationClass")
    config = small_config(bare, {"segment.supervision": "full"})
    with pytest.raises(DataError, match="needs ground-truth masks; no training photo"):
        run(config, tmp_path / "run", progress=False)


def test_photos_are_not_deleted_with_a_run(scenes, tmp_path):
    photos = Path(shutil.copytree(scenes, tmp_path / "run" / "photos"))
    RunFolder(tmp_path / "run").write_config(small_config(photos))
    with pytest.raises(DscnetError, match="--force would delete photos"):
        run(small_config(photos), tmp_path / "run", force=True, progress=False)
    before = sorted(photos.iterdir())
    for attempt in (
        lambda: run(small_config(photos), photos, force=True, progress=False),
        lambda: run_single("train", small_config(photos), photos),
    ):
        with pytest.raises(DscnetError, match="is the data set"):
            attempt()
    assert sorted(photos.iterdir()) == before


def test_a_stage_without_what_it_needs_writes_nothing(scenes, tmp_path):
    with pytest.raises(DscnetError, match="'label' needs the results of 'cam'"):
        run_single("label", small_config(scenes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_that_are_gone_are_made_again(copy):
    out = copy
    label = next((out / "labels").iterdir())
    before = label.read_bytes()
    (out / "report.html").unlink()
    shutil.rmtree(out / "labels")
    made = RunFolder(out).fingerprint_of("segment")
    for verb in ("label", "report"):
        assert main([verb, "--out", str(out)]) == 0
    assert (out / "report.html").exists() and label.read_bytes() == before
    assert RunFolder(out).fingerprint_of("segment") == made is not None


def test_exported_masks_name_the_photos_of_the_run(finished, scenes, tmp_path, capsys):
    target = tmp_path / "labels.json"
    argv = ["export", "--format", "coco", "--model", str(finished), "--out", str(target)]
    assert main(argv) == 0
    assert "no photos of the run" not in capsys.readouterr().out
    content = json.loads(target.read_text())
    names = [sample.image_path.name for sample in open_dataset(scenes, "train").samples]
    assert [image["file_name"] for image in content["images"]] == names
    assert main([*argv[:-2], "--out", str(tmp_path / "val.json"), "--masks", "nowhere"]) == 1


def test_a_run_goes_on_from_another_folder(finished, scenes, tmp_path, monkeypatch):
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    monkeypatch.chdir(scenes.parent)
    config = small_config(Path(scenes.name))
    run(config, out, resume=True, stages=["report"], progress=False)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--resume", f"--out={out}"]) == 0
    assert Path(RunFolder(out).read_config().data) == scenes


def test_a_run_goes_on_with_a_copy_of_its_photos(copy, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes", copy_function=shutil.copyfile)
    config = small_config(tmp_path / "scenes")
    assert not any(run_single(name, config, copy, resume=True) for name in ("train", "evaluate"))
    photo = open_dataset(config.data, "train").samples[0].image_path
    Image.new("RGB", (64, 64)).save(photo)
    assert run_single("cam", config, copy)


def test_a_criterion_that_does_not_exist_is_refused(scenes, tmp_path):
    config = small_config(scenes)
    config.label.bg_score = "magic"
    with pytest.raises(DscnetError, match="must be a number, auto or one of otsu, .* got 'magic'"):
        run(config, tmp_path / "run", progress=False)


def test_maps_of_another_size_are_named(finished, scenes, tmp_path):
    cams = Path(shutil.copytree(finished / "cams", tmp_path / "cams"))
    path = next(cams.glob("*.npz"))
    write_cam(path, {"cam": np.zeros((1, 5, 7))}, [0])
    config = small_config(scenes, {"label.cams": str(cams), "refine.steps": ["pamr"]})
    with pytest.raises(DataError, match=rf"CAMs of '{path.stem}' are \(5, 7\)"):
        run_single("refine", config, tmp_path / "run")


def test_saliency_chooses_where_it_is_given(finished, scenes, tmp_path):
    config = small_config(scenes)
    config.label.bg_score = "saliency"
    config.label.cams = str(finished / "cams")
    assert run_single("label", config, tmp_path / "run")
    assert 0 < json.loads((tmp_path / "run" / "threshold.json").read_text())["used"] < 1


def test_a_criterion_that_the_maps_do_not_allow_is_named(copy, scenes):
    config = small_config(scenes)
    config.label.bg_score = "agreement"
    for path in (copy / "cams").glob("*.npz"):
        maps, classes = read_cam(path)
        write_cam(path, {"cam": maps["cam"]}, classes)
    with pytest.raises(DataError, match="criterion 'agreement' cannot estimate a background"):
        run_single("label", config, copy)
    # Whoever has left the choice to us is given another.
    config.label.bg_score = "auto"
    assert config.criterion == "agreement"
    run_single("label", config, copy)
    scores = json.loads((copy / "threshold.json").read_text())
    assert scores["used"] == scores["class_otsu"] is not None


@pytest.fixture(scope="module")
def retrained(finished, tmp_path_factory) -> Path:
    """The finished run with DeepLab v1 on its own backbone, trained and tested as published."""
    out = Path(shutil.copytree(finished, tmp_path_factory.mktemp("retrained") / "run"))
    changes = {
        "network": "deeplabv1",
        "backbone": "test_efficientnet",
        "optimizer": "sgd",
        "iterations": 4,
        "crop_size": 48,
        "scale_range": [0.5, 1.5],
        "jitter": [0.04, 0.0, 0.04, 0.05],
        "test_scales": [0.5, 1.0],
        "flip_test": True,
        "crf": True,
    }
    config = replace_settings(
        RunFolder(out).read_config(), {f"segment.{name}": value for name, value in changes.items()}
    )
    for stage in ("segment", "evaluate"):
        assert run_single(stage, config, out, force=stage == "segment")
    return out


def test_retraining_runs_its_steps_and_is_measured(retrained):
    lines = (retrained / "segmenter" / "metrics.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["0", "1", "2", "3"], "three are an epoch"
    metrics = json.loads((retrained / "metrics.json").read_text())
    assert metrics["segmenter"]["num_images"] == 3
    assert not run_single("segment", RunFolder(retrained).read_config(), retrained)


def test_the_cam_network_keeps_the_colours_it_was_trained_with(retrained, finished):
    assert RunFolder(retrained).read_card() == RunFolder(finished).read_card()
    own = RunFolder(retrained).read_segmenter_card()
    assert own["mean"] == [0.485, 0.456, 0.406] != RunFolder(retrained).read_card()["mean"]


def test_prediction_is_that_of_the_run(retrained, scenes, tmp_path):
    """The masks of `segment` and of `predict`: all sizes, the mirror image and the CRF in both."""
    predictor = Predictor.from_run(retrained)
    assert (predictor.scales, predictor.flip, predictor.crf) == ((0.5, 1.0), True, True)
    photos = tmp_path / "photos"
    photos.mkdir()
    masks = sorted((retrained / "masks").glob("*.png"))
    for path in masks:
        shutil.copy(scenes / "JPEGImages" / f"{path.stem}.jpg", photos)
    out = tmp_path / "out"
    assert main(["predict", str(photos), "--model", str(retrained), "--out", str(out)]) == 0
    for path in masks:
        assert path.read_bytes() == (out / "masks" / path.name).read_bytes()


def test_full_supervision_needs_no_labels(scenes, tmp_path):
    config = small_config(scenes)
    config.segment.supervision = "full"
    metrics = run(config, tmp_path / "run", stages=["segment", "evaluate"], progress=False)
    assert metrics["pseudo_label"] is None
    assert metrics["segmenter"]["num_images"] == 3


def test_without_masks_nothing_is_measured_and_everything_runs(scenes, tmp_path):
    """Training, thresholds and labels never open a mask: there is none to open."""
    bare = without(scenes, tmp_path / "bare", "SegmentationClass", "saliency")
    metrics = run(small_config(bare), tmp_path / "run", progress=False)
    assert metrics["cam"] is metrics["pseudo_label"] is metrics["segmenter"] is None
    assert (tmp_path / "run" / "report.html").exists()
    masks = tmp_path / "run" / "masks"
    assert len(list(masks.glob("*.png"))) == 3
    photos = open_dataset(bare, "val").samples
    agreement = tag_agreement((read_labels(masks / f"{p.image_id}.png"), p.tags) for p in photos)
    assert agreement["mask_recall"] is not None, "tags are enough to say something"
    assert metrics["tags"].items() >= agreement.items()


def test_masks_that_come_later_are_measured_without_training_again(scenes, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(scenes, bare)
    masks = shutil.move(bare / "SegmentationClass", tmp_path / "masks")
    config, stages = small_config(bare), ["train", "cam", "label", "evaluate"]
    assert run(config, tmp_path / "run", stages=stages, progress=False)["cam"] is None
    weights = tmp_path / "run" / "checkpoints" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    shutil.move(masks, bare / "SegmentationClass")
    metrics = run(config, tmp_path / "run", stages=stages, resume=True, progress=False)
    assert metrics["cam"]["num_images"] == 8
    assert weights.stat().st_mtime_ns == before


def test_masks_do_not_change_what_is_learned(scenes, finished, tmp_path):
    bare = without(scenes, tmp_path / "bare", "SegmentationClass")
    run(small_config(bare), tmp_path / "run", stages=["train", "cam", "label"], progress=False)
    for path in sorted((finished / "labels").glob("*.png")):
        assert path.read_bytes() == (tmp_path / "run" / "labels" / path.name).read_bytes()


def test_an_interrupted_training_goes_on(scenes, tmp_path):
    config = small_config(scenes)
    whole = tmp_path / "whole"
    run(config, whole, stages=["train"], progress=False)

    with stopped_in_the_second_epoch():
        run(config, tmp_path / "broken", stages=["train"], progress=False)
    run(config, tmp_path / "broken", stages=["train"], resume=True, progress=False)

    one = load_file(whole / "checkpoints" / "weights.safetensors")
    two = load_file(tmp_path / "broken" / "checkpoints" / "weights.safetensors")
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert (whole / "metrics.csv").read_text() == (tmp_path / "broken" / "metrics.csv").read_text()


@pytest.mark.parametrize("fault", ["undecodable", "tiny", "unknown", "missing", "empty"])
def test_bad_data_is_refused_before_training(scenes, tmp_path, fault):
    bad = tmp_path / "bad"
    shutil.copytree(scenes, bad)
    photo = sorted((bad / "JPEGImages").glob("*.jpg"))[0]
    tags = bad / "ImageSets" / "tags.csv"
    expected = photo.stem
    if fault == "undecodable":
        photo.write_bytes(photo.read_bytes()[:300])
    elif fault == "tiny":
        Image.new("RGB", (8, 8)).save(photo)
    elif fault == "unknown":
        tags.write_text(tags.read_text().replace(f"{photo.stem},", f"{photo.stem},dragon;"))
        expected = "dragon"
    elif fault == "missing":
        tags.write_text(tags.read_text() + "ghost,boat\n")
        expected = "ghost"
    else:
        (bad / "ImageSets" / "Segmentation" / "train.txt").write_text("")
        expected = "train"
    with pytest.raises(DataError, match=expected):
        run(small_config(bad), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_stage_names_are_checked(scenes, tmp_path):
    names = [stage.name for stage in list_stages()]
    assert names == ["train", "cam", "refine", "label", "segment", "evaluate", "report"]
    with pytest.raises(ValueError, match="stages must be among"):
        run(small_config(scenes), tmp_path, stages=["fly"])


def test_verbs_work_on_a_run_folder(copy, tmp_path, scenes, capsys):
    assert main(["label", "--out", str(copy), "--label.bg_score", "0.4"]) == 0
    assert main(["evaluate", "--out", str(copy)]) == 0
    assert json.loads((copy / "metrics.json").read_text())["pseudo_label"]["bg_score"] == 0.4
    assert main(["report", "--out", str(copy)]) == 0
    assert main(["check", str(scenes)]) == 0
    said = capsys.readouterr().out
    assert "boat" in said
    assert "a run needs about" in said


def test_predict_on_a_folder_of_photos(finished, scenes, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    source = sorted((scenes / "JPEGImages").glob("*.jpg"))[:2]
    for path in source:
        shutil.copy(path, photos)
    Image.new("L", (50, 41), 128).save(photos / "grey.png")
    out = photos / "out"
    for _ in ("once", "and again, now with its own masks among the photos"):
        assert main(["predict", str(photos), "--model", str(finished), "--out", str(out)]) == 0
        assert sorted(path.stem for path in (out / "masks").glob("*.png")) == sorted(
            ["grey", *(p.stem for p in source)]
        )
    with Image.open(out / "masks" / "grey.png") as mask:
        assert (mask.mode, mask.size) == ("P", (50, 41))
    (photos / "broken.jpg").write_bytes(b"no photo")
    assert (
        main(["predict", str(photos), "--model", str(finished), "--out", str(tmp_path / "two")])
        == 1
    )
    assert "broken.jpg" in capsys.readouterr().err
    assert (tmp_path / "two" / "masks" / "grey.png").exists(), (
        "one bad photo does not stop the others"
    )
