from __future__ import annotations

import errno
import unicodedata
from pathlib import Path

import pytest

from dscnet.data.datasets import (
    PhotoSet,
    Sample,
    available_splits,
    open_dataset,
    open_photos,
    refuse_overwriting_photos,
    write_failure,
)
from dscnet.data.formats import VOC_CLASSES
from dscnet.types import DataError

CATS = "image_id,labels\na,cat dog\nb.jpg,dog\nc,\n"


@pytest.fixture
def make(tmp_path):
    """Writes ``images/`` with photos a to d beside ``tags.csv``."""

    def write(tags=CATS, *, classes=None, splits=None, photos="abcd", masks=""):
        (tmp_path / "images").mkdir()
        for name in photos:
            (tmp_path / "images" / f"{name}.jpg").touch()
        (tmp_path / "tags.csv").write_text(tags)
        if classes is not None:
            (tmp_path / "classes.txt").write_text("\n".join(classes))
        for folder in ("splits", "masks"):
            (tmp_path / folder).mkdir()
        for name, ids in (splits or {}).items():
            (tmp_path / "splits" / f"{name}.txt").write_text("\n".join(ids) + "\n")
        for name in masks:
            (tmp_path / "masks" / f"{name}.png").touch()
        return tmp_path

    return write


def tags(photo_set):
    return {sample.image_id: sample.tags for sample in photo_set.samples}


def test_photos_with_their_tags(make):
    root = make(masks="b")
    photo_set = open_dataset(str(root))
    assert photo_set.name == root.name and photo_set.split is None
    assert photo_set.classes == ("cat", "dog")
    assert (photo_set.num_classes, photo_set.num_labels) == (2, 3)
    assert tags(photo_set) == {"a": (0, 1), "b": (1,), "c": (), "d": ()}
    assert photo_set.samples[1] == Sample(
        "b", root / "images/b.jpg", (1,), root / "masks/b.png", None
    )


def test_negatives_are_noted(make):
    notes = open_dataset(make(classes=["cat", "dog", "owl", "yak"])).notes
    assert any("1 photos have no tag" in note and note.endswith(": c") for note in notes)
    assert any("1 photos have no tag entry" in note and note.endswith(": d") for note in notes)
    assert "no photo is tagged owl, yak" in notes


def test_nothing_odd_gives_no_note(make):
    assert open_dataset(make(photos="ab", tags="image_id,labels\na,x\nb,y\n")).notes == ()


def test_classes_file_orders_the_classes(make):
    root = make(classes=["background", "dog", "cat"])
    assert open_dataset(root).classes == ("dog", "cat")
    assert tags(open_dataset(root))["b"] == (0,)


def test_masks_without_classes_file_are_noted(make):
    assert any("follow the sorted tags" in note for note in open_dataset(make(masks="a")).notes)


def test_splits_keep_the_order_of_their_file(make):
    root = make(splits={"train": ["c", "a.jpg", ""], "val": ["b"]})
    assert available_splits(root) == ("train", "val")
    train = open_dataset(root, "train")
    assert list(tags(train)) == ["c", "a"] and train.split == "train"
    assert open_dataset(root, "val").classes == train.classes
    assert len(open_dataset(root).samples) == 4


def test_set_without_splits_is_all_train(make):
    root = make()
    assert available_splits(root) == ()
    assert open_dataset(root, "train").samples == open_dataset(root).samples
    with pytest.raises(DataError, match=r"no split 'val' \(no splits\).*val\.txt"):
        open_dataset(root, "val")


def test_missing_split_names_those_there_are(make):
    root = make(splits={"val": ["a"], "test": ["b"]})
    with pytest.raises(DataError, match=r"no split 'train' \(its splits are test, val\)"):
        open_dataset(root, "train")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "x"], r"train\.txt, line 2: there is no photo 'x' in .*images; add it or remove"),
        (["a", "b", "a.jpg"], r"line 3: photo 'a' is already in line 1"),
        ([""], r"train\.txt: lists no photo"),
    ],
)
def test_bad_split_files_are_said(make, ids, message):
    with pytest.raises(DataError, match=message):
        open_dataset(make(splits={"train": ids}), "train")


