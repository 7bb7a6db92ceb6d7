from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dscnet.data import open_dataset, read_mask
from dscnet.data.check_report import CheckReport, PhotoFacts
from dscnet.data.datasets import PhotoSet, Sample
from dscnet.data.mask_consistency import compare_masks

CLASSES = ("cow", "sheep", "car")


def compared(photos, classes=CLASSES, split=None):
    """Findings on photos of the given tags (class names) and mask values."""
    samples, facts = [], {}
    for number, (names, values) in enumerate(photos):
        tags = None if names is None else tuple(sorted(classes.index(x) for x in names.split()))
        samples.append(Sample(f"p{number}", Path("none"), tags))
        facts[f"p{number}"] = PhotoFacts(b"", None if values is None else frozenset(values))
    report = CheckReport(facts=facts)
    compare_masks(PhotoSet("farm", classes, tuple(samples), split=split), report)
    return report


def order_of(error):
    return tuple(error.split("lists them: ")[1].split("; or ")[0].split(", "))


GOOD = [
    ("cow", (0, 1)),
    ("sheep", (0, 2)),
    ("car", (0, 3)),
    ("cow car", (0, 1, 3, 255)),
    ("", (0,)),
]


@pytest.mark.parametrize(
    "photos",
    [
        GOOD,
        GOOD[:1],
        [("cow", None), ("sheep", None)],
        [*GOOD, ("sheep", (255,))],  # all ignored says nothing
        [*GOOD, (None, (1, 2))],
        [("cow", (0, 9)), ("sheep", (0, 9))],  # told of each file
    ],
)
def test_masks_that_show_the_tags_are_not_mentioned(photos):
    report = compared(photos)
    assert (report.errors, report.warnings, report.info) == ([], [], [])


def test_masks_in_another_order_are_refused_and_the_order_named_is_right():
    photos = [("cow", (0, 2)), ("cow", (2,)), ("sheep", (3,)), ("sheep", (0, 3)), ("car", (0, 1))]
    (error,) = compared(photos, split="train").errors
    assert error.startswith("farm, split train: masks number the classes differently")
    assert "label 2 is 'sheep' by its number but occurs in photos tagged 'cow' (2 photos)" in error
    assert order_of(error) == ("car", "cow", "sheep")
    assert compared(photos, order_of(error)).errors == []


def test_two_classes_that_trade_places_are_refused_among_many_photos():
    photos = [*[("cow", (0, 1))] * 40, ("sheep", (3,)), ("car", (0, 2))]
    (error,) = compared(photos).errors
    assert order_of(error) == ("cow", "car", "sheep")


def test_masks_that_count_classes_from_0_are_to_be_written_anew():
    photos = [(name, (0, label)) for label, name in enumerate(CLASSES)] * 2
    (error,) = compared(photos).errors
    assert "in this order" not in error  # no order gives the first class a label
    assert "write the masks with 0 = background, 1 = 'cow', 2 = 'sheep', 3 = 'car'" in error


def test_masks_that_count_beyond_the_classes_are_not_mended_by_another_order():
    moved = [("cow", (0, 2)), ("sheep", (0, 3)), ("car", (0, 4))] * 2
    (error,) = compared(moved).errors
    assert "list the classes" not in error
    assert "write the masks with 0 = background, 1 = 'cow', 2 = 'sheep', 3 = 'car'" in error


def test_photos_whose_tags_lack_what_their_masks_show_are_counted():
    report = compared([*GOOD * 5, ("cow", (1, 2)), ("", (3,)), ("cow sheep", (1,))])
    assert report.ok and report.warnings == []
    assert report.info == [
        "farm: 2 of 28 masks contain classes that are not tagged: p25 'sheep', p26 'car'",
        "farm: 1 of 28 masks lack classes that are tagged: p27 'sheep'",
    ]


def test_one_mistagged_photo_is_no_other_order():
    report = compared([*GOOD[:1] * 9, ("car", (2,))])
    assert report.ok and len(report.warnings) == 1 and len(report.info) == 2


def test_classes_that_appear_together_and_are_tagged_loosely_are_no_other_order():
    both = [("cow sheep", (1, 2))] * 2
    assert compared([*both, ("cow sheep", (1,)), ("sheep", (1,)), ("car", (1, 3))]).ok


def test_a_tagged_class_that_no_mask_shows_is_warned_of():
    (warning,) = compared([GOOD[0], GOOD[1], GOOD[0], ("cow car", (1,))]).warnings
    assert "no mask contains 'car' (label 3), although 1 photos" in warning


def test_masks_of_something_else_are_refused():
    photos = [("cow", (0,)), ("car", (2,)), ("cow", (3,)), ("car", (1,)), ("cow", (1,))]
    (error,) = compared(photos).errors
    assert "4 of 5 masks contain none of the classes" in error
    assert "p0 is tagged 'cow', but its mask contains only background; p1 is tagged" in error
    assert compared([*photos, *GOOD[:3]]).ok


def test_masks_of_nothing_but_255_are_refused():
    assert "recode 0/255 masks" in compared([("cow", (0, 255)), ("", (0,))]).errors[0]
    assert compared([("cow", (0, 255)), ("cow", (1,))]).ok


@pytest.mark.data
@pytest.mark.parametrize("name", ["msrc", "coco20mini"])
def test_every_order_of_real_masks_is_seen_and_undone(shared_data, name):
    photo_set = open_dataset(shared_data / name, "val")
    classes = photo_set.classes
    photos = [
        (
            [classes[tag] for tag in sample.tags],
            torch.unique(read_mask(sample.mask_path)).tolist(),
        )
        for sample in photo_set.samples
    ]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        moved = (torch.randperm(len(classes), generator=generator) + 1).tolist()
        lookup = {0: 0, 255: 255, **dict(enumerate(moved, 1))}
        named = classes
        for turn in range(2):
            numbers = {label: index for index, label in enumerate(named)}
            samples = tuple(
                Sample(str(i), Path("none"), tuple(sorted(numbers[n] for n in names)))
                for i, (names, _) in enumerate(photos)
            )
            facts = {
                str(i): PhotoFacts(b"", frozenset(lookup[value] for value in values))
                for i, (_, values) in enumerate(photos)
            }
            report = CheckReport(facts=facts)
            compare_masks(PhotoSet(name, named, samples), report)
            assert len(report.errors) == 1 - turn
            named = order_of(report.errors[0]) if turn == 0 else named
