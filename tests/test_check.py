from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dscnet.data.check import check_dataset, check_path
from dscnet.data.check_report import CheckReport
from dscnet.data.datasets import PhotoSet, Sample, open_dataset
from helpers import write_listed


def save(path, values, **options):
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path, **options)
    return path


@pytest.fixture
def good(tmp_path):
    """Three photos of 40 x 48 pixels: cat, dog, and a negative, each masked as it is tagged."""
    samples = []
    for name, tags in (("a", (0,)), ("b", (1,)), ("c", ())):
        samples.append(
            Sample(
                name,
                save(tmp_path / f"{name}.jpg", np.full((40, 48, 3), 90)),
                tags,
                save(tmp_path / f"{name}_mask.png", np.full((40, 48), sum(tags, len(tags)))),
                save(tmp_path / f"{name}_saliency.png", np.full((40, 48), 9)),
            )
        )
    return PhotoSet("pets", ("cat", "dog"), tuple(samples), ("a note",))


def with_sample(photo_set, **changes):
    first, *rest = photo_set.samples
    return replace(photo_set, samples=(replace(first, **changes), *rest))


def only_error(photo_set, **options):
    report = check_dataset(photo_set, **options)
    assert not report.ok and len(report.errors) == 1, report.errors
    return report.errors[0]


def test_good_set_passes_and_is_counted(good):
    report = check_dataset(good)
    assert report.ok and report.warnings == []
    assert report.info == [
        "pets: 3 photos, 2 classes, 3 masks, 3 saliency maps",
        "heights 40 to 40 pixels, widths 48 to 48 pixels",
        "photos per class: cat 1, dog 1",
        "a note",
    ]


def test_empty_set_is_an_error():
    assert "no photo" in only_error(PhotoSet("none", ("cat",), ()))


def test_undecodable_photo_is_an_error_and_the_rest_is_checked(good):
    path = good.samples[0].image_path
    path.write_bytes(path.read_bytes()[:300])
    small = replace(good.samples[1], image_path=path.with_name("nowhere.jpg"))
    report = check_dataset(replace(good, samples=(good.samples[0], small, good.samples[2])))
    assert len(report.errors) == 2
    assert "a.jpg" in report.errors[0] and "re-export or remove it" in report.errors[0]
    assert "nowhere.jpg" in report.errors[1]


def test_classes_that_differ_in_case_alone_are_told(good):
    twins = replace(good, classes=("Cat", "cat"))
    (warning,) = [line for line in check_dataset(twins).warnings if "only in case" in line]
    assert warning.startswith("Cat, cat differ")


@pytest.mark.parametrize("shape", [(15, 48, 3), (48, 15, 3)])
def test_small_photo_is_an_error(good, tmp_path, shape):
    path = save(tmp_path / "small.png", np.zeros(shape))
    photo_set = with_sample(good, image_path=path, mask_path=None, saliency_path=None)
    error = only_error(photo_set)
    assert "small.png" in error and f"{shape[1]} x {shape[0]}" in error and "remove" in error
    assert check_dataset(photo_set, min_size=15).ok


@pytest.mark.parametrize("kind", ["mask_path", "saliency_path"])
def test_map_of_another_size_is_an_error(good, tmp_path, kind):
    path = save(tmp_path / "other.png", np.zeros((48, 40)))
    error = only_error(with_sample(good, **{kind: path}))
    assert "other.png" in error and "a.jpg" in error and "re-export" in error


@pytest.mark.parametrize("kind", ["mask_path", "saliency_path"])
def test_map_of_another_kind_is_an_error(good, tmp_path, kind):
    path = save(tmp_path / "rgb.png", np.zeros((40, 48, 3)))
    assert "rgb.png" in only_error(with_sample(good, **{kind: path}))


def test_labels_beyond_the_classes_are_an_error(good, tmp_path):
    labels = np.zeros((40, 48))
    labels[0, :5] = [1, 2, 3, 77, 255]
    error = only_error(with_sample(good, mask_path=save(tmp_path / "m.png", labels)))
    assert "m.png: has labels 3, 77, but 2 classes" in error


def test_mask_of_nothing_but_ignored_pixels_is_fine(good, tmp_path):
    path = save(tmp_path / "m.png", np.full((40, 48), 255))
    assert check_dataset(with_sample(good, mask_path=path)).ok


