from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from dscnet.data import read_classes
from dscnet.files.label_images import write_label
from dscnet.labels.pseudo_label import pseudo_label
from dscnet.metrics import confusion, evaluation
from dscnet.metrics.confusion import ConfusionMatrix
from dscnet.metrics.evaluation import (
    SWEEP,
    evaluate_cams,
    evaluate_folders,
    evaluate_pairs,
    label_names,
    read_metrics,
    section_text,
    shared_ids,
    write_metrics,
    write_section,
)
from dscnet.types import DataError
from helpers import SECTION_KEYS

CLASSES = ("boat", "bird", "cow")


def photos(num_photos, dtype=np.float32, seed=0, num_classes=3):
    """Maps that follow the truth loosely, with coarse values so that some tie with the sweep."""
    rng = np.random.default_rng(seed)
    items = []
    for _ in range(num_photos):
        height, width = rng.integers(3, 9, 2)
        classes = np.sort(rng.permutation(num_classes)[: rng.integers(0, num_classes + 1)])
        gt = rng.choice([0, *(classes + 1), 255], (height, width)).astype(np.uint8)
        cam = rng.integers(0, 51, (len(classes), height, width)) / 100
        cam += 0.3 * (gt[None] == classes[:, None, None] + 1)
        items.append((cam.astype(dtype), classes, gt))
    return items


def miou_by_argmax(items, bg_score, num_labels):
    """The sweep's definition: argmax over all labels, background first and constant."""
    matrix = ConfusionMatrix(num_labels)
    for cam, classes, gt in items:
        scores = np.full((num_labels, *gt.shape), -1, dtype=cam.dtype)
        scores[0] = bg_score
        scores[np.asarray(classes, dtype=int) + 1] = cam
        matrix.update(scores.argmax(0), gt)
    return matrix.miou()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_sweep_equals_an_argmax_a_score(dtype, seed, monkeypatch):
    monkeypatch.setattr(confusion, "BLOCK", (2**20, 11, 1)[seed])
    items = photos(7, dtype, seed)
    section = evaluate_cams(items, CLASSES, split="train", bg_score=0.3)
    mious = [miou_by_argmax(items, score, 4) for score in SWEEP]
    assert section["miou"] == miou_by_argmax(items, 0.3, 4)
    assert section["miou_best_bg"] == max(mious)
    assert section["best_bg_score"] == SWEEP[mious.index(max(mious))]


@pytest.mark.parametrize("score", [0.0, 0.07, 0.29, 0.3, 0.57, 0.59])
def test_each_score_of_the_sweep(score):
    items = photos(4, seed=5)
    section = evaluate_cams(items, CLASSES, split=None, bg_score=0.9, sweep=[score])
    assert section["miou_best_bg"] == miou_by_argmax(items, score, 4)
    assert section["best_bg_score"] == score
    assert section["miou"] == miou_by_argmax(items, 0.9, 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 100), min_size=1, max_size=4))
def test_any_sweep_equals_argmax(seed, hundredths):
    items = photos(2, seed=seed)
    sweep = [value / 100 for value in hundredths]
    section = evaluate_cams(items, CLASSES, split=None, bg_score=0.2, sweep=sweep)
    expected = [miou_by_argmax(items, score, 4) for score in sorted(sweep)]
    best = None if math.isnan(expected[0]) else max(expected)
    assert section["miou_best_bg"] == best
    if best is not None:
        assert section["best_bg_score"] == sorted(sweep)[expected.index(best)]


def test_the_fixed_score_measures_the_pseudo_labels():
    items = photos(5, seed=3)
    pairs = [(pseudo_label(cam, classes, bg_score=0.41), gt) for cam, classes, gt in items]
    of_labels = evaluate_pairs(pairs, CLASSES, split="train", bg_score=0.41)
    of_maps = evaluate_cams(iter(items), CLASSES, split="train", bg_score=0.41)
    assert of_maps.keys() == of_labels.keys() == SECTION_KEYS
    for key in SECTION_KEYS - {"miou_best_bg", "best_bg_score"}:
        assert of_maps[key] == of_labels[key]
    assert of_labels["miou_best_bg"] is None
    assert of_labels["best_bg_score"] is None


def test_sweep_by_hand():
    cam = np.array([[[0.1, 0.2, 0.3, 0.4]]])
    gt = np.array([[0, 0, 1, 1]], dtype=np.uint8)
    section = evaluate_cams([(cam, [0], gt)], ["boat"], split="train", bg_score=0.1)
    assert section == {
        "split": "train",
        "num_images": 1,
        "miou": pytest.approx((1 / 2 + 2 / 3) / 2),
        "bg_score": 0.1,
        "miou_best_bg": 1.0,
        "best_bg_score": 0.2,  # the background wins its tie with the second pixel
        "iou": {"background": 0.5, "boat": pytest.approx(2 / 3)},
        "pixel_accuracy": 0.75,
    }


