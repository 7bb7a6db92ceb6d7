"""Rounds of the segmentation network: self-training on a data set of a few scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dscnet.config import Config
from dscnet.data import open_dataset
from dscnet.files.label_images import read_labels
from dscnet.pipeline import segment as segmenting
from dscnet.pipeline.runner import open_run, run, run_single
from dscnet.pipeline.self_training import (
    label_evidence,
    trusted_evidence,
    write_self_training_labels,
)
from dscnet.predictor import Predictor
from dscnet.run_folder import RunFolder
from dscnet.types import DscnetError
from helpers import small_config, without


def settings(data: Path, rounds: int = 2, **segment) -> Config:
    changes = {"rounds": rounds, "crf": False} | segment
    return small_config(
        data,
        {
            "method.variant": "baseline",
            "train.epochs": 1,
            # The maps of a network that has hardly learned do not agree on anything.
            "label.bg_score": "class_otsu",
            **{f"segment.{name}": value for name, value in changes.items()},
        },
    )


@pytest.fixture(scope="module")
def single(scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "single"
    run(settings(scenes, rounds=1), out, progress=False)
    return out


@pytest.fixture(scope="module")
def double(scenes, single, tmp_path_factory) -> Path:
    out = Path(shutil.copytree(single, tmp_path_factory.mktemp("runs") / "double"))
    run(settings(scenes), out, resume=True, progress=False)
    return out


@pytest.fixture
def copy(double, tmp_path) -> Path:
    return Path(shutil.copytree(double, tmp_path / "copy"))


def weights(folder: Path) -> bytes:
    return (folder / "segmenter" / "weights.safetensors").read_bytes()


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: read_labels(file).tobytes() for file in folder.glob("*.png")}


def test_a_further_round_goes_on_from_the_network_that_is_there(single, double):
    first = double / "self_training" / "1"
    assert weights(first) == weights(single)
    assert weights(double) != weights(single)
    assert pictures(first / "masks") == pictures(single / "masks")
    assert len(pictures(double / "self_training" / "2" / "labels")) == 8
    assert pictures(double / "labels") == pictures(single / "labels"), "those of the maps stay"


def test_fewer_rounds_take_the_network_that_was_the_last_of_so_many(scenes, single, copy):
    changed = (copy / "self_training" / "1" / "segmenter" / "weights.safetensors").stat().st_mtime
    with pytest.raises(DscnetError, match=r"segment\.rounds was 2, is now 1"):
        run(settings(scenes, rounds=1), copy, resume=True, progress=False)
    assert run_single("segment", settings(scenes, rounds=1), copy, force=True)
    assert weights(copy) == weights(single)
    assert pictures(copy / "masks") == pictures(single / "masks")
    there = (copy / "segmenter" / "weights.safetensors").stat().st_mtime
    assert there == changed, "copied with its time, not trained"


def test_at_once_or_one_after_the_other_is_the_same(scenes, double, tmp_path):
    run(settings(scenes), tmp_path / "run", progress=False)
    assert weights(tmp_path / "run") == weights(double)
    assert pictures(tmp_path / "run" / "masks") == pictures(double / "masks")


def test_each_round_is_measured(double, single):
    metrics = json.loads((double / "metrics.json").read_text())
    before = json.loads((single / "metrics.json").read_text())
    assert [row["round"] for row in metrics["rounds"]] == [1, 2]
    assert metrics["rounds"][0]["segmenter"] == before["segmenter"]
    assert metrics["rounds"][0]["pseudo_label"]["miou"] == metrics["pseudo_label"]["miou"]
    assert metrics["rounds"][1]["segmenter"] == metrics["segmenter"]
    assert "rounds" not in before
    page = (double / "report.html").read_text()
    assert "Rounds of training" in page
    assert page.count('alt="Label of the last round of') == 8
    assert "Undecided pixels" not in page
    once = (single / "report.html").read_text()
    assert "Rounds of training" not in once and "Label of the last round" not in once


def test_a_network_learns_from_the_labels_of_its_round(scenes, copy):
    """Trained on these labels alone it is the same network."""
    made = copy / "self_training" / "2" / "labels"
    config = settings(scenes, rounds=1, labels=str(made))
    run(config, copy.parent / "alone", progress=False, stages=["segment"])
    assert weights(copy.parent / "alone") == weights(copy)


def test_an_unchanged_run_does_nothing_again(copy, scenes):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.*") if path.is_file()}
    kept = {path: time for path, time in before.items() if path.suffix in (".png", ".safetensors")}
    run(settings(scenes), copy, resume=True, progress=False)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("change", [{"crf": True}, {"test_scales": [1.0, 1.5]}])
def test_new_inference_settings_remake_the_labels_that_depend_on_them(copy, scenes, change):
    first, made = weights(copy / "self_training" / "1"), copy / "self_training" / "2" / "labels"
    labels, last = pictures(made), weights(copy)
    if "crf" not in change:
        with pytest.raises(DscnetError, match=r"round 2 of self-training.*segment\.test_scales"):
            run(settings(scenes, **change), copy, resume=True, progress=False)
    assert run_single("segment", settings(scenes, **change), copy, force=True)
    assert weights(copy / "self_training" / "1") == first
    assert (pictures(made) == labels) == ("crf" in change)
    assert (weights(copy) == last) == ("crf" in change)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_interrupted_round_goes_on_as_if_nothing_had_been(
    single, double, scenes, tmp_path, monkeypatch, call
):
    """Stopped after the labels, in the training and before the weights are stored."""
    out = Path(shutil.copytree(single, tmp_path / "run"))
    places = {1: (segmenting, "_train"), 2: (segmenting, "optimise"), 3: (segmenting, "store")}
    with monkeypatch.context() as patch:

        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        patch.setattr(*places[call], stop)
        with pytest.raises(KeyboardInterrupt):
            run(settings(scenes), out, resume=True, progress=False)
    made = out / "self_training" / "2" / "labels"
    before = {file: file.stat().st_mtime_ns for file in made.glob("*.png")}
    assert len(before) == 8
    run(settings(scenes), out, resume=True, progress=False)
    assert weights(out) == weights(double)
    assert {file: file.stat().st_mtime_ns for file in before} == before, "made once"


def test_a_third_round_asks_both_networks_before_it(scenes, copy, tmp_path):
    run(settings(scenes, rounds=3), copy, resume=True, progress=False)
    made = pictures(copy / "self_training" / "3" / "labels")
    config = settings(scenes, rounds=2)
    job = open_run(config, RunFolder(copy), progress=False)
    networks = [
        Predictor.from_weights(config, folder.segmenter_weights, folder.read_segmenter_card())
        for folder in map(RunFolder(copy).self_training, (1, 2))
    ]
    for count in (1, 2):
        write_self_training_labels(
            job, networks[-count:], label_evidence(job), tmp_path / str(count)
        )
    assert made == pictures(tmp_path / "2")
    assert made != pictures(tmp_path / "1")


def test_further_rounds_start_from_external_labels(scenes, double, tmp_path):
    """There are no maps then; the first network is another one, as it learns from these labels."""
    made = double / "self_training" / "2" / "labels"
    config = settings(scenes, labels=str(made))
    run(config, tmp_path / "run", progress=False, stages=["segment"])
    job = open_run(config, RunFolder(tmp_path / "run"), progress=False)
    first = RunFolder(tmp_path / "run").self_training(1)
    network = Predictor.from_weights(config, first.segmenter_weights, first.read_segmenter_card())
    write_self_training_labels(job, [network], trusted_evidence(job, made), tmp_path / "again")
    found = pictures(tmp_path / "run" / "self_training" / "2" / "labels")
    assert found == pictures(tmp_path / "again")


def test_labels_need_no_masks(scenes, single, tmp_path):
    bare = without(scenes, tmp_path / "bare", "SegmentationClass")
    assert all(sample.mask_path is None for sample in open_dataset(bare, "train").samples)
    predictor = Predictor.from_run(single)
    made = []
    for data in (scenes, bare):
        job = open_run(settings(data), RunFolder(single), progress=False)
        made.append(tmp_path / str(len(made)))
        write_self_training_labels(job, [predictor], label_evidence(job), made[-1])
    assert pictures(made[0]) == pictures(made[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "segment.rounds must be at least 1, got 0"),
        ({"rounds": 2, "supervision": "full"}, "is self-training, which segment.supervision: full"),
    ],
)
def test_invalid_numbers_of_rounds_are_refused(scenes, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run(settings(scenes, **change), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_auxsegnet_has_rounds_of_its_own(scenes, tmp_path):
    config = settings(scenes)
    config.model.name = "auxsegnet"
    with pytest.raises(ValueError, match=r"which has auxseg\.rounds, got"):
        run(config, tmp_path / "run", progress=False)
