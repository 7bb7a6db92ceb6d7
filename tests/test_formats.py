from __future__ import annotations

import json
import unicodedata

import pytest

from dscnet.data.formats import VOC_CLASSES, find_layout, is_photo, match_id, photos_by_id
from dscnet.types import DataError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def tags(layout):
    return {entry.image_id: entry.names for entry in layout.read_tags(layout.classes or ())}


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "voc"
    touch(root / "JPEGImages/a.jpg", root / "JPEGImages/b.PNG", root / "JPEGImages/._a.jpg")
    touch(root / "JPEGImages/Thumbs.db", root / "SegmentationClass/a.png", root / "saliency/b.png")
    write(root / "ImageSets/Segmentation/val.txt", "b\n")
    write(root / "ImageSets/tags.csv", "image_id,labels\na,cat\n")
    return root


@pytest.fixture
def tagged(tmp_path):
    root = tmp_path / "tagged"
    touch(root / "images/a.jpg", root / "masks/a.png", root / "saliency/a.png")
    write(root / "splits/train.txt", "a\n")
    write(root / "tags.csv", "image_id,labels\na.jpg,cat\n")
    write(root / "classes.txt", "background\ncat\n")
    return root


def test_voc_layout(voc):
    layout = find_layout(voc)
    assert layout.name == "voc"
    assert layout.photos == {"a": voc / "JPEGImages/a.jpg", "b": voc / "JPEGImages/b.PNG"}
    assert layout.classes is None and layout.usual_classes == ()
    assert list(layout.masks) == ["a"] and list(layout.saliency) == ["b"]
    assert list(layout.splits) == ["val"]
    assert tags(layout) == {"a": ("cat",)}


def test_voc_takes_annotations_where_there_is_no_tag_file(voc):
    write(voc / "Annotations/a.xml", "<annotation/>")
    assert tags(find_layout(voc)) == {"a": ("cat",)}
    (voc / "ImageSets/tags.csv").unlink()
    layout = find_layout(voc)
    assert tags(layout) == {"a": ()} and layout.usual_classes == VOC_CLASSES


def test_voc_takes_tags_at_the_root(voc):
    (voc / "ImageSets/tags.csv").unlink()
    write(voc / "tags.jsonl", '{"image_id": "b", "labels": "dog"}')
    assert tags(find_layout(voc)) == {"b": ("dog",)}


def test_voc_without_tags_says_what_to_write(voc):
    (voc / "ImageSets/tags.csv").unlink()
    with pytest.raises(DataError, match=r"no tags\. .*Annotations.*write ImageSets/tags\.csv"):
        find_layout(voc)


@pytest.mark.parametrize("name", ["coco2014.yaml", "own.yml", "tags.csv"])
def test_sub_folders_are_no_classes_where_a_file_describes_them(tmp_path, name):
    touch(tmp_path / "cats/a.jpg", tmp_path / "dogs/b.jpg")
    assert find_layout(tmp_path).classes == ("cats", "dogs")
    touch(tmp_path / name)
    with pytest.raises(DataError, match=rf"contain photos, and {name} lies next to them: "):
        find_layout(tmp_path)


def test_voc_class_names_are_the_twenty_sorted():
    assert len(VOC_CLASSES) == 20 and list(VOC_CLASSES) == sorted(VOC_CLASSES)


def test_two_tag_files_are_one_too_many(voc):
    write(voc / "ImageSets/tags.json", "{}")
    with pytest.raises(DataError, match=r"tags\.csv.*tags\.json.*keep one"):
        find_layout(voc)


def test_tag_file_layout(tagged):
    layout = find_layout(tagged)
    assert layout.classes == ("cat",)
    assert list(layout.photos) == list(layout.masks) == list(layout.saliency) == ["a"]
    assert list(layout.splits) == ["train"] and tags(layout) == {"a.jpg": ("cat",)}


def test_images_without_tags_say_what_to_write(tagged):
    (tagged / "tags.csv").unlink()
    with pytest.raises(DataError, match=r"no tags\.csv.*write"):
        find_layout(tagged)


def test_class_folders(tmp_path):
    touch(*(tmp_path / name for name in ("cat/1.jpg", "cat/2.jpg", "big dog/1.jpg")))
    touch(*(tmp_path / name for name in ("negatives/9.jpg", "empty/readme.md", ".git/x.png")))
    touch(tmp_path / "masks/cat__1.png")
    layout = find_layout(tmp_path)
    assert layout.classes == ("big dog", "cat")
    assert tags(layout) == {
        "big dog__1": ("big dog",),
        "cat__1": ("cat",),
        "cat__2": ("cat",),
        "negatives__9": (),
    }
    assert set(layout.photos) == set(tags(layout)) and list(layout.masks) == ["cat__1"]
    assert "1.jpg" in layout.notes[0] and "separate photos" in layout.notes[0]