def test_pairs_equal_torchmetrics():
    rng = np.random.default_rng(0)
    pairs = []
    judge = MulticlassJaccardIndex(4, ignore_index=255, average="macro")
    for _ in range(5):
        pred, gt = rng.integers(0, 3, (2, 7, 6)).astype(np.uint8)
        gt[rng.random(gt.shape) < 0.2] = 255
        pairs.append((pred, gt))
        judge.update(torch.from_numpy(pred), torch.from_numpy(gt))
    section = evaluate_pairs(iter(pairs), CLASSES, split="val")
    assert section["miou"] == pytest.approx(judge.compute().item(), abs=1e-6)
    assert list(section["iou"]) == ["background", *CLASSES]
    assert section["iou"]["cow"] is None
    assert (section["split"], section["num_images"], section["bg_score"]) == ("val", 5, None)


@pytest.mark.parametrize("num_classes", [1, 20, 80])
def test_any_number_of_classes(num_classes):
    items = photos(3, num_classes=num_classes)
    names = [f"class {index}" for index in range(num_classes)]
    section = evaluate_cams(items, names, split=None, bg_score=0.3)
    assert len(section["iou"]) == num_classes + 1
    expected = max(miou_by_argmax(items, score, num_classes + 1) for score in SWEEP)
    assert section["miou_best_bg"] == expected


@pytest.mark.parametrize("gt", [None, np.full((2, 2), 255, np.uint8)])
def test_nothing_measured_is_null(gt):
    items = [] if gt is None else [(np.ones((1, 2, 2)), [0], gt)]
    pairs = [] if gt is None else [(gt, gt)]
    for section in (
        evaluate_cams(items, CLASSES, split=None, bg_score=0.3),
        evaluate_pairs(pairs, CLASSES, split=None),
    ):
        assert section["num_images"] == len(items)
        for key in ("miou", "miou_best_bg", "best_bg_score", "pixel_accuracy"):
            assert section[key] is None
        assert section["iou"] == dict.fromkeys(["background", *CLASSES])


def test_wrong_arguments():
    gt = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="sweep must contain at least one"):
        evaluate_cams([], CLASSES, split=None, bg_score=0.3, sweep=[])
    with pytest.raises(ValueError, match=r"pred must be in \[0, 4\)"):
        evaluate_cams([(np.ones((1, 2, 2)), [3], gt)], CLASSES, split=None, bg_score=0.3)
    for names in (["background", "boat"], ["boat", "boat"]):
        with pytest.raises(ValueError, match="unique foreground names"):
            label_names(names)


# ----------------------------------------------------------------------------------------- folders


def write_folder(folder, labels):
    for image_id, values in labels.items():
        write_label(folder / f"{image_id}.png", np.array(values, dtype=np.uint8))
    return folder


def test_folders(tmp_path):
    truth = {"a": [[0, 1]], "sub/b.c": [[2, 255]]}
    guess = {"a": [[0, 0]], "sub/b.c": [[2, 1]], "other": [[9, 9]]}
    pred, gt = write_folder(tmp_path / "pred", guess), write_folder(tmp_path / "gt", truth)
    section = evaluate_folders(pred, gt, CLASSES, split="val")
    assert section["iou"] == {"background": 0.5, "boat": 0.0, "bird": 1.0, "cow": None}
    assert (section["num_images"], section["split"]) == (2, "val")
    assert evaluate_folders(pred, gt, CLASSES, ids=["sub/b.c"])["num_images"] == 1


def test_endings_in_upper_case_are_found(tmp_path):
    for name in ("pred", "gt"):
        (tmp_path / name).mkdir()
        write_label(tmp_path / name / "a.png", np.ones((2, 2), dtype=np.uint8))
    (tmp_path / "gt" / "a.png").rename(tmp_path / "gt" / "a.PNG")
    assert evaluation.shared_ids(tmp_path / "pred", tmp_path / "gt") == (["a"], 0)
    section = evaluation.evaluate_folders(tmp_path / "pred", tmp_path / "gt", ["x"], split="s")
    assert section["miou"] == 1


def test_folders_with_missing_predictions(tmp_path):
    gt = write_folder(tmp_path / "gt", {f"photo{index}": [[0]] for index in range(9)})
    pred = write_folder(tmp_path / "pred", {"photo0": [[0]]})
    with pytest.raises(DataError) as caught:
        evaluate_folders(pred, gt, CLASSES)
    text = str(caught.value)
    assert "has no prediction for 8 of 9 photos" in text
    assert "(photo1, photo2, photo3, photo4, photo5, ...)" in text
    assert str(pred) in text
    assert evaluate_folders(pred, gt, CLASSES, ids=["photo0"])["num_images"] == 1


