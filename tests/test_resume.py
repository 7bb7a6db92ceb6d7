"""`run --resume` never trains over finished work: it goes on, or says what differs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from dscnet.build import build_model
from dscnet.cli import main
from dscnet.config import Config
from dscnet.config.settings import from_dict, replace_settings, to_dict
from dscnet.data import open_dataset
from dscnet.models.checkpoint import restore
from dscnet.pipeline import code_marks
from dscnet.pipeline.job import Job, with_absolute_paths
from dscnet.pipeline.registry import find_stage, list_stages
from dscnet.pipeline.resume import plan
from dscnet.pipeline.runner import open_run, run, run_single
from dscnet.pipeline.tag_validation import tag_map
from dscnet.run_folder import RunFolder, fingerprint
from dscnet.types import DscnetError
from helpers import small_config
from test_pipeline import finished  # noqa: F401

STAGES = ["train", "cam", "label", "segment"]


@pytest.fixture
def copy(finished, tmp_path) -> Path:  # noqa: F811
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def config(scenes) -> Config:
    return small_config(scenes)


def times(run_folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.is_file()}


def edit(monkeypatch, module: str, change) -> None:
    """Let the code of a module be another."""
    original = code_marks._file_of

    def file_of(name: str) -> Path:
        return change(original(name)) if name == module else original(name)

    monkeypatch.setattr(code_marks, "_file_of", file_of)
    monkeypatch.setattr(code_marks, "code_mark", cache(code_marks.code_mark.__wrapped__))


def with_text(folder: Path, old: str, new: str):
    def change(file: Path) -> Path:
        text = file.read_text(encoding="utf-8")
        assert old in text
        other = folder / file.name
        other.write_text(text.replace(old, new, 1), encoding="utf-8")
        return other

    return change


def test_a_comment_or_docstring_makes_nothing_run_again(copy, config, tmp_path, monkeypatch):
    before = times(copy)
    comment = with_text(tmp_path, "\ndef ", "\n# A comment.\ndef ")
    for module in ("dscnet.objective", "dscnet.labels.cam"):
        edit(monkeypatch, module, comment)
    run(config, copy, stages=STAGES, resume=True, progress=False)
    after = times(copy)
    changed = {Path(path).name for path in before if after[path] != before[path]}
    assert changed <= {"config.yaml", "environment.json"}


def test_other_code_of_a_training_is_refused_and_named(copy, config, tmp_path, monkeypatch):
    before = times(copy)
    edit(monkeypatch, "dscnet.objective", with_text(tmp_path, "return ", "return 0 or "))
    with pytest.raises(DscnetError, match="finished training of the CAM network.*dscnet.objective"):
        run(config, copy, stages=STAGES, resume=True, progress=False)
    assert times(copy) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train.lr": 0.5}, r"the CAM network.*train\.lr was 0\.\d+, is now 0\.5"),
        ({"method.variant": "M1"}, r"the CAM network.*method\.variant was M4, is now M1"),
        ({"seed": 7}, "the CAM network.*seed was 0, is now 7"),
        ({"segment.lr": 0.5}, r"the segmentation network.*segment\.lr was"),
        ({"cam.flip": True}, r"segmentation.*'label' gives different results.*cam\.flip was False"),
    ],
)
def test_other_settings_are_refused_before_anything_is_touched(copy, config, change, said):
    before = times(copy)
    with pytest.raises(DscnetError, match=said) as raised:
        run(replace_settings(config, change), copy, resume=True, progress=False)
    assert "--force" in str(raised.value)
    assert times(copy) == before


def test_the_remedy_trains_again_and_keeps_the_rest(copy, config):
    other = replace_settings(config, {"segment.lr": 0.5})
    cam_network, segmenter = copy / "checkpoints/weights.safetensors", copy / "segmenter"
    before = cam_network.stat().st_mtime_ns, (segmenter / "weights.safetensors").stat().st_mtime_ns
    assert run_single("segment", other, copy, force=True, progress=False)
    after = cam_network.stat().st_mtime_ns, (segmenter / "weights.safetensors").stat().st_mtime_ns
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_forced_stage_repeats_its_trainings(copy, config, rounds):
    config = replace_settings(config, {"segment.rounds": rounds})
    run(config, copy, resume=True, progress=False)
    weights = [copy / "segmenter", copy / "self_training" / "1" / "segmenter"][:rounds]
    before = [(folder / "weights.safetensors").stat().st_mtime_ns for folder in weights]
    expected = [(folder / "weights.safetensors").read_bytes() for folder in weights]
    assert not run_single("segment", config, copy, progress=False)
    assert run_single("segment", config, copy, force=True, progress=False)
    after = [(folder / "weights.safetensors").stat().st_mtime_ns for folder in weights]
    assert all(new > old for new, old in zip(after, before, strict=True))
    assert [(folder / "weights.safetensors").read_bytes() for folder in weights] == expected
    assert (copy / "checkpoints" / "weights.safetensors").exists(), "nothing else is deleted"


def test_a_moved_data_set_is_found_by_later_verbs(copy, config, scenes, tmp_path):
    moved = Path(shutil.copytree(scenes, tmp_path / "moved"))
    before = times(copy)
    run(replace_settings(config, {"data": str(moved)}), copy, resume=True, progress=False)
    after = times(copy)
    assert {Path(path).name for path in before if after[path] != before[path]} == {"config.yaml"}
    assert RunFolder(copy).read_config().data == str(moved)


def test_other_validation_photos_train_nothing(copy, config, scenes, tmp_path):
    other = Path(shutil.copytree(scenes, tmp_path / "other"))
    listed = other / "ImageSets" / "Segmentation" / "val.txt"
    listed.write_text("\n".join(listed.read_text().split()[:2]) + "\n")
    changed = replace_settings(config, {"data": str(other)})
    before = times(copy)
    metrics = run(changed, copy, resume=True, progress=False)
    for weights in ("checkpoints", "segmenter"):
        path = str(copy / weights / "weights.safetensors")
        assert times(copy)[path] == before[path]
    assert len(list((copy / "masks").iterdir())) == 2 == metrics["segmenter"]["num_images"]
    job = open_run(changed, RunFolder(copy))
    model = build_model(changed, job.train.num_classes, pretrained=False)
    restore(model, copy / "checkpoints" / "weights.safetensors")
    assert metrics["tags"]["map"] == tag_map(job, model)


WALKS = {"refine.steps": ["affinity", "irn"], "augment.crop_size": 256}
CAM, SEGMENTER = "the CAM network", "the segmentation network"


@pytest.mark.parametrize(
    ("settings", "change", "trained"),
    [
        ({}, {"augment.num_workers": 1}, []),
        ({"method.variant": "baseline"}, {"cam.batch_size": 2}, []),
        ({"method.kmeans_init": "cam", "method.num_groups": None}, {"cam.batch_size": 2}, []),
        ({}, {"cam.batch_size": 2}, [CAM, SEGMENTER]),
        ({}, {"cam.published_resize_quirk": True}, [CAM, SEGMENTER]),
        ({"method.variant": "M2"}, {"cam.batch_size": 2}, [SEGMENTER]),
        (WALKS, {"affinity.beta": 4.0, "affinity.log_steps": 5}, [SEGMENTER]),
        (WALKS, {"irn.beta": 4.0, "irn.log_steps": 5}, [SEGMENTER]),
        (WALKS, {"irn.walk_radius": 3, "irn.threshold": 0.3}, [SEGMENTER]),
        (WALKS, {"affinity.radius": 4}, ["'affinity'", SEGMENTER]),
        (WALKS, {"irn.radius": 4}, ["'irn'", SEGMENTER]),
        ({}, {"segment.crf": False, "segment.flip_test": True}, []),
        ({}, {"segment.lr": 0.3}, [SEGMENTER]),
    ],
)
def test_a_training_depends_on_what_it_reads(config, tmp_path, settings, change, trained):
    """Its own settings, and through the stages that it needs those of what they make."""
    config = replace_settings(config, settings)
    there, here = (trainings(one, tmp_path) for one in (config, replace_settings(config, change)))
    assert [name for name in here if here[name] != there[name]] == trained


def trainings(config: Config, folder: Path) -> dict[str, str]:
    """Fingerprints of all trainings by their names, once all stages have run."""
    photos = (open_dataset(config.data, split) for split in ("train", "val"))
    job, stages = Job(config, RunFolder(folder), *photos), list_stages()
    return {
        training.name: fingerprint(training.inputs)
        for index, stage in enumerate(stages)
        for training in stage.trained(plan(job, stages[:index]))
    }


def test_validation_photos_count_where_they_choose_the_weights(config, tmp_path):
    best = replace_settings(config, {"train.keep": "best"})
    for one, counts in ((config, False), (best, True)):
        job = open_run(one, RunFolder(tmp_path))
        fewer = replace(job, val=replace(job.val, samples=job.val.samples[1:]))
        (there,), (here,) = (find_stage("train").trained(each) for each in (job, fewer))
        assert (there.inputs != here.inputs) == counts


def test_a_segmenter_on_labels_made_elsewhere_depends_on_its_backbone_alone(
    config, tmp_path, scenes
):
    config = replace_settings(config, {"segment.labels": str(scenes / "SegmentationClass")})
    changes = [
        ({"model.name": "cam", "model.classifier_gain": 0.5, "model.frozen_stages": 1}, False),
        ({"model.backbone": "resnet38"}, True),
    ]
    for change, counts in changes:
        there, here = (
            next(iter(find_stage("segment").trained(open_run(one, RunFolder(tmp_path)))))
            for one in (config, replace_settings(config, change))
        )
        assert (there.inputs != here.inputs) == counts


def test_settings_that_train_nothing_are_taken(copy, config):
    other = replace_settings(config, {"label.bg_score": 0.9})
    run(other, copy, stages=["train", "cam", "label"], resume=True, progress=False)
    assert json.loads((copy / "threshold.json").read_text())["used"] == 0.9


def test_a_run_of_an_earlier_version_is_refused_and_stays(copy, config):
    records = json.loads((copy / "stages.json").read_text())
    for record in records.values():
        record.pop("inputs")
        record["fingerprint"] = "of an earlier version"
    (copy / "stages.json").write_text(json.dumps(records))
    before = times(copy)
    with pytest.raises(DscnetError, match="earlier version of dscnet") as raised:
        run(config, copy, resume=True, progress=False)
    assert "The verbs of later stages use it as it is" in str(raised.value)
    assert times(copy) == before
    assert run_single("label", config, copy, progress=False)


def test_interrupted_work_of_other_settings_is_not_lost(copy, config):
    (copy / "checkpoints/weights.safetensors").unlink()
    records = json.loads((copy / "stages.json").read_text())
    mark = records["train"].pop("fingerprint")
    records["train"]["started"] = mark
    (copy / "stages.json").write_text(json.dumps(records))
    other = replace_settings(config, {"train.lr": 0.5})
    with pytest.raises(DscnetError, match=r"contains an interrupted training of the CAM.*lr was"):
        run(other, copy, resume=True, progress=False)
    # A training that left no checkpoint has nothing to lose.
    for checkpoint in (copy / "checkpoints").glob("last.ckpt"):
        checkpoint.unlink()
    run(other, copy, stages=["train"], resume=True, progress=False)


def test_weights_survive_a_restart_that_was_stopped_before_its_first_checkpoint(
    copy, config, monkeypatch
):
    weights, folder = RunFolder(copy).weights, copy / "checkpoints"
    before = weights.read_bytes()
    (folder / "tags.json").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lightning.Trainer.fit", interrupt)
        run(config, copy, resume=True, progress=False)
    assert [path.name for path in folder.iterdir()] == [weights.name], "no checkpoint"
    other = replace_settings(config, {"train.lr": 0.5})
    with pytest.raises(DscnetError, match=r"training of the CAM.*train\.lr was .*now 0\.5"):
        run(other, copy, resume=True, progress=False)
    assert weights.read_bytes() == before


def interrupt(*args, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "lost",
    ["cams", "labels", "masks", "threshold.json", "metrics.json"]
    + ["cams/scene_00002.npz", "labels/scene_00003.png", "masks/scene_00009.png"],
)
def test_lost_files_come_back_as_they_were(copy, config, lost):
    before = times(copy)
    path = copy / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(config, copy, resume=True, progress=False)
    assert set(times(copy)) == set(before)
    for trained in ("checkpoints", "segmenter"):
        weights = str(copy / trained / "weights.safetensors")
        assert times(copy)[weights] == before[weights], "nothing was trained again"


def test_a_missing_stage_is_named_with_its_command(config, tmp_path):
    with pytest.raises(DscnetError, match=f"run `dscnet train --out {tmp_path}` first"):
        run_single("cam", config, tmp_path, progress=False)


def test_a_moved_data_set_can_be_evaluated(copy, scenes, tmp_path):
    config = RunFolder(copy).read_config()
    config.data = str(tmp_path / "gone")
    RunFolder(copy).write_config(config)
    (copy / "metrics.json").unlink()
    assert main(["evaluate", "--out", str(copy)]) == 1
    assert main(["evaluate", "--out", str(copy), "--data", str(scenes)]) == 0
    assert main(["evaluate", "--out", str(copy)]) == 0


def test_lost_weights_are_trained_again(copy, config):
    lost = copy / "segmenter" / "weights.safetensors"
    expected = lost.read_bytes()
    lost.unlink()
    run(config, copy, resume=True, progress=False)
    assert lost.read_bytes() == expected


def test_refinement_steps_asked_for_are_the_difference(copy, config):
    other = replace_settings(config, {"refine.steps": ["pamr"]})
    with pytest.raises(DscnetError, match=r"refine\.steps was \[\], is now \['pamr'\]") as raised:
        run(other, copy, resume=True, progress=False)
    assert "certainty" not in str(raised.value), "it was not read before"


@pytest.mark.parametrize(
    ("change", "verbs"),
    [
        # A setting of an earlier stage: that stage runs first.
        ({"label.bg_score": 0.3}, ["label", "segment"]),
        ({"label.ignore_band": [0.2, 0.3], "segment.crf": False}, ["label", "segment"]),
        ({"segment.optimizer": "sgd", "segment.crop_size": 48}, ["segment"]),
        ({"train.clip": 5.0, "extensions": {"seam": {"of us": None}}}, ["train"]),
    ],
)
def test_the_commands_of_a_refusal_work_as_they_stand(copy, config, change, verbs):
    """A run folder with a space in its path, and settings of all kinds."""
    folder = copy.rename(copy.parent / "of mine")
    changed = from_dict(Config, merged(to_dict(config), change))
    with pytest.raises(DscnetError) as raised:
        run(changed, folder, resume=True, progress=False)
    commands = [shlex.split(one) for one in re.findall(r"`dscnet ([^`]+)`", str(raised.value))]
    assert [command[0] for command in commands] == verbs
    for command in commands:
        assert main(command) == 0
    assert RunFolder(folder).read_config() == with_absolute_paths(changed)
    before = times(folder / ("checkpoints" if verbs == ["train"] else "segmenter"))
    assert main(["run", "--resume", "--out", str(folder)]) == 0
    assert times(folder / ("checkpoints" if verbs == ["train"] else "segmenter")) == before


def merged(values: dict, change: dict) -> dict:
    """Settings with dotted ones replaced, those of plugins as a whole."""
    for name, value in change.items():
        section, _, key = name.partition(".")
        if key:
            values[section][key] = value
        else:
            values[section] = value
    return values


def test_force_trains_again_and_nothing_else_rewrites_the_environment(copy):
    weights, environment = RunFolder(copy).segmenter_weights, copy / "environment.json"
    environment.write_text("{}")
    before = weights.stat().st_mtime_ns
    for verb in (["run", "--resume"], ["segment"], ["label"]):
        assert main([*verb, "--out", str(copy)]) == 0
    assert environment.read_text() == "{}"
    assert weights.stat().st_mtime_ns == before
    assert main(["segment", "--out", str(copy), "--force"]) == 0
    assert weights.stat().st_mtime_ns > before
    assert "versions" in environment.read_text()


def test_an_older_revision_stays_in_the_record_of_its_training(copy, monkeypatch):
    monkeypatch.setattr("dscnet.run_folder.git_revision", lambda: "newer")
    trained = RunFolder(copy).record_of("train")["git_revision"]
    assert trained != "newer"
    assert main(["evaluate", "--out", str(copy)]) == 0
    assert main(["report", "--out", str(copy), "--force"]) == 0
    assert RunFolder(copy).record_of("report")["git_revision"] == "newer"
    assert RunFolder(copy).record_of("train")["git_revision"] == trained