def test_what_class_folders_do_not_read_is_told(tmp_path):
    touch(*(tmp_path / name for name in ("cat/1.jpg", "Background/3.jpg", "loose.jpg")))
    touch(*(tmp_path / name for name in ("dog/1.heic", "yak/old/2.jpg", "masks/cat__1.png")))
    layout = find_layout(tmp_path)
    assert tags(layout) == {"Background__3": (), "cat__1": ("cat",)}
    assert layout.notes[0] == "2 folders contain no photo and are not classes: dog, yak"
    assert layout.notes[1].startswith("1 photos next to the class folders are ignored (loose.jpg)")
    assert len(layout.notes) == 2


def test_class_folders_need_a_class(tmp_path):
    touch(tmp_path / "background/1.jpg")
    with pytest.raises(DataError, match="lists no class"):
        find_layout(tmp_path)


def test_yaml_names_the_parts(tmp_path):
    touch(tmp_path / "x/photos/a.jpg", tmp_path / "x/m/a.png", tmp_path / "s/a.png")
    write(tmp_path / "x/t.json", '{"a": ["traffic light"]}')
    write(tmp_path / "lists/fold1.txt", "a\n")
    write(
        tmp_path / "x/set.yaml",
        "name: mine\nimages: photos\ntags: t.json\nclasses: [background, traffic light]\n"
        "masks: m\nsaliency: ../s\nsplits: {train: ../lists/fold1.txt}\n",
    )
    layout = find_layout(tmp_path / "x/set.yaml")
    assert layout.name == "mine" and layout.classes == ("traffic light",)
    assert list(layout.photos) == list(layout.masks) == list(layout.saliency) == ["a"]
    assert layout.splits["train"].read_text() == "a\n"
    assert tags(layout) == {"a": ("traffic light",)}


def test_yaml_may_name_a_class_file_and_little_else(tagged):
    path = tagged / "set.yml"
    path.write_text("images: images\ntags: tags.csv\nclasses: classes.txt\n")
    layout = find_layout(path)
    assert (layout.name, layout.classes, layout.masks) == ("set", ("cat",), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image: images", "unknown key 'image', did you mean 'images'"),
        ("zzz: 1", r"unknown key 'zzz'; the keys are name, images"),
        ("tags: tags.csv", "the key 'images' is missing"),
        ("images: images", "the key 'tags' is missing"),
        ("images: nowhere\ntags: tags.csv", "images is 'nowhere', but .* does not exist"),
        ("images: 3\ntags: tags.csv", "images must be a path, got 3"),
        ("images: tags.csv\ntags: tags.csv", "is not a folder of photos"),
        ("images: images\ntags: tags.csv\nclasses: []", "lists no class"),
        ("images: images\ntags: tags.csv\nsplits: x", "splits must map"),
        ("images: images\ntags: tags.csv\nsplits: {val: x}", "splits.val is 'x', but"),
        ("- images", "expected 'key: value'"),
        ("", "expected 'key: value'"),
        ("a: [", "not valid YAML"),
    ],
)
def test_yaml_mistakes_are_said(tagged, text, message):
    path = tagged / "set.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        find_layout(path)


def test_a_file_of_another_kind_is_no_data_set(tmp_path):
    touch(tmp_path / "photos.zip")
    with pytest.raises(DataError, match="not a data set"):
        find_layout(tmp_path / "photos.zip")


COCO = """{"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "sub/b.JPG"}],
 "annotations": [{"id": 1, "image_id": 9, "category_id": 18}],
 "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "big cat"}]}"""


@pytest.mark.parametrize("home", ["images", "."])
def test_a_coco_file_beside_its_photos(tmp_path, home):
    write(tmp_path / "instances.json", COCO)
    touch(tmp_path / home / "a.jpg", tmp_path / home / "sub/b.JPG", tmp_path / "masks/a.png")
    layout = find_layout(tmp_path / "instances.json")
    assert layout.name == "instances" and layout.classes == ("big cat", "dog")
    assert layout.photos == {
        "a": tmp_path / home / "a.jpg",
        "sub__b": tmp_path / home / "sub/b.JPG",
    }
    assert tags(layout) == {"a": (), "sub__b": ("dog",)} and list(layout.masks) == ["a"]


