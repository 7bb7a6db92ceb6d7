from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dscnet.files.label_images import read_labels, voc_palette, write_label
from dscnet.labels.pseudo_label import best_label, pseudo_label, resize_map
from dscnet.types import DataError


def label_by_loops(cam, classes, low, high):
    """Each pixel's label by comparing its scores one after the other."""
    height, width = len(cam[0]), len(cam[0][0])
    labels = np.zeros((height, width), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            best, label = 0.0, 0
            for position, c in enumerate(classes):
                if cam[position][y][x] > best:
                    best, label = cam[position][y][x], c + 1
            labels[y, x] = label if best > high else 255 if best > low else 0
    return labels


@pytest.mark.parametrize("classes", [[0], [7, 2, 19], [253, 0]])
def test_label_equals_loops(classes):
    rng = np.random.default_rng(0)
    # Few values, so that scores tie with each other and with the thresholds.
    cam = rng.integers(0, 9, (len(classes), 13, 7)) / 8
    for bg_score in (0.0, 0.25, 0.3, 1.0):
        expected = label_by_loops(cam.tolist(), classes, bg_score, bg_score)
        result = pseudo_label(cam, classes, bg_score=bg_score)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected)
    for band in ((0.25, 0.5), (0.0, 1.0), (0.3, 0.31)):
        expected = label_by_loops(cam.tolist(), classes, *band)
        np.testing.assert_array_equal(pseudo_label(cam, classes, ignore_band=band), expected)


def test_label_by_hand():
    cam = np.array([[[0.1, 0.3, 0.6, 0.2]], [[0.0, 0.4, 0.6, 0.9]]], dtype=np.float32)
    assert pseudo_label(cam, [4, 1], bg_score=0.3).tolist() == [[0, 2, 5, 2]]
    assert pseudo_label(cam, [4, 1], ignore_band=(0.2, 0.5)).tolist() == [[0, 255, 5, 2]]


def test_background_wins_ties_like_argmax_with_the_background_first():
    cam = np.array([[[0.25, 0.2500001]]], dtype=np.float32)
    assert pseudo_label(cam, [0], bg_score=0.25).tolist() == [[0, 1]]


def test_a_band_without_width_is_a_background_score():
    cam = np.random.default_rng(1).random((3, 9, 9)).astype(np.float32)
    np.testing.assert_array_equal(
        pseudo_label(cam, [0, 1, 2], ignore_band=(0.6, 0.6)),
        pseudo_label(cam, [0, 1, 2], bg_score=0.6),
    )


def test_the_order_of_the_maps_does_not_matter():
    cam = np.random.default_rng(2).random((3, 9, 9))
    plain = pseudo_label(cam, np.array([5, 0, 9]), bg_score=0.4)
    turned = pseudo_label(cam[::-1], np.array([9, 0, 5]), bg_score=0.4)
    np.testing.assert_array_equal(plain, turned)


@pytest.mark.parametrize("band", [None, (0.0, 0.5)])
def test_no_class_is_all_background(band):
    labels = pseudo_label(np.zeros((0, 4, 5)), [], ignore_band=band)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0] * 5] * 4


def test_best_label():
    best, winner = best_label(np.array([[[0.5, 0.1]], [[0.5, 0.3]]]), [8, 3])
    assert best.tolist() == [[0.5, 0.3]]
    assert winner.tolist() == [[9, 4]]


@pytest.mark.parametrize(
    ("cam", "classes", "options", "message"),
    [
        (np.zeros((1, 2, 2)), [0, 1], {}, r"cam must be \(2, H, W\)"),
        (np.zeros((2, 2)), [0, 1], {}, r"cam must be \(2, H, W\)"),
        (np.zeros((1, 2, 2)), [254], {}, r"classes must be in \[0, 253\], got \[254\]"),
        (np.zeros((1, 2, 2)), [-1], {}, r"classes must be in \[0, 253\], got \[-1\]"),
        (np.zeros((1, 2, 2)), [0], {"bg_score": 1.1}, "bg_score must lie .* got 1.1 and 1.1"),
        (np.zeros((1, 2, 2)), [0], {"ignore_band": (0.5, 0.4)}, "ignore_band must lie"),
        (np.zeros((1, 2, 2)), [0], {"ignore_band": (-0.1, 0.4)}, "ignore_band must lie"),
    ],
)
def test_wrong_arguments(cam, classes, options, message):
    with pytest.raises(ValueError, match=message):
        pseudo_label(cam, classes, **options)


def test_every_label_comes_back(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    path = tmp_path / "sub" / "a.b.png"
    write_label(path, labels)
    np.testing.assert_array_equal(read_labels(path), labels)
    assert [p.name for p in path.parent.iterdir()] == ["a.b.png"]
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        assert image.getpalette() == voc_palette()


def test_few_labels_keep_eight_bits(tmp_path):
    write_label(tmp_path / "a.png", np.zeros((2, 3), dtype=np.uint8))
    with Image.open(tmp_path / "a.png") as image:
        assert image.getpalette() == voc_palette()
    assert read_labels(tmp_path / "a.png").tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    "labels", [np.zeros((2, 2)), np.zeros((2, 2, 3), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_what_is_no_label_is_not_written(tmp_path, labels):
    with pytest.raises(ValueError, match="labels must be"):
        write_label(tmp_path / "a.png", labels)


def test_grey_labels_are_read_as_stored(tmp_path):
    values = np.array([[0, 3, 255]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "grey.png"), values)


def test_colours_are_no_labels(tmp_path):
    path = tmp_path / "colour.png"
    Image.new("RGB", (3, 2)).save(path)
    with pytest.raises(
        DataError, match=r"colour\.png: PNG image of mode RGB .* palette or grey PNG"
    ):
        read_labels(path)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_label_file_is_named(tmp_path, content):
    path = tmp_path / "damaged.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.png: cannot be decoded"):
        read_labels(path)


def test_a_cut_label_file_is_named(tmp_path):
    path = tmp_path / "cut.png"
    rng = np.random.default_rng(0)
    write_label(path, rng.integers(0, 255, (40, 40), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cut\.png: cannot be decoded"):
        read_labels(path)


def test_a_missing_label_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        read_labels(tmp_path / "none.png")


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (1, 1), (5, 7)])
def test_maps_are_resized_one_by_one(size, generator):
    maps = torch.rand(3, 2, 3, generator=generator)
    expected = functional.interpolate(
        maps[None], size, mode="bilinear", align_corners=False, antialias=size[0] < 2
    )[0]
    np.testing.assert_allclose(resize_map(maps.numpy(), size), expected, atol=1e-6)
    best, winner = best_label(maps.numpy(), [4, 0, 7], size)
    np.testing.assert_allclose(best, expected.amax(0), atol=1e-6)
    assert (winner == np.array([5, 1, 8])[expected.argmax(0)]).all()
    assert resize_map(maps[:0].numpy(), size).shape == (0, *size), "a photo without tags"


def test_labels_of_another_size_keep_background_score_and_band():
    cam = np.array([[[0.0, 1.0]]], dtype=np.float32)
    # Pixel centres at an eighth, three, five and seven eighths: scores 0, 0.25, 0.75 and 1.
    assert pseudo_label(cam, [2], bg_score=0.5, size=(1, 4)).tolist() == [[0, 0, 3, 3]]
    banded = pseudo_label(cam, [2], ignore_band=(0.2, 0.8), size=(2, 4))
    assert banded.tolist() == [[0, 255, 255, 3]] * 2