@pytest.mark.parametrize(
    ("guess", "truth", "message"),
    [
        ([[0, 1]], [[0], [1]], r"pred/a\.png: 2x1 pixels, but .*gt/a\.png has 1x2"),
        ([[0, 4]], [[0, 1]], r"pred/a\.png: label 4 is not among the 4 labels"),
        ([[0, 1]], [[0, 77]], r"gt/a\.png: label 77 is not among the 4 labels"),
    ],
)
def test_folders_whose_files_do_not_fit(tmp_path, guess, truth, message):
    pred = write_folder(tmp_path / "pred", {"a": guess})
    gt = write_folder(tmp_path / "gt", {"a": truth})
    with pytest.raises(DataError, match=message):
        evaluate_folders(pred, gt, CLASSES)


@pytest.mark.parametrize("truth", [[[0, 255]], [[255, 255]]])
def test_masks_of_0_and_255_are_refused(tmp_path, truth):
    """Else all their objects would be ignored, and finding nothing would be perfect."""
    pred = write_folder(tmp_path / "pred", {"a": [[0, 0]], "b": [[0, 0]]})
    gt = write_folder(tmp_path / "gt", {"a": truth, "b": truth})
    with pytest.raises(DataError, match=r"gt: .*labels 1 to 3, .*255.* recode 0/255 masks"):
        evaluate_folders(pred, gt, CLASSES)
    write_folder(gt, {"b": [[0, 1]]})
    assert evaluate_folders(pred, gt, CLASSES)["num_images"] == 2


def test_photos_that_show_nothing_are_measured(tmp_path):
    gt = write_folder(tmp_path / "gt", {"a": [[0, 0]]})
    assert evaluate_folders(gt, gt, CLASSES)["miou"] == 1