@pytest.mark.parametrize(
    ("values", "refused"),
    [((0, 255), True), ((255, 255), True), ((0, 0), False), ((1, 255), False)],
)
def test_masks_of_0_and_255_are_refused(good, values, refused):
    for sample in good.samples:
        save(sample.mask_path, np.full((40, 48), values[0]))
    labels = np.full((40, 48), values[0])
    labels[:9] = values[1]
    save(good.samples[1].mask_path, labels)
    told = [error for error in check_dataset(good).errors if "recode 0/255 masks" in error]
    assert len(told) == refused


@pytest.mark.parametrize(("peak", "warned"), [(1, True), (2, False)])
def test_saliency_maps_of_0_and_1_are_warned_of(good, peak, warned):
    for sample, value in zip(good.samples, (1, 1, peak), strict=True):
        saliency = np.zeros((40, 48))
        saliency[:9] = value
        save(sample.saliency_path, saliency)
    report = check_dataset(good)
    assert report.ok and len(report.warnings) == warned
    assert not warned or "expected 0..255" in report.warnings[0]


@pytest.mark.parametrize(
    ("split", "warned"), [(None, 0), ("train", 1), ("train_aug", 1), ("val", 0)]
)
def test_a_class_that_no_training_photo_has_keeps_its_number(good, split, warned):
    report = check_dataset(replace(with_sample(good, tags=(1,), mask_path=None), split=split))
    assert report.ok and len(report.warnings) == warned
    assert all(
        "no photo is tagged 'cat'" in line and "classes.txt" in line for line in report.warnings
    )


def test_photos_of_no_class_are_an_error(good):
    samples = tuple(replace(sample, tags=(), mask_path=None) for sample in good.samples)
    assert "no photo has a tag" in only_error(replace(good, samples=samples))


def test_class_that_no_validation_photo_has_is_none(good):
    assert check_dataset(replace(with_sample(good, tags=(1,)), split="val")).ok


def test_class_on_every_photo_is_a_warning(good):
    samples = tuple(replace(x, tags=(0, 1), mask_path=None) for x in good.samples[:2])
    report = check_dataset(replace(good, samples=samples))
    assert report.ok and len(report.warnings) == 2
    assert "every photo is tagged 'cat'" in report.warnings[0]


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ([(0, 1), (1,), ()], ["every photo of 'cat' is also tagged 'dog'"]),
        ([(0, 1), (0, 1), ()], ["of 'cat' is also tagged 'dog'", "of 'dog' is also tagged 'cat'"]),
        ([(0, 1), (0,), (1,)], []),
        ([(0, 1), (1,), None], ["every photo is tagged 'dog'"]),
    ],
)
def test_a_class_that_is_never_alone_is_warned_of(good, tags, told):
    pairs = zip(good.samples, tags, strict=True)
    samples = tuple(replace(sample, tags=own, mask_path=None) for sample, own in pairs)
    warnings = check_dataset(replace(good, samples=samples)).warnings
    assert len(warnings) == len(told)
    assert all(text in warning for text, warning in zip(told, warnings, strict=True))
    assert check_dataset(replace(good, samples=samples, split="val")).warnings == []


def test_unknown_tags_are_not_checked(good):
    samples = tuple(replace(sample, tags=None, mask_path=None) for sample in good.samples)
    assert check_dataset(replace(good, classes=(), samples=samples)).ok


