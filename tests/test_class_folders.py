from __future__ import annotations

import pytest

from dscnet.data import check_path, open_dataset
from dscnet.data.formats import find_layout
from dscnet.types import DataError


def fill(root, *folders, names=("p0.jpg", "p1.jpg")):
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / folder / name).touch()


def classes(root):
    return open_dataset(root).classes


@pytest.mark.parametrize(
    "names", [("train", "test"), ("Train", "valid"), ("cow", "val"), ("train2014", "val2014")]
)
def test_names_of_splits_are_refused(tmp_path, names):
    fill(tmp_path, *names)
    with pytest.raises(DataError, match=r"named like splits; .*images/ .*tags\.csv.*splits/"):
        find_layout(tmp_path)
    for name in names:
        (tmp_path / name).rename(tmp_path / f"{name} class")
    assert len(classes(tmp_path)) == len(names)


def test_trains_beside_other_things_are_a_class(tmp_path):
    fill(tmp_path, "train")
    with pytest.raises(DataError, match="named like splits"):
        find_layout(tmp_path)
    fill(tmp_path, "negatives")
    assert classes(tmp_path) == ("train",)
    fill(tmp_path, "bus", "testudo")
    assert classes(tmp_path) == ("bus", "testudo", "train")


@pytest.mark.parametrize("part", ["Images", "labels", "Ground-Truth", "Masks", "annotations"])
def test_parts_of_a_data_set_are_refused(tmp_path, part):
    fill(tmp_path, "cow", part)
    with pytest.raises(DataError, match=f"{part} contain photos .*named like parts of a data set"):
        find_layout(tmp_path)
    (tmp_path / part).rename(tmp_path / "sheep")
    assert classes(tmp_path) == ("cow", "sheep")


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("metadata.csv", r"tags\.csv"),
        ("metadata.jsonl", r"tags\.csv"),
        ("_classes.csv", r"tags\.csv"),
        ("_annotations.coco.json", "give this file as the data set"),
        ("instances_default.json", "give this file as the data set"),
    ],
)
def test_a_folder_with_a_file_on_its_photos_is_no_class(tmp_path, file, remedy):
    fill(tmp_path, "cow", "sheep")
    (tmp_path / "cow" / "readme.txt").touch()
    (tmp_path / "sheep" / file).touch()
    with pytest.raises(DataError, match=rf"{file}: describes photos.*{remedy}"):
        find_layout(tmp_path)
    (tmp_path / "sheep" / file).unlink()
    assert classes(tmp_path) == ("cow", "sheep")


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_class_by_a_name_of_maps_is_refused(tmp_path, ending):
    fill(tmp_path, "masks", "no_masks", "masks_incorrect", names=(f"p0.{ending}",))
    with pytest.raises(DataError, match=r"masks: is taken for maps .*rename the folder"):
        find_layout(tmp_path)
    (tmp_path / "masks").rename(tmp_path / "with_masks")
    assert classes(tmp_path) == ("masks_incorrect", "no_masks", "with_masks")
    (warning,) = check_path(tmp_path).warnings
    assert "'no_masks' is a separate class" in warning and "negatives/" in warning
    (tmp_path / "no_masks").rename(tmp_path / "negatives")
    assert check_path(tmp_path).warnings == []


def test_maps_that_belong_to_photos_are_maps(tmp_path):
    fill(tmp_path, "cow", "sheep")
    fill(tmp_path, "masks", names=("cow__p0.png", "of_another.png"))
    assert list(find_layout(tmp_path).masks) == ["cow__p0", "of_another"]


@pytest.mark.parametrize("name", ["negative", "Negatives", "neg", "none", "BACKGROUND", "_None_"])
def test_folders_of_nothing_are_negatives(tmp_path, name):
    fill(tmp_path, "cow", "sheep", name)
    photos = open_dataset(tmp_path)
    assert photos.classes == ("cow", "sheep")
    assert sum(not sample.tags for sample in photos.samples) == 2
    assert any("2 photos have no tag" in note for note in photos.notes)


def test_a_folder_of_nothing_is_a_class_where_it_is_listed(tmp_path):
    fill(tmp_path, "cow", "none", "background")
    (tmp_path / "classes.txt").write_text("none\ncow\n")
    photos = open_dataset(tmp_path)
    assert photos.classes == ("none", "cow")
    assert [sample.tags for sample in photos.samples] == [(), (), (1,), (1,), (0,), (0,)]


def test_folders_of_one_name_are_one_class(tmp_path):
    fill(tmp_path, "ze\u0301bu", names=("a.jpg",))
    fill(tmp_path, "z\u00e9bu ", "cow", names=("b.jpg",))
    photos = open_dataset(tmp_path)
    assert photos.classes == ("cow", "zébu")
    assert sorted(sample.tags for sample in photos.samples) == [(0,), (1,), (1,)]


@pytest.mark.parametrize("name", ["$RECYCLE.BIN", "#recycle", ".ipynb_checkpoints", "Thumbs"])
def test_folders_of_systems_are_told_and_no_class(tmp_path, name):
    fill(tmp_path, "cow", "sheep", name)
    photos = open_dataset(tmp_path)
    assert photos.classes == ("cow", "sheep") and len(photos.samples) == 4
    (note,) = [note for note in photos.notes if "system folders" in note]
    assert name in note and "rename" in note
    (tmp_path / name).rename(tmp_path / "duck")
    assert classes(tmp_path) == ("cow", "duck", "sheep")


def test_class_folders_a_level_down_are_named(tmp_path):
    fill(tmp_path, "train/cow", "train/sheep")
    with pytest.raises(DataError, match=r"give .*train, whose subfolders contain photos"):
        find_layout(tmp_path)
    assert classes(tmp_path / "train") == ("cow", "sheep")
