from __future__ import annotations

import pytest

from dscnet.data.datasets import open_dataset
from dscnet.data.formats import Layout, find_layout
from dscnet.data.ignored_files import unread_notes


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


@pytest.fixture
def tagged(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/b.png", "images/notes.txt", "images/.DS_Store")
    touch(tmp_path, "masks/a.png", "saliency/b.PNG", "saliency/.hidden/x.png")
    (tmp_path / "tags.csv").write_text("image_id,labels\na,cat\nb,dog\n")
    return tmp_path


def notes(root):
    return unread_notes(find_layout(root))


def test_where_all_is_read_nothing_is_told(tagged):
    assert notes(tagged) == []


def test_photos_at_any_depth_are_counted(tagged):
    touch(tagged, "images/2019/c.jpg", "images/2019/may/d.jpg", "images/2019/may/e.jpg")
    (note,) = notes(tagged)
    assert note.startswith("3 photos in subfolders")
    assert f"{tagged}/images/2019, {tagged}/images/2019/may;" in note


def test_files_of_other_endings_are_counted(tagged):
    touch(tagged, "images/c.heic", "images/d.HEIC", "images/e", "images/f.gif")
    (note,) = notes(tagged)
    assert note.startswith(
        "4 files with unsupported endings are ignored (.gif, .heic, no ending): c.heic,"
    )


@pytest.mark.parametrize("folder", ["masks", "saliency"])
def test_maps_that_are_no_png_or_lie_deeper_are_counted(tagged, folder):
    touch(tagged, f"{folder}/a.jpg", f"{folder}/more/a.png")
    (note,) = notes(tagged)
    assert note.startswith(f"2 files in {tagged}/{folder} are ignored: a.jpg, more/a.png;")


def test_maps_of_no_photo_are_counted(tagged):
    touch(tagged, "masks/x.png", "masks/a_mask.png", "saliency/y.png")
    first, second = notes(tagged)
    assert first.startswith("2 masks belong to no photo (a_mask.png, x.png);")
    assert first.endswith("such as a.png")
    assert second.startswith("1 saliency maps belong to no photo (y.png);")


def test_the_notes_are_those_of_the_data_set(tagged):
    touch(tagged, "masks/x.png")
    assert any("1 masks belong to no photo" in note for note in open_dataset(tagged).notes)


def test_class_folders_that_vanish_are_told(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/1.heic", "dog/2.heic", "yak/2020/may/1.jpg")
    told = open_dataset(tmp_path).notes
    assert "2 folders contain no photo and are not classes: dog, yak" in told
    assert any(
        note.startswith("2 files with unsupported endings are ignored (.heic)") for note in told
    )
    assert any(f"ignored: {tmp_path}/yak/2020/may" in note for note in told)


def test_folders_inside_each_other_are_read_as_such(tmp_path):
    touch(tmp_path, "a.jpg", "new/b.jpg", "masks/a.png", "masks/b.png")
    (tmp_path / "tags.csv").write_text("image_id,labels\na,cat\nb,cat\n")
    (tmp_path / "set.yaml").write_text("images: [., new]\ntags: tags.csv\nmasks: masks\n")
    assert notes(tmp_path / "set.yaml") == []


def test_a_layout_without_folders_has_no_notes():
    assert unread_notes(Layout("x", {}, lambda known: [])) == []
