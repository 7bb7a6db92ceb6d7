from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from coco_instances import HEIGHT, WIDTH, annotation, box, runs
from dscnet.cli import main
from dscnet.files.label_images import read_labels

CAT, DOG = 1, 2
MASK = np.zeros((HEIGHT, WIDTH), int)
MASK[3:5, 3:7] = 1


pytestmark = pytest.mark.usefixtures("untried")


def outline(number, category, flag, *, pixels=False, **more):
    segmentation = runs(MASK) if pixels else [box(0, 0, 2, 2)]
    return annotation(number, category, segmentation, crowd=flag) | more


@pytest.fixture
def prepare(tmp_path, capsys):
    """Writes annotations of one photo, prepares and checks them: exit code, output, labels."""

    def run(*annotations):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "b.png")
        images = [
            {"id": number, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH}
            for number, name in ((1, "a"), (2, "b"))
        ]
        categories = [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = tmp_path / "own.json"
        path.write_text(json.dumps(content))
        code = main(["data", "prepare", "coco", str(path)])
        output = capsys.readouterr()
        main(["check", str(path)])
        mask = tmp_path / "masks" / "a.png"
        labels = np.unique(read_labels(mask)).tolist() if mask.exists() else None
        return code, output.out + output.err, capsys.readouterr().out, labels

    return run


def test_crowds_are_counted_and_said(prepare):
    code, said, checked, labels = prepare(
        outline(1, CAT, 0), outline(2, CAT, 1, pixels=True), outline(3, DOG, 0, pixels=True)
    )
    assert code == 0 and labels == [0, CAT, DOG]
    for text in (said, checked):
        assert "1 crowds (iscrowd 1; cat 1): they count as tags" in text


def test_flags_on_pixel_masks_of_an_annotation_tool_are_not_meant(prepare):
    tool = {"attributes": {"occluded": False}}
    code, said, checked, labels = prepare(
        outline(1, CAT, 0, **tool), outline(2, DOG, 1, pixels=True, **tool)
    )
    assert code == 0 and labels == [0, CAT, DOG]
    for text in (said, checked):
        assert "1 annotations with iscrowd 1 are read as objects" in text and "tools" in text


@pytest.mark.parametrize("pixels", [False, True])
def test_flags_on_all_annotations_are_not_meant(prepare, pixels):
    code, said, checked, labels = prepare(outline(1, CAT, 1), outline(2, DOG, 1, pixels=pixels))
    assert code == 0 and DOG in labels
    for text in (said, checked):
        assert "2 annotations with iscrowd 1 are read as objects" in text and "all" in text


@pytest.mark.parametrize(
    ("others", "more"),
    [
        ([outline(1, CAT, 0)], {}),
        # A tool's file, but one of its pixel masks is no crowd: its flags tell something.
        ([outline(1, CAT, 0, pixels=True, attributes={})], {"attributes": {}}),
    ],
)
def test_a_class_of_crowds_alone_is_refused_and_the_remedy_works(prepare, others, more):
    crowd = outline(2, DOG, 1, pixels=True, **more)
    code, said, checked, labels = prepare(*others, crowd)
    assert code == 1 and labels is None
    assert "annotation 2: class 'dog' has only crowds" in said
    assert "only crowds show dog" in checked
    code, _, checked, labels = prepare(*others, crowd | {"iscrowd": 0})
    assert code == 0 and DOG in labels and "only crowds" not in checked


@pytest.mark.parametrize("value", ["0", "false", False, None, 0.0])
def test_a_flag_that_is_not_set_makes_no_crowd(prepare, value):
    code, said, _, labels = prepare(outline(1, CAT, value), outline(2, DOG, value, pixels=True))
    assert code == 0 and labels == [0, CAT, DOG] and "iscrowd" not in said


@pytest.mark.parametrize("value", ["1", "true", True, 1.0])
def test_a_flag_that_is_set_makes_one(prepare, value):
    code, said, _, labels = prepare(
        outline(1, CAT, 0), outline(2, DOG, 0), outline(3, CAT, value, pixels=True)
    )
    assert code == 0 and labels == [0, DOG, 255] and "1 crowds (iscrowd 1; cat 1)" in said


def test_a_flag_that_is_none_is_refused(prepare):
    code, said, _, _ = prepare(outline(1, CAT, "perhaps"))
    assert code == 1 and "annotation 1: expected iscrowd to be 0 or 1, found 'perhaps'" in said


@pytest.mark.parametrize("segmentation", [None, []])
def test_boxes_give_tags_and_no_masks(prepare, segmentation):
    boxed = outline(2, DOG, 0) | {"segmentation": segmentation}
    code, said, checked, _ = prepare(outline(1, CAT, 0), boxed)
    assert code == 1 and "annotation 2: has no outline (a box is not enough)" in said
    assert "photos per class: cat 1, dog 1" in checked


def test_numbers_as_text_are_numbers(prepare):
    lengths = runs(MASK)
    lengths = {key: [str(number) for number in numbers] for key, numbers in lengths.items()}
    loose = annotation("2", str(DOG), lengths, image="1")
    points = [[str(number) for number in box(0, 0, 2, 2)]]
    code, _, _, labels = prepare(annotation("x", CAT, points, image=1.0), loose)
    assert code == 0 and labels == [0, CAT, DOG]
