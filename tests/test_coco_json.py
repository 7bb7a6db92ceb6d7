from __future__ import annotations

import json

import pytest

from dscnet.data import open_dataset
from dscnet.data.formats.coco_json import read_coco
from dscnet.types import DataError


def instances(**changes):
    """Two photos of three; categories with gaps, not in order, as COCO's are."""
    content = {
        "info": {"year": 2014},
        "images": [
            {"id": 30, "file_name": "c.jpg", "height": 4, "width": 6},
            {"id": 10, "file_name": "a.jpg", "height": 4, "width": 6},
            {"id": 20, "file_name": "b.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 90, "bbox": [0, 0, 1, 1]},
            {"id": 2, "image_id": 10, "category_id": 2, "iscrowd": 1},
            {"id": 3, "image_id": 10, "category_id": 90, "iscrowd": 0},
            {"id": 4, "image_id": 30, "category_id": 13},
        ],
        "categories": [
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
            {"id": 2, "name": "bicycle"},
            {"id": 13, "name": "stop sign"},
        ],
    }
    return content | changes


@pytest.fixture
def save(tmp_path):
    def write(content, photos=()):
        for name in photos:
            (tmp_path / "images").mkdir(exist_ok=True)
            (tmp_path / "images" / name).touch()
        path = tmp_path / "instances.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_classes_follow_the_category_ids_whatever_their_gaps(save):
    content = read_coco(save(instances()))
    assert content.classes == ("bicycle", "stop sign", "toothbrush")
    assert {photo.image_id: photo.size for photo in content.photos} == {
        "c": (4, 6),
        "a": (4, 6),
        "b": None,
    }
    assert [x.class_index for x in content.photos[1].instances] == [2, 0, 2]
    assert [x.crowd for x in content.photos[1].instances] == [False, True, False]


def test_tags_are_the_classes_of_the_annotations_crowds_too(save):
    tags = {entry.image_id: entry.names for entry in read_coco(save(instances())).tags()}
    assert tags == {"a": ("bicycle", "toothbrush"), "b": (), "c": ("stop sign",)}


def test_outlines_are_kept_where_they_are_asked_for(save):
    content = instances()
    content["annotations"][0]["segmentation"] = [[0, 0, 2, 0, 2, 2.5]]
    content["annotations"][1]["segmentation"] = {"size": [4, 6], "counts": [0, 24]}
    path = save(content)
    first, second, third = read_coco(path, outlines=True).photos[1].instances
    assert [list(polygon) for polygon in first.segmentation] == [[0, 0, 2, 0, 2, 2.5]]
    assert second.segmentation == {"size": [4, 6], "counts": [0, 24]}
    assert third.segmentation is None
    assert read_coco(path).photos[1].instances[0].segmentation is None


@pytest.mark.parametrize("name", ["background", "Background"])
def test_a_category_background_is_no_class(save, name):
    content = instances()
    content["categories"].append({"id": 0, "name": name})
    content["annotations"].append({"id": 5, "image_id": 20, "category_id": 0})
    read = read_coco(save(content))
    assert read.classes == ("bicycle", "stop sign", "toothbrush")
    assert read.photos[2].instances == []


@pytest.mark.parametrize(
    ("name", "image_id"),
    [("a.b.jpg", "a.b"), ("x/y/a.jpg", "x__y__a"), ("/abs/a.jpg", "abs__a"), ("../a.jpg", "a")],
)
def test_an_id_can_be_a_file_name(save, name, image_id):
    content = instances(images=[{"id": 1, "file_name": name}], annotations=[])
    assert read_coco(save(content)).photos[0].image_id == image_id


def test_it_is_a_data_set(save):
    photo_set = open_dataset(save(instances(), ["a.jpg", "b.jpg", "c.jpg", "unnamed.jpg"]), "train")
    assert photo_set.classes == ("bicycle", "stop sign", "toothbrush")
    assert {s.image_id: s.tags for s in photo_set.samples} == {"a": (0, 2), "b": (), "c": (1,)}
    assert any("1 photos have no tag" in note for note in photo_set.notes)


def test_a_photo_that_is_not_there_is_named(save):
    with pytest.raises(DataError, match=r"image 'c\.jpg': tags without a photo for c; add"):
        open_dataset(save(instances(), ["a.jpg", "b.jpg"]))


def twice(part, index):
    content = instances()
    content[part].append(content[part][index])
    return content


def without(part, key):
    content = instances()
    del content[part][1][key]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ('{"images": [', "not valid JSON"),
        ("[]", "expected an object with the lists images, annotations, categories, found list"),
        ({"a": ["cat"]}, r"expected an object with the lists .* found \[\]"),
        (twice("images", 0), "two images have the id 30"),
        (twice("categories", 1), "two categories have the id 2"),
        (
            without("images", "file_name"),
            "images, item 2: expected 'file_name' to be text, found N",
        ),
        (without("annotations", "category_id"), "annotations, item 2: expected 'category_id'"),
        (
            instances(images=["a.jpg"]),
            "images, item 1: expected 'id' to be a number or text, found 'a.jpg'",
        ),
        (instances(categories=[]), "lists no class"),
        (
            instances(annotations=[{"id": 8, "image_id": 5, "category_id": 2}]),
            "annotation 8: image_id 5 is not among the 3 images",
        ),
        (
            instances(annotations=[{"id": 8, "image_id": 10, "category_id": 3}]),
            r"annotation 8: category_id 3 is not among \[2, 13, 90\]",
        ),
        (
            instances(categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]),
            "class 'cat' is listed twice",
        ),
    ],
)
def test_mistakes_name_the_file_and_what_was_found(save, content, message):
    with pytest.raises(DataError, match=rf"instances\.json.*{message}"):
        read_coco(save(content))


