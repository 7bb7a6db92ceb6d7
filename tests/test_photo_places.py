from __future__ import annotations

from pathlib import Path

import pytest

from dscnet.data.photo_places import photo_places
from dscnet.types import DataError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for name in ("a.jpg", "b.jpg", "c.png", "trip/d.jpg", "[x].jpg", "@e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


def test_patterns_are_sorted_and_each_place_is_named_once(photos):
    given = ["trip", "b.jpg", "?.jpg", Path("a.jpg"), "**/d*"]
    assert [str(place) for place in photo_places(given)] == ["trip", "b.jpg", "a.jpg", "trip/d.jpg"]


def test_names_that_look_like_patterns_or_lists_are_files_if_they_exist(photos):
    assert photo_places(["[x].jpg", "@e.jpg"]) == [Path("[x].jpg"), Path("@e.jpg")]


def test_lists_have_a_place_or_pattern_per_line(photos):
    Path("list.txt").write_text("\ufefftrip\n\n  c.png \n?.jpg\n", encoding="utf-8")
    expected = [Path("trip"), Path("c.png"), Path("a.jpg"), Path("b.jpg")]
    assert photo_places(["@list.txt"]) == photo_places([], ["list.txt"]) == expected


def test_a_missing_path_is_left_to_the_reader_of_photos(photos):
    assert photo_places(["gone.jpg"]) == [Path("gone.jpg")]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("z*.jpg", r"z\*\.jpg: no file matches this pattern"),
        ("@gone.txt", "gone.txt: cannot be read as a list of photos"),
        ("@trip", "trip: cannot be read as a list of photos"),
    ],
)
def test_empty_patterns_and_unreadable_lists_are_refused(photos, place, message):
    with pytest.raises(DataError, match=message):
        photo_places([place])