def test_folders_that_are_missing_or_empty(tmp_path):
    pred = write_folder(tmp_path / "pred", {"a": [[0]]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no_such: no such folder"):
        evaluate_folders(tmp_path / "no_such", pred, CLASSES)
    with pytest.raises(DataError, match="no_such: no such folder"):
        evaluate_folders(pred, tmp_path / "no_such", CLASSES)
    with pytest.raises(DataError, match="empty: contains no ground truth"):
        evaluate_folders(pred, tmp_path / "empty", CLASSES)
    with pytest.raises(DataError, match="empty: contains no prediction;"):
        evaluate_folders(tmp_path / "empty", pred, CLASSES, ids=[])
    with pytest.raises(ValueError, match="ids must name at least one photo, got none"):
        evaluate_folders(pred, pred, CLASSES, ids=[])
    with pytest.raises(DataError, match=r"has no ground truth for 1 of 1 photos \(x\)"):
        evaluate_folders(pred, pred, CLASSES, ids=["x"])


def test_folders_of_colour_pictures(tmp_path):
    gt = write_folder(tmp_path / "gt", {"a": [[0]]})
    pred = tmp_path / "pred"
    pred.mkdir()
    Image.new("RGB", (1, 1)).save(pred / "a.png")
    with pytest.raises(DataError, match=r"pred/a\.png: PNG image of mode RGB"):
        evaluate_folders(pred, gt, CLASSES)


@pytest.mark.data
def test_real_masks_against_themselves(shared_data):
    masks = shared_data / "msrc" / "SegmentationClass"
    classes = read_classes(shared_data / "msrc" / "classes.txt")
    ids = (shared_data / "msrc/ImageSets/Segmentation/val.txt").read_text().split()[:10]
    section = evaluate_folders(masks, masks, classes, ids=ids)
    assert section["num_images"] == 10
    assert section["miou"] == section["pixel_accuracy"] == 1.0


# ------------------------------------------------------------------------------------------- files


def test_metrics_come_back_with_null_where_not_measured(tmp_path):
    path = tmp_path / "metrics.json"
    section = evaluate_pairs([(np.zeros((1, 1), int),) * 2], CLASSES, split="val")
    write_metrics(path, {"segmenter": section, "tags": {"map": math.nan}})
    assert read_metrics(path) == {
        "schema": 1,
        "cam": None,
        "pseudo_label": None,
        "segmenter": section,
        "tags": {"map": None},
    }
    assert list(json.loads(path.read_text())) == [
        "schema",
        "cam",
        "pseudo_label",
        "segmenter",
        "tags",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_metrics_without_anything(tmp_path):
    write_metrics(tmp_path / "m.json", {"cam": None})
    assert read_metrics(tmp_path / "m.json")["tags"] == {"map": None}


def test_unknown_sections_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got \['segmentor'\]"):
        write_metrics(tmp_path / "m.json", {"segmentor": {}})


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"schema": 2}', "{}"])
def test_files_that_are_no_metrics(tmp_path, text):
    path = tmp_path / "m.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"m\.json: no"):
        read_metrics(path)


def test_a_section_alone(tmp_path):
    section = evaluate_pairs([(np.array([[0, 1]]), np.array([[0, 0]]))], CLASSES, split=None)
    write_section(tmp_path / "s.json", section)
    assert json.loads((tmp_path / "s.json").read_text()) == {"schema": 1, **section}
    assert section_text(section).splitlines() == [
        "1 photos, percent",
        "mIoU             25.0",
        "pixel accuracy   50.0",
        "background       50.0",
        "boat              0.0",
        "bird                -",
        "cow                 -",
    ]


def test_shared_ids_count_what_is_left_out(tmp_path):
    for folder, names in (("pred", ("a", "sub/b", "extra")), ("gt", ("a", "sub/b", "c"))):
        for name in names:
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert shared_ids(tmp_path / "pred", tmp_path / "gt") == (["a", "sub/b"], 1)


def test_folders_that_share_no_name_are_told(tmp_path):
    for name in ("gt/b.png", "pred/images__b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"images__b\.png and b\.png"):
        shared_ids(tmp_path / "pred", tmp_path / "gt")


def test_pairs_are_not_kept(alive):
    def pairs():
        for _ in range(50):
            yield alive.watch(np.ones((4, 4), np.uint8)), alive.watch(np.zeros((4, 4), np.uint8))

    assert evaluate_pairs(pairs(), CLASSES, split=None)["num_images"] == 50
    assert len(alive.references) == 100
    assert alive.most <= 4, "the photo that is counted, and the next one"


def test_maps_of_the_sweep_are_not_kept(alive):
    def items():
        for _ in range(50):
            yield alive.watch(np.full((1, 4, 4), 0.5)), [0], alive.watch(np.ones((4, 4), np.uint8))

    section = evaluate_cams(items(), CLASSES, split=None, bg_score=0.2)
    assert section["num_images"] == 50 and len(alive.references) == 100
    assert alive.most <= 4


def test_folders_are_read_a_photo_at_a_time(tmp_path, monkeypatch, alive):
    for folder in ("gt", "pred"):
        for index in range(50):
            write_label(tmp_path / folder / f"{index}.png", np.ones((2, 2), np.uint8))
    read = evaluation.read_labels
    monkeypatch.setattr(evaluation, "read_labels", lambda path: alive.watch(read(path)))
    evaluate_folders(tmp_path / "pred", tmp_path / "gt", CLASSES)
    assert len(alive.references) == 100 and alive.most <= 4


def test_what_is_held_does_not_grow_with_the_photos():
    """A hundred megabytes of labels go through four."""

    def pairs():
        for _ in range(200):
            yield np.zeros((512, 512), np.uint8), np.full((512, 512), 255, np.uint8)

    tracemalloc.start()
    try:
        evaluate_pairs(pairs(), CLASSES, split=None)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_hidden_files_are_no_masks(tmp_path):
    for folder in ("gt", "pred"):
        write_label(tmp_path / folder / "a.png", np.ones((2, 2), np.uint8))
        (tmp_path / folder / "._a.png").write_bytes(b"\0\5\26\7")
    assert shared_ids(tmp_path / "pred", tmp_path / "gt") == (["a"], 0)
    assert evaluate_folders(tmp_path / "pred", tmp_path / "gt", CLASSES)["num_images"] == 1


def test_a_photo_that_cannot_be_measured_does_not_stop_the_others(tmp_path):
    truth = {name: [[0, 1]] for name in "abc"}
    pred, gt = write_folder(tmp_path / "pred", truth), write_folder(tmp_path / "gt", truth)
    (pred / "a.png").write_bytes(b"no picture")
    write_label(gt / "b.png", np.zeros((1, 1), np.uint8))
    failures: list[str] = []
    section = evaluate_folders(pred, gt, CLASSES, failures=failures)
    assert (section["num_images"], section["iou"]["boat"]) == (1, 1.0)
    first, second = failures
    assert "a.png: cannot be decoded" in first and "b.png: 2x1 pixels" in second
    write_label(pred / "c.png", np.full((1, 2), 9, np.uint8))
    with pytest.raises(DataError, match="label 9 is not among"):
        evaluate_folders(pred, gt, CLASSES, failures=[])
    (pred / "c.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no photo can be evaluated; the first error: .*a\.png"):
        evaluate_folders(pred, gt, CLASSES, failures=[])


def test_the_sweep_tries_every_hundredth_below_one():
    assert list(SWEEP) == [round(index * 0.01, 2) for index in range(100)]
