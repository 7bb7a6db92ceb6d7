from __future__ import annotations

import json
import math

import numpy as np
import pytest

from coco_instances import BRUSH, CATEGORIES, HEIGHT, PERSON, WIDTH, annotation, box, runs
from dscnet.data.formats.coco_json import read_coco
from dscnet.prepare.outlines import check_outlines, coco_mask
from dscnet.types import DataError


def photo(tmp_path, *annotations, **image):
    path = tmp_path / "instances.json"
    size = {"height": HEIGHT, "width": WIDTH} | image
    images = [{"id": 1, "file_name": "a.jpg"} | size]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    return read_coco(path, outlines=True).photos[0]


def test_polygons_are_painted_with_labels_by_sorted_category_id(tmp_path):
    two_parts = [box(0, 0, 2, 1), box(5, 3, 7, 5)]
    made = coco_mask(photo(tmp_path, annotation(1, 90, two_parts)))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[0:1, 0:2] = BRUSH
    expected[3:5, 5:7] = BRUSH
    assert made.dtype == np.uint8 and made.tolist() == expected.tolist()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_small_objects_lie_on_large_ones_and_crowds_below_all(tmp_path, order):
    crowd = np.zeros((HEIGHT, WIDTH), int)
    crowd[:, 0:3] = 1
    listed = [
        annotation(1, 1, [box(2, 0, 7, 4)]),
        annotation(2, 90, [box(3, 1, 5, 3)]),
        annotation(3, 1, runs(crowd), crowd=1),
    ]
    made = coco_mask(photo(tmp_path, *[listed[i] for i in order]))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:, 0:3] = 255
    expected[0:4, 2:7] = PERSON
    expected[1:3, 3:5] = BRUSH
    assert made.tolist() == expected.tolist()


def test_of_equal_objects_the_later_lies_on_top(tmp_path):
    made = coco_mask(
        photo(tmp_path, annotation(1, 90, [box(0, 0, 2, 2)]), annotation(2, 1, [box(1, 0, 3, 2)]))
    )
    assert made[0].tolist() == [BRUSH, PERSON, PERSON, 0, 0, 0, 0]


def test_compressed_and_plain_run_lengths_agree(tmp_path):
    from pycocotools import mask as tools

    shape = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8)
    packed = tools.encode(np.asfortranarray(shape))
    packed["counts"] = packed["counts"].decode()
    for outline in (runs(shape), packed):
        made = coco_mask(photo(tmp_path, annotation(1, 90, outline)))
        assert made.tolist() == (shape * BRUSH).tolist()


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        (
            [[0, 0, 1, 1, 2, 2, 3]],
            r"annotation 4: expected polygons .* points, found \[7\] numbers",
        ),
        ([], r"annotation 4: has no outline"),
        (None, r"annotation 4: has no outline"),
        ({"size": [7, 5], "counts": [35]}, r"run-length encoding of 5 x 7 .*found \[7, 5\]"),
        ({"size": [5, 7]}, r"expected a run-length encoding"),
        ({"size": 5, "counts": [35]}, r"expected a run-length encoding of 5 x 7 .*found 5"),
        (7, r"found \[\] numbers"),
        ("text", r"found \[\] numbers"),
        ({"size": [5, 7], "counts": [0, 5]}, r"annotation 4: .*counts of 5 pixels instead of 35"),
        ({"size": [5, 7], "counts": []}, r"counts of 0 pixels instead of 35"),
        ({"size": [5, 7], "counts": [36]}, r"counts of 36 pixels instead of 35"),
        ({"size": [5, 7], "counts": "05"}, r"annotation 4: .*counts of 5 pixels instead of 35"),
        ({"size": [5, 7], "counts": "P"}, r"annotation 4: .*found invalid counts: 'P'"),
        ({"size": [5, 7], "counts": "é"}, r"found invalid counts"),
        ({"size": [5, 7], "counts": ["a"]}, r"annotation 4: .*found invalid counts: .*a"),
        ({"size": [5, 7], "counts": [-1, 36]}, r"found invalid counts"),
        ({"size": [5, 7], "counts": [1.5, 33.5]}, r"found invalid counts"),
        ({"size": [5, 7], "counts": None}, r"found invalid counts"),
        ([[0, 0, 2, 0, 2, math.nan]], r"annotation 4: .*\(-5 to 10\), found nan"),
        ([[0, 0, math.inf, 0, 2, 2]], r"annotation 4: .*\(-7 to 14\), found inf"),
        ([[0, 0, 2, 0, 2, 2], [0, 0, 15, 0, 2, 2]], r"\(-7 to 14\), found 15\.0"),
        ([[0, 0, 2, -6, 2, 2]], r"\(-5 to 10\), found -6\.0"),
    ],
)
def test_an_outline_that_is_none_is_named(tmp_path, outline, message):
    made = photo(tmp_path, annotation(4, 1, outline))
    with pytest.raises(DataError, match=message):
        coco_mask(made)
    with pytest.raises(DataError, match=message):
        check_outlines([made])


@pytest.mark.parametrize("height", [None, 5.5, "five", 0, -5, True])
def test_a_photo_without_size_is_named(tmp_path, height):
    made = photo(tmp_path, annotation(1, 1, [box(0, 0, 2, 2)]), height=height)
    message = r"instances\.json, image 'a\.jpg': expected height and width as positive integers"
    with pytest.raises(DataError, match=message):
        coco_mask(made)
    with pytest.raises(DataError, match=message):
        check_outlines([made])


def test_outlines_in_parts_of_the_photo_are_refused(tmp_path):
    parts = [0.25, 0.25, 0.75, 0.25, 0.75, 1]
    with pytest.raises(DataError, match="'a.jpg': expected polygons in pixels, .*multiply x by"):
        check_outlines([photo(tmp_path, annotation(1, 1, [parts]), annotation(2, 90, [parts]))])
    tiny = photo(tmp_path, annotation(1, 1, [parts]), annotation(2, 90, [box(0, 0, 2, 1)]))
    assert check_outlines([tiny]) == 0


def test_polygons_without_area_are_skipped_and_counted(tmp_path):
    made = photo(
        tmp_path,
        annotation(1, 90, [[0, 0, 2, 2], box(0, 0, 2, 2), [1, 1, 2, 2, 3]]),
        annotation(2, 1, [[3, 3, 5, 5]]),
        annotation(3, 1, [box(4, 4, 6, 5)]),
    )
    assert check_outlines([made]) == 3
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[0:2, 0:2] = BRUSH
    expected[4:5, 4:6] = PERSON
    assert coco_mask(made).tolist() == expected.tolist()


def test_packed_run_lengths_of_large_shapes_are_read(tmp_path):
    from pycocotools import mask as tools

    shape = np.zeros((300, 400), np.uint8)
    shape[10:290, 3:390] = np.random.default_rng(0).integers(0, 2, (280, 387)) > 0
    shape[:, 200:230] = 0
    packed = tools.encode(np.asfortranarray(shape))
    packed["counts"] = packed["counts"].decode()
    made = photo(tmp_path, annotation(1, 90, packed), height=300, width=400)
    assert check_outlines([made]) == 0
    assert (coco_mask(made) == shape * BRUSH).all()