def test_a_polygon_that_is_none_is_refused(save):
    content = instances()
    content["annotations"][0]["segmentation"] = ["zero"]
    with pytest.raises(DataError, match="annotation 1: expected polygons of numbers, found .*zero"):
        read_coco(save(content), outlines=True)


@pytest.mark.parametrize("number", [0, 50, 91])
def test_a_category_background_is_no_class_whatever_its_id(save, number):
    content = instances()
    content["categories"].append({"id": number, "name": "Background"})
    content["annotations"].append({"id": 5, "image_id": 20, "category_id": number})
    file = read_coco(save(content))
    assert file.classes == ("bicycle", "stop sign", "toothbrush")
    assert file.photos[2].instances == []


def test_given_classes_number_the_instances(save):
    classes = ("toothbrush", "stop sign", "yak", "bicycle")
    content = read_coco(save(instances()), classes=classes)
    assert content.classes == classes
    assert [x.class_index for x in content.photos[1].instances] == [0, 3, 0]


def test_an_annotation_of_a_class_that_is_not_given_is_refused(save):
    with pytest.raises(DataError, match="annotation 2: 'bicycle' is not a class"):
        read_coco(save(instances()), classes=("toothbrush", "stop sign"))


def test_a_category_without_a_name_is_refused(save):
    content = instances()
    content["categories"][1]["name"] = " "
    with pytest.raises(DataError, match="category 2 has no name"):
        read_coco(save(content))


def test_classes_txt_beside_the_file_lists_the_classes_in_use(save, tmp_path):
    content = instances()
    content["categories"] += [{"id": 100 + n, "name": f"s{n}"} for n in range(300)]
    path = save(content, ["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(DataError, match=r"303 classes, but .* list .* in classes\.txt"):
        open_dataset(path)
    (tmp_path / "classes.txt").write_text("toothbrush\nstop sign\nbicycle\n")
    assert open_dataset(path).classes == ("toothbrush", "stop sign", "bicycle")


def test_names_of_categories_are_compared_as_people_see_them(save, tmp_path):
    content = instances()
    content["categories"][1]["name"] = "ze\u0301bu\u200b"
    path = save(content, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "classes.txt").write_text("z\u00e9bu\nbicycle\nstop sign\ntoothbrush\n", "utf-8")
    photo_set = open_dataset(path)
    used = {photo_set.classes[tag] for sample in photo_set.samples for tag in sample.tags}
    assert "z\u00e9bu" in used