def test_a_coco_file_without_its_photos_says_where_they_belong(tmp_path):
    write(tmp_path / "instances.json", COCO)
    with pytest.raises(
        DataError, match=r"none of its 2 photos is in .*images or .*move them there"
    ):
        find_layout(tmp_path / "instances.json")


def test_masks_of_sbd_do_not_replace_those_of_voc(voc):
    touch(voc / "SegmentationClassAug/a.png", voc / "SegmentationClassAug/b.png")
    masks = find_layout(voc).masks
    assert masks["a"] == voc / "SegmentationClass/a.png"
    assert masks["b"] == voc / "SegmentationClassAug/b.png"


def test_hidden_and_upper_case_files(voc):
    touch(voc / "SegmentationClass/._a.png", voc / "SegmentationClass/b.PNG")
    touch(voc / "ImageSets/Segmentation/._val.txt")
    layout = find_layout(voc)
    assert list(layout.masks) == ["a", "b"] and list(layout.splits) == ["val"]


def test_yaml_may_name_several_folders_of_photos(tagged):
    touch(tagged / "more/b.jpg")
    path = tagged / "set.yaml"
    path.write_text("images: [images, more]\ntags: tags.csv\n")
    assert list(find_layout(path).photos) == ["a", "b"]
    touch(tagged / "more/a.jpg")
    with pytest.raises(DataError, match="have the same image id 'a'"):
        find_layout(path)


def test_unknown_layout_says_what_was_looked_for(tmp_path):
    touch(tmp_path / "train/cat/1.jpg")
    with pytest.raises(DataError, match=r"JPEGImages/.*images/.*subfolder.*YAML"):
        find_layout(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        find_layout(tmp_path / "nowhere")


def test_two_photos_of_one_id_are_refused(tagged):
    touch(tagged / "images/a.png")
    with pytest.raises(DataError, match=r"a\.png and .*a\.jpg have the same image id 'a'"):
        find_layout(tagged)


def test_photos_are_sorted_by_id(tmp_path):
    assert list(photos_by_id([("b", tmp_path), ("a", tmp_path)])) == ["a", "b"]


@pytest.mark.parametrize(("on_disk", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_match_however_they_are_written(on_disk, named):
    photos = {unicodedata.normalize(on_disk, "für")}
    name = unicodedata.normalize(named, "für")
    assert name not in photos
    assert match_id(name, photos) == match_id(f"{name}.JPG", photos) == min(photos)


def test_a_coco_file_finds_photos_of_accents_written_otherwise(tmp_path):
    touch(tmp_path / unicodedata.normalize("NFD", "für.jpg"))
    name = unicodedata.normalize("NFC", "für.jpg")
    content = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write(tmp_path / "a.json", json.dumps(content))
    layout = find_layout(tmp_path / "a.json")
    assert list(layout.photos) == list(tags(layout)) == [name.removesuffix(".jpg")]


def test_photos_are_known_by_their_ending(tmp_path):
    names = ["a.jpg", "a.JPEG", "a.tif", "a.gif", "a", ".a.jpg"]
    assert [is_photo(tmp_path / name) for name in names] == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a", "a"), ("a.jpg", "a"), ("a.PNG", "a"), ("b.1", "b.1"), ("b.1.jpg", "b.1")]
    + [("c.jpg", "c.jpg"), ("c", None), ("a.txt", None), ("", None), (".jpg", None)],
)
def test_ids_match_with_and_without_ending(name, expected):
    assert match_id(name, {"a", "b.1", "c.jpg"}) == expected


def test_class_folders_take_the_order_of_classes_txt_and_splits(tmp_path):
    touch(*(tmp_path / f"{name}/a.jpg" for name in ("2", "10", "_background_")))
    assert find_layout(tmp_path).classes == ("2", "10")
    write(tmp_path / "classes.txt", "10\n2\nyak\n")
    write(tmp_path / "splits/val.txt", "2/a.jpg\n")
    layout = find_layout(tmp_path)
    assert layout.classes == ("10", "2", "yak") and list(layout.splits) == ["val"]
    assert tags(layout) == {"2__a": ("2",), "10__a": ("10",), "_background___a": ()}
    assert "splits" not in "".join(layout.notes)


def test_tags_in_two_places_are_refused(voc):
    write(voc / "tags.csv", "image_id,labels\na,dog\n")
    with pytest.raises(DataError, match="both contain tags; keep one"):
        find_layout(voc)
