"""Tests of ``dscnet.labels.coco``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from dscnet.labels.coco import coco_annotations, encode_rle
from dscnet.labels.mask_files import decode_rle
from dscnet.types import DataError


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=7)))
def test_run_lengths_come_back(mask: np.ndarray) -> None:
    encoded = encode_rle(mask)
    np.testing.assert_array_equal(decode_rle(encoded), mask)
    assert all(run > 0 for run in encoded["counts"][1:])


def test_run_lengths_agree_with_pycocotools() -> None:
    tools = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((9, 6)) < 0.4
    encoded = encode_rle(mask)
    packed = tools.frPyObjects(encoded, *encoded["size"])
    np.testing.assert_array_equal(tools.decode(packed).astype(bool), mask)


def test_a_class_of_a_photo_is_an_annotation() -> None:
    labels = np.array([[0, 2, 2], [255, 2, 1]])
    content = coco_annotations([("a/1.jpg", labels), ("2.png", np.zeros((1, 1), int))], ["x", "y"])
    assert content["images"] == [
        {"id": 1, "file_name": "a/1.jpg", "height": 2, "width": 3},
        {"id": 2, "file_name": "2.png", "height": 1, "width": 1},
    ]
    assert content["categories"] == [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]
    first, second = content["annotations"]
    assert (first["image_id"], first["category_id"], first["area"]) == (1, 1, 1)
    assert (second["id"], second["category_id"], second["area"]) == (2, 2, 3)
    assert (first["bbox"], second["bbox"]) == ([2, 1, 1, 1], [1, 0, 2, 2])
    assert second["iscrowd"] == 1


def test_a_label_without_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.jpg: label 3, but there are 2 classes"):
        coco_annotations([("a.jpg", np.array([[3]]))], ["x", "y"])


def test_more_classes_than_labels_are_refused() -> None:
    with pytest.raises(DataError, match="255 classes"):
        coco_annotations([], [f"c{number}" for number in range(255)])
