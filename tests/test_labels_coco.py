"""Tests of ``dscnet.labels.coco``."""

from __future__ import annotations

import numpy as np
import pytest

from dscnet.labels.coco import coco_annotations
from dscnet.types import DataError


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
    assert second["iscrowd"] == 0
    assert first["iscrowd"] == 0


def test_a_label_without_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.jpg: label 3, but there are 2 classes"):
        coco_annotations([("a.jpg", np.array([[3]]))], ["x", "y"])


def test_more_classes_than_labels_are_refused() -> None:
    with pytest.raises(DataError, match="255 classes"):
        coco_annotations([], [f"c{number}" for number in range(255)])
