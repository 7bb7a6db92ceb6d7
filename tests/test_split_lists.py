from __future__ import annotations

import pytest

from dscnet.data import open_dataset
from dscnet.data.formats import split_home
from dscnet.data.formats.voc import voc_split_files
from dscnet.data.split_lists import missing_split_notes, unread_list_notes
from dscnet.types import DataError


def write(path, text="a\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_vocs_lists_of_detection_are_splits_where_there_are_none_of_segmentation(tmp_path):
    main = {name: write(tmp_path / "Main" / f"{name}.txt") for name in ("train", "val")}
    write(tmp_path / "Main" / "cat_train.txt", "a  1\nb -1\n\n")
    assert voc_split_files(tmp_path) == main
    (tmp_path / "Segmentation").mkdir()
    assert voc_split_files(tmp_path) == main
    own = write(tmp_path / "Segmentation" / "train_aug.txt")
    assert voc_split_files(tmp_path) == {"train_aug": own}
    assert voc_split_files(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("layout", "unread"),
    [
        ("images", "train.txt"),
        ("images", "val.csv"),
        ("images", "splits/test.csv"),
        ("images", "ImageSets/Segmentation/val.txt"),
        ("JPEGImages", "ImageSets/train.txt"),
        ("JPEGImages", "splits/validation.lst"),
        ("cat", "lists/train.txt"),
        ("images", "split/train.txt"),
        ("images", "meta/val.txt"),
    ],
)
def test_lists_that_nobody_reads_are_told_and_where_they_belong(tmp_path, layout, unread):
    write(tmp_path / layout / "a.jpg")
    if layout != "cat":
        write(tmp_path / "tags.csv", "image_id,labels\na,cat\n")
    assert "splits" not in "".join(open_dataset(tmp_path).notes)
    path = write(tmp_path / unread, "cat__a\n" if layout == "cat" else "a\n")
    (note,) = [line for line in open_dataset(tmp_path).notes if "look like splits" in line]
    assert unread in note and split_home(tmp_path) in note
    home = write(tmp_path / split_home(tmp_path) / f"{path.stem}.txt", path.read_text())
    if home != path:
        path.unlink()
    assert open_dataset(tmp_path, path.stem).split == path.stem
    assert "look like splits" not in "".join(open_dataset(tmp_path).notes)


def test_lists_that_are_read_are_not_told(tmp_path):
    used = write(tmp_path / "splits" / "train.txt")
    write(tmp_path / "requirements.txt")
    assert unread_list_notes(tmp_path, [used]) == []


@pytest.mark.parametrize("layout", ["images", "cat"])
def test_the_place_named_for_a_missing_list_is_read(tmp_path, layout):
    write(tmp_path / layout / "a.jpg")
    write(tmp_path / "dog" / "b.jpg")
    if layout == "images":
        write(tmp_path / "tags.csv", "image_id,labels\na,cat\n")
    with pytest.raises(DataError, match="add it to") as caught:
        open_dataset(tmp_path, "val")
    assert f"{tmp_path / 'splits'}: val.txt" in str(caught.value)
    write(tmp_path / "splits" / "val.txt", "a\n" if layout == "images" else "cat/a.jpg\n")
    assert len(open_dataset(tmp_path, "val").samples) == 1


def test_the_place_of_lists_in_a_yaml_file_is_its_key(tmp_path):
    path = write(tmp_path / "own.yaml")
    assert split_home(path) == f"the key 'splits' of {path}"


def test_a_list_to_measure_on_that_is_missing():
    assert missing_split_notes("pets", "val", ()) == []
    assert missing_split_notes("pets", "val", ("train", "val")) == []
    (note,) = missing_split_notes("pets", "val", ("test", "train"))
    assert "pets: there is no split 'val' (its splits are test, train)" in note