def test_photos_that_will_be_converted_are_mentioned(good, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", np.zeros((48, 40)), exif=exif)
    report = check_dataset(with_sample(good, image_path=path))
    assert report.ok  # turned, it is as large as its masks
    assert "1 photos are grey and will be converted: a" in report.info
    assert "1 photos are rotated by EXIF and will be converted: a" in report.info


def test_report_text():
    assert CheckReport().text() == "ok"
    report = CheckReport([f"e{i}" for i in range(22)], ["w"], ["i"])
    lines = report.text().splitlines()
    assert lines[0] == "error: e0" and lines[19:21] == ["error: e19", "error: and 2 more"]
    assert lines[21:] == ["warning: w", "i", "22 errors"]


@pytest.mark.data
def test_msrcs_faces_are_on_bodies(shared_data):
    (warning,) = check_dataset(open_dataset(shared_data / "msrc", "train")).warnings
    assert "every photo of 'face' is also tagged 'body'" in warning


@pytest.mark.data
def test_msrc_is_good(shared_data):
    report = check_dataset(open_dataset(shared_data / "msrc", "val"))
    assert report.ok and report.warnings == []
    assert report.info[0] == "msrc: 100 photos, 17 classes, 100 masks, 100 saliency maps"


def test_a_missing_saliency_map_is_an_error_where_maps_are_needed(good):
    photo_set = with_sample(good, saliency_path=None)
    assert check_dataset(photo_set).ok
    error = only_error(photo_set, need_saliency=True)
    assert "a.jpg: has no saliency map; add a.png" in error and "from_cam" in error


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_a_colour_or_16_bit_saliency_map_is_refused_by_name(good, mode):
    path = good.samples[0].saliency_path
    Image.new(mode, (48, 40)).save(path)
    error = only_error(good)
    assert str(path) in error and "8-bit grey PNG" in error


def test_a_black_saliency_map_of_a_tagged_photo_is_warned_of(good):
    for sample in good.samples:
        save(sample.saliency_path, np.zeros((40, 48)))
    report = check_dataset(good)
    assert report.ok
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("2 tagged photos have an all-black saliency map")
    assert ": a, b; " in report.warnings[0]


@pytest.fixture
def listed(tmp_path):
    """Writes photos a (cat), b (dog) and c of 20 x 20 pixels, and the given splits."""

    grey = np.full((20, 20, 3), 90, dtype=np.uint8)
    photos = {"a": (grey, "cat"), "b": (grey, "dog"), "c": (grey, "")}
    return lambda **splits: write_listed(tmp_path, photos, splits)


def test_good_splits_add_nothing(listed):
    root = listed(train="ab", val="c")
    assert check_path(root) == check_dataset(open_dataset(root))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_names_an_unknown_photo_is_an_error(listed, split):
    root = listed(**{"train": "ab", "val": "c"} | {split: ["a", "b", "yak"]})
    report = check_path(root)
    assert len(report.errors) == 1
    assert f"{split}.txt, line 3: there is no photo 'yak'" in report.errors[0]
    other = {"train": "val", "val": "train"}[split]
    assert check_path(root, other).ok


def test_a_class_without_a_photo_in_train_is_warned_of(listed):
    report = check_path(listed(train="ac", val="b"))
    assert report.ok and len(report.warnings) == 1
    assert ", split train: no photo is tagged 'dog'" in report.warnings[0]


def test_a_class_without_any_photo_is_noted(listed):
    root = listed(train="ab", val="c")
    (root / "classes.txt").write_text("cat\ndog\nyak\n")
    report = check_path(root)
    assert report.ok and report.warnings == [] and "no photo is tagged yak" in report.info


def test_a_missing_validation_list_is_noted(listed):
    report = check_path(listed(train="ab", valid="c"))
    assert report.ok and report.warnings == []
    (line,) = [line for line in report.info if "no split 'val'" in line]
    assert "train, valid" in line and "--val_split" in line


def test_an_empty_validation_list_is_an_error(listed):
    report = check_path(listed(train="ab", val=""))
    assert len(report.errors) == 1 and "val.txt: lists no photo" in report.errors[0]


@pytest.mark.parametrize("classes", [("cat", "Background"), tuple(f"c{i}" for i in range(255))])
def test_classes_that_no_mask_can_show_are_refused(good, classes):
    assert any(
        "is the background, not a class" in error or "255 classes" in error
        for error in check_dataset(replace(good, classes=classes)).errors
    )


def test_splits_without_train_are_warned_of(listed):
    report = check_path(listed(train_aug="ac", val="b"))
    assert report.ok and len(report.warnings) == 1
    assert "no split 'train' (its splits are train_aug, val)" in report.warnings[0]


def test_what_is_not_read_of_photos_is_warned_of(good, tmp_path):
    page = Image.new("RGB", (48, 40))
    pages = save(tmp_path / "pages.tif", np.zeros((40, 48, 3)), save_all=True, append_images=[page])
    report = check_dataset(with_sample(good, image_path=pages))
    assert report.ok
    (warning,) = report.warnings
    assert warning.startswith("1 photos have pages after the first, which are ignored: a; save")


@pytest.mark.parametrize(("peak", "warned"), [(4095, True), (65535, False), (255, False)])
def test_sixteen_bit_photos_of_twelve_bits_are_warned_of(good, tmp_path, peak, warned):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((40, 48), peak, np.uint16)).save(path)
    warnings = check_dataset(with_sample(good, image_path=path)).warnings
    assert [text.startswith("1 16-bit photos are nearly black") for text in warnings] == (
        [True] if warned else []
    )
