from __future__ import annotations

import os

import pytest

from dscnet.data.datasets import open_photos
from dscnet.files.file_search import find_files, is_system, left_out_notes
from dscnet.files.label_folders import left_out
from dscnet.metrics.evaluation import label_files
from dscnet.types import DataError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def found(root, **options):
    result = find_files(root, lambda path: path.suffix == ".jpg", **options)
    return tuple(
        sorted(str(path.relative_to(root)) for path in paths)
        for paths in (result.files, result.left_out)
    )


def test_linked_folders_are_searched(tmp_path):
    touch(tmp_path, "real/a.jpg", "real/may/b.jpg", "photos/c.jpg", "photos/c.txt")
    link(tmp_path / "photos" / "trip", "../real")
    assert found(tmp_path / "photos") == (["c.jpg", "trip/a.jpg", "trip/may/b.jpg"], [])
    assert set(sample.image_id for sample in open_photos(tmp_path / "photos").samples) == {
        *("c", "trip__a", "trip__may__b")
    }
    link(tmp_path / "all", "photos")
    assert found(tmp_path / "all")[0] == ["c.jpg", "trip/a.jpg", "trip/may/b.jpg"]


def test_each_folder_once_where_it_lies_itself(tmp_path):
    touch(tmp_path, "b/x.jpg", "elsewhere/y.jpg")
    (tmp_path / "elsewhere").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    outside = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    link(tmp_path / "a", "b")
    link(tmp_path / "b" / "up", "..")
    link(tmp_path / "c", outside)
    link(tmp_path / "d", outside)
    link(outside / "back", outside)
    assert found(tmp_path) == (["b/x.jpg", "c/y.jpg"], [])


def test_what_systems_put_there_is_left_out_and_told(tmp_path):
    hidden = [".ipynb_checkpoints/a.jpg", "__MACOSX/a.jpg", "._a.jpg", "sub/@eaDir/a.jpg/x.jpg"]
    touch(tmp_path, "a.jpg", *hidden, "Thumbs/a.jpg", ".DS_Store", "Thumbs.db")
    link(tmp_path / ".cache" / "loop", tmp_path)
    assert found(tmp_path) == (["a.jpg"], sorted([*hidden, "Thumbs/a.jpg"]))
    photos = open_photos(tmp_path)
    assert [sample.image_id for sample in photos.samples] == ["a"]
    (note,) = photos.notes
    assert note.startswith(f"5 hidden or system files in {tmp_path} are skipped")
    assert ".ipynb_checkpoints/a.jpg" in note
    assert open_photos(tmp_path / "Thumbs").notes == (), "what is named is searched"


def test_a_hidden_store_does_not_hide_what_is_linked_from_it(tmp_path):
    touch(tmp_path, ".store/a.jpg")
    link(tmp_path / "trip", ".store")
    assert found(tmp_path) == (["trip/a.jpg"], [])


def test_a_link_to_nothing_is_a_file_and_a_pipe_is_none(tmp_path):
    link(tmp_path / "a.jpg", "nowhere.jpg")
    link(tmp_path / "b.jpg", "b.jpg")
    os.mkfifo(tmp_path / "c.jpg")
    assert found(tmp_path) == (["a.jpg", "b.jpg"], [])


def test_folders_apart_are_not_searched_through_links_either(tmp_path):
    touch(tmp_path, "a.jpg", "out/masks/b.jpg", "out/c.jpg")
    link(tmp_path / "again", "out/masks")
    assert found(tmp_path, apart_from=[tmp_path / "out"]) == (["a.jpg"], [])
    assert found(tmp_path / "out", apart_from=[tmp_path]) == (["c.jpg", "masks/b.jpg"], [])


def test_a_folder_that_cannot_be_listed_is_an_error_unless_it_is_the_systems(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "closed/b.jpg", "lost+found/c.jpg")
    listed = os.scandir

    def refuse(folder):
        if os.path.basename(folder) in closed:
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    closed = {"lost+found"}
    assert found(tmp_path)[0] == ["a.jpg", "closed/b.jpg"]
    closed = {"closed"}
    with pytest.raises(DataError, match=r"closed: cannot be listed \(Permission denied\)"):
        found(tmp_path)


def test_masks_are_found_alike(tmp_path):
    touch(tmp_path, "real/b.png", "gt/a.PNG", "gt/.ipynb_checkpoints/a-checkpoint.png")
    link(tmp_path / "gt" / "more", "../real")
    assert sorted(label_files(tmp_path / "gt")) == ["a", "more/b"]
    (note,) = left_out(tmp_path / "gt")
    assert "1 hidden or system files" in note and "a-checkpoint.png" in note
    assert label_files(tmp_path / "none") == {} and left_out(tmp_path / "none") == []


def test_two_masks_of_one_photo_are_refused(tmp_path):
    touch(tmp_path, "a.png", "a.PNG")
    with pytest.raises(DataError, match="are both masks of a; remove one"):
        label_files(tmp_path)


def test_nothing_left_out_gives_no_note(tmp_path):
    assert left_out_notes((), tmp_path) == []
    assert is_system("$RECYCLE.BIN") and not is_system("trip")