def test_unknown_class_names_line_and_nearest(make):
    root = make("image_id,labels\na,cat\nb,dgo\n", classes=["cat", "dog"])
    with pytest.raises(DataError, match=r"tags\.csv, line 3: 'dgo' .*did you mean 'dog'\?"):
        open_dataset(root)


def test_tags_without_photo_are_named(make):
    root = make(CATS + "x,cat\ny,cat\n")
    with pytest.raises(DataError, match=r"line 5: tags without a photo for x, y; .*remove"):
        open_dataset(root)


def test_photos_of_other_endings_and_in_sub_folders_are_told_of(make):
    root = make(CATS + "x,cat\nmore/y,cat\n")
    (root / "images" / "more").mkdir()
    (root / "images" / "x.gif").touch()
    (root / "images" / "more" / "y.jpg").touch()
    with pytest.raises(DataError, match=r"for x, more/y; .*ending in \.jpg.*subfolders are not"):
        open_dataset(root)


@pytest.mark.parametrize(("on_disk", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_may_be_written_otherwise_than_in_file_names(make, on_disk, named):
    photo, name = (unicodedata.normalize(form, "für") for form in (on_disk, named))
    root = make(
        f"image_id,labels\n{name},cat\nb,dog\n",
        photos=("b", photo),
        masks=(name,),
        splits={"train": (f"{name}.jpg", "b")},
    )
    photo_set = open_dataset(root, "train")
    assert tags(photo_set) == {photo: (0,), "b": (1,)}
    assert photo_set.samples[0].mask_path == root / "masks" / f"{name}.png"
    assert not any("belong to no photo" in note for note in photo_set.notes)


@pytest.mark.parametrize("again", ["a", "a.jpg"])
def test_photo_tagged_twice_is_refused(make, again):
    with pytest.raises(DataError, match=r"line 5: photo 'a' has tags already at .*line 2"):
        open_dataset(make(CATS + f"{again},cat\n"))


def test_empty_sets_are_refused(make):
    with pytest.raises(DataError, match=r"no photo found; photos are files ending in \.jpg"):
        open_dataset(make("image_id,labels\n", photos=""))


def test_set_without_any_tag_is_refused(make):
    with pytest.raises(DataError, match="no photo has a tag"):
        open_dataset(make("image_id,labels\na,\n"))


def test_single_class_is_enough(make):
    photo_set = open_dataset(make("image_id,labels\na,cat\n", photos="ab"))
    assert photo_set.num_labels == 2 and tags(photo_set) == {"a": (0,), "b": ()}


def voc(root: Path, **names: str) -> Path:
    (root / "JPEGImages").mkdir()
    (root / "Annotations").mkdir()
    for photo, name in names.items():
        (root / "JPEGImages" / f"{photo}.jpg").touch()
        xml = f"<annotation><object><name>{name}</name></object></annotation>"
        (root / "Annotations" / f"{photo}.xml").write_text(xml)
    return root


def test_voc_annotations_use_the_twenty_classes(tmp_path):
    photo_set = open_dataset(voc(tmp_path, a="cat", b="aeroplane"))
    assert photo_set.classes == VOC_CLASSES
    assert tags(photo_set) == {"a": (7,), "b": (0,)}


def test_other_annotations_use_their_own_classes(tmp_path):
    photo_set = open_dataset(voc(tmp_path, a="cat", b="yak"))
    assert photo_set.classes == ("cat", "yak") and tags(photo_set) == {"a": (0,), "b": (1,)}


def test_class_folders_end_to_end(tmp_path):
    for name in ("cat/1.jpg", "dog/1.jpg", "_negative/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    photo_set = open_dataset(tmp_path, "train")
    assert tags(photo_set) == {"_negative__2": (), "cat__1": (0,), "dog__1": (1,)}


def test_photos_without_tags(tmp_path):
    for name in ("b.jpg", "a.png", "trip/day 1/a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    photo_set = open_photos(tmp_path)
    assert tags(photo_set) == {"a": None, "b": None, "trip__day 1__a": None}
    assert photo_set.classes == ()
    assert open_photos(tmp_path / "b.jpg") == PhotoSet("b", (), (Sample("b", tmp_path / "b.jpg"),))
    together = open_photos(tmp_path / "trip", tmp_path / "b.jpg", tmp_path / "a.png")
    assert tags(together) == {"a": None, "b": None, "day 1__a": None}
    apart = open_photos(tmp_path, apart_from=[tmp_path / "trip", tmp_path / "absent"])
    assert tags(apart) == {"a": None, "b": None}
    within = open_photos(tmp_path / "trip", apart_from=[tmp_path])
    assert tags(within) == {"day 1__a": None}, "where it lies does not take a place's photos away"


def test_maps_beside_photos_are_no_photos(tmp_path):
    for name in ("images/a.png", "masks/a.png", "saliency/a.png", "images/b.gif", "tags.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = open_photos(tmp_path)
    assert tags(found) == {"images__a": None}
    assert [note.split(" ", 1)[1][:10] for note in found.notes[:2]] == ["is skipped"] * 2
    assert "1 files with unsupported endings are ignored (.gif): b.gif" in found.notes[2]
    own = open_photos(tmp_path, apart_from=[tmp_path / "masks", tmp_path / "saliency"])
    assert tags(own) == {"images__a": None} and len(own.notes) == 1, "of one's own nothing is told"
    assert tags(open_photos(tmp_path / "masks")) == {"a": None}, "what is named is read"


def test_photos_are_not_written_over(tmp_path):
    (tmp_path / "a.png").touch()
    samples = open_photos(tmp_path).samples
    refuse_overwriting_photos(samples, [tmp_path / "b.png", tmp_path / "maps" / "a.png"])
    with pytest.raises(
        DataError, match=r"a\.png: expected a file to write, found one of the photos"
    ):
        refuse_overwriting_photos(samples, [tmp_path / "maps" / ".." / "a.png"])


def test_photos_that_cannot_be_collected(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_photos(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no photo found"):
        open_photos(tmp_path)
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DataError, match=r"readme\.txt: is not a photo.*ending in \.jpg, "):
        open_photos(tmp_path / "readme.txt")
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="same image id"):
        open_photos(tmp_path)


@pytest.mark.data
def test_msrc_is_read_whole(shared_data):
    root = shared_data / "msrc"
    assert available_splits(root) == ("train", "val")
    train, val = open_dataset(root, "train"), open_dataset(root, "val")
    assert (len(train.samples), len(val.samples), train.num_classes) == (354, 100, 17)
    assert sum(sample.tags == () for sample in train.samples) == 11
    assert any("11 photos have no tag" in note for note in train.notes)
    counts = [sum(c in sample.tags for sample in train.samples) for c in range(17)]
    assert counts[:5] == [18, 19, 25, 20, 39]
    assert all(sample.mask_path and sample.saliency_path for sample in train.samples)


@pytest.mark.data
def test_coco20mini_has_the_voc_classes(shared_data):
    photo_set = open_dataset(shared_data / "coco20mini", "train")
    assert photo_set.classes == VOC_CLASSES and len(photo_set.samples) == 261


def test_photos_that_are_links_to_themselves_do_not_stop_the_others(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").symlink_to("b.png")
    samples = open_photos(tmp_path).samples
    assert [sample.image_id for sample in samples] == ["a", "b"]
    refuse_overwriting_photos(samples, [tmp_path / "maps" / "b.png"])


def test_a_disk_that_fails_is_no_photos_failure():
    sample = Sample("a", Path("a.jpg"))
    told = write_failure(sample, OSError(errno.ENAMETOOLONG, "File name too long"))
    assert told.startswith("a.jpg: its output cannot be written (File name too long);")
    with pytest.raises(OSError, match="No space left"):
        write_failure(sample, OSError(errno.ENOSPC, "No space left on device"))
