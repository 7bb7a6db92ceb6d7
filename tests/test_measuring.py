"""Tests of ``dscnet.pipeline.evaluate``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dscnet.config import (
    Config,
    LabelConfig,
    RefineConfig,
)
from dscnet.files.label_images import write_label
from dscnet.labels.cam_files import write_cam
from dscnet.metrics.evaluation import evaluate_pairs
from dscnet.pipeline import evaluate, measuring, refine
from dscnet.pipeline.evaluate import measure, refinement_section
from dscnet.pipeline.job import Job
from dscnet.pipeline.measuring import ground_truth_masks
from dscnet.run_folder import RunFolder, write_text
from test_fitting import photos


def test_truth_is_of_photos_with_a_mask(tmp_path):
    made = photos(tmp_path, [(4, 4)] * 3)
    assert [image_id for image_id, _ in ground_truth_masks(made)] == ["1", "2"]
    assert ground_truth_masks(None) == []


def test_measuring_a_run_holds_a_photo_at_a_time(tmp_path, monkeypatch, alive):
    made = photos(tmp_path, [(2, 2)] * 50)
    for sample in made.samples:
        Image.new("L", (2, 2)).save(sample.image_path)

    def read_map(folder, image_id):
        return alive.watch(np.ones((1, 2, 2))), [0]

    def read_labels(path):
        return alive.watch(np.zeros((2, 2), np.uint8))

    monkeypatch.setattr(evaluate, "load_map", read_map)
    monkeypatch.setattr(measuring, "read_labels", read_labels)
    monkeypatch.setattr(RunFolder, "fingerprint_of", lambda self, name: name in ("cam", "label"))
    job = Job(Config(label=LabelConfig(bg_score=0.4)), RunFolder(tmp_path / "run"), made, None)
    sections = measure(job)
    assert sections["cam"]["num_images"] == sections["pseudo_label"]["num_images"] == 49
    assert len(alive.references) == 98 and alive.most <= 2


@pytest.mark.parametrize(
    ("refine", "score"),
    [
        (RefineConfig(bg_power=6.0), 0.4),  # not read without steps
        (RefineConfig(steps=["crf"]), 0.4),
        (RefineConfig(steps=["crf"], bg_power=6.0), None),
        (RefineConfig(steps=["irn"]), None),
    ],
)
def test_labels_name_the_background_score_where_it_made_them(tmp_path, monkeypatch, refine, score):
    made = photos(tmp_path, [(2, 2)] * 2)
    Image.new("L", (2, 2)).save(made.samples[1].mask_path)
    config = Config(label=LabelConfig(bg_score=0.4), refine=refine)
    job = Job(config, RunFolder(tmp_path / "run"), made, None)
    write_label(job.folder.labels / "1.png", np.zeros((2, 2), np.uint8))
    monkeypatch.setattr(RunFolder, "fingerprint_of", lambda self, name: name == "label")
    assert measure(job)["pseudo_label"]["bg_score"] == score


def test_all_steps_of_refinement_come_from_one_reading(tmp_path, monkeypatch):
    made = photos(tmp_path, [(16, 1)] * 3)
    job = Job(Config(), RunFolder(tmp_path / "run"), made, None)
    rng = np.random.default_rng(0)
    folder, expected = job.folder, {"before": [], "first": [], "second": []}
    for sample in made.samples[1:]:
        truth = rng.integers(0, 3, (1, 16)).astype(np.uint8)
        write_label(sample.mask_path, truth)
        write_label(folder.unrefined / f"{sample.image_id}.png", np.ones((1, 16), np.uint8))
        steps = {name: rng.integers(0, 2, (1, 1, 16)) for name in ("first", "second")}
        write_cam(folder.refined / f"{sample.image_id}.npz", steps, [1])
        expected["before"].append((np.ones((1, 16), np.uint8), truth))
        for name, values in steps.items():
            expected[name].append((2 * values[0].astype(np.uint8), truth))
    write_text(folder.refinement, json.dumps({"first": 1.0, "second": 2.0}))
    opened: list[Path] = []
    read = refine.read_cam
    monkeypatch.setattr(refine, "read_cam", lambda path: (opened.append(path), read(path))[1])
    section = refinement_section(job, ground_truth_masks(made))
    assert [path.stem for path in opened] == ["1", "2"]
    mious = {
        name: evaluate_pairs(pairs, made.classes, split=None)["miou"]
        for name, pairs in expected.items()
    }
    assert section == {
        "miou_before": mious["before"],
        "steps": [
            {"step": "first", "seconds": 1.0, "miou": mious["first"]},
            {"step": "second", "seconds": 2.0, "miou": mious["second"]},
        ],
    }
    assert len(set(mious.values())) == 3
