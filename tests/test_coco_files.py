from __future__ import annotations

import unicodedata

import pytest

from dscnet.data.formats.coco_files import find_photos, photo_id
from dscnet.types import DataError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(root, *names):
    homes = (root / "images", root)
    pairs = find_photos(root / "i.json", homes, [(name, name) for name in names])
    return {name: path.relative_to(root).as_posix() for name, path in pairs}


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("p0.jpg", "p0"),
        ("sub/p0.v2.jpg", "sub__p0.v2"),
        (r"sub\p0.jpg", "sub__p0"),
        (r"C:\data\p0.jpg", "data__p0"),
        ("C:/data/p0.jpg", "data__p0"),
        ("/data/p0.jpg", "data__p0"),
        (r"\\server\share\data\p0.jpg", "data__p0"),
        ("https://host/p0.jpg", "host__p0"),
        (r".\..\p0.jpg", "p0"),
        ("..", ""),
        ("/", ""),
    ],
)
def test_an_id_does_not_depend_on_the_system(name, image_id):
    assert photo_id(name) == image_id


@pytest.mark.parametrize(
    "name",
    [
        "my photo.jpg",
        "images/my photo.jpg",
        r"images\my photo.jpg",
        r"C:\Users\me\images\my photo.jpg",
        "/home/me/elsewhere/my photo.jpg",
        "my%20photo.jpg",
        "https://host/images/my%20photo.jpg",
        "file:///C:/images/my%20photo.jpg",
        "./my photo.jpg",
        "train/my photo.jpg",
        "MY PHOTO.JPG",
        "x" * 300 + "/my photo.jpg",
    ],
)
def test_a_photo_is_found_however_its_path_is_written(tmp_path, name):
    touch(tmp_path / "images/my photo.jpg")
    assert found(tmp_path, name) == {name: "images/my photo.jpg"}


def test_what_a_name_says_goes_before_what_it_may_mean(tmp_path):
    touch(*(tmp_path / "images" / name for name in ("a%20b.jpg", "a b.jpg", "sub/a.jpg", "a.jpg")))
    touch(tmp_path / "images/P.jpg", tmp_path / "images/p.jpg")
    names = ("a%20b.jpg", "a b.jpg", r"sub\a.jpg", "a.jpg", "P.jpg", "p.jpg")
    assert list(found(tmp_path, *names).values()) == [
        f"images/{name}"
        for name in ("a%20b.jpg", "a b.jpg", "sub/a.jpg", "a.jpg", "P.jpg", "p.jpg")
    ]


def test_what_is_not_there_is_not_found(tmp_path):
    touch(tmp_path / "images/a.jpg", tmp_path / "images/A.jpg")
    assert found(tmp_path, "b.jpg", "a.JPG", "images", "") == {}


def test_two_names_of_one_photo_are_refused(tmp_path):
    touch(tmp_path / "images/a.jpg")
    with pytest.raises(DataError, match=r"i\.json: images 'x/a\.jpg' and 'y/a\.jpg' both match"):
        found(tmp_path, "x/a.jpg", "y/a.jpg")
    touch(tmp_path / "images/x/a.jpg", tmp_path / "images/y/a.jpg")
    assert len(found(tmp_path, "x/a.jpg", "y/a.jpg")) == 2


def test_accents_match_however_they_are_written(tmp_path):
    name = unicodedata.normalize("NFC", "für.jpg")
    touch(tmp_path / unicodedata.normalize("NFD", name))
    assert len(found(tmp_path, f"C:\\{name}")) == 1
