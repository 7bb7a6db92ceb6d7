from __future__ import annotations

import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dscnet.cli import main
from dscnet.data import open_dataset
from dscnet.data.formats import VOC_CLASSES
from dscnet.files.label_images import read_labels, write_label
from dscnet.prepare import download, prepare_voc2012, voc
from dscnet.prepare.voc import read_sbd_mask
from dscnet.types import DataError, DscnetError

SIZE = (4, 6)
TRAIN, VAL, SBD_TRAIN, SBD_VAL, PLAIN = (
    "2007_000001",
    "2007_000002",
    "2008_000003",
    "2008_000004",
    "2010_000005",
)


def xml(*objects):
    """An annotation; an object is a name, or a name and 1 for difficult."""
    parts = []
    for item in objects:
        name, difficult = item if isinstance(item, tuple) else (item, 0)
        part = "<part><name>head</name></part>" if name == "person" else ""
        parts.append(
            f"<object><name>{name}</name><difficult>{difficult}</difficult>{part}</object>"
        )
    return f"<annotation><filename>x.jpg</filename>{''.join(parts)}</annotation>"


def labels(value):
    made = np.zeros(SIZE, np.uint8)
    made[1:3, 2:4] = value
    return made


def save_mat(path, segmentation):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": {"Boundaries": np.zeros((2, 1)), "Segmentation": segmentation}})


@pytest.fixture
def root(tmp_path):
    """The development kit as it is unpacked, with the odd files of a Mac."""
    kit = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (kit / folder).mkdir(parents=True)
    for name in (TRAIN, VAL, SBD_TRAIN, SBD_VAL):
        Image.new("RGB", SIZE[::-1]).save(kit / "JPEGImages" / f"{name}.jpg")
    Image.new("RGB", SIZE[::-1]).save(kit / "JPEGImages" / f"{PLAIN}.JPG")
    for name in (f"JPEGImages/._{TRAIN}.jpg", f"Annotations/._{TRAIN}.xml"):
        (kit / name).write_bytes(b"\0\5\26\7")
    annotations = {
        TRAIN: xml("cat", ("person", 1), "cat"),
        VAL: xml("aeroplane"),
        SBD_TRAIN: xml("person"),
        SBD_VAL: xml(("tvmonitor", 1)),
        PLAIN: xml(),
    }
    for name, text in annotations.items():
        (kit / "Annotations" / f"{name}.xml").write_text(text)
    for split, ids in (("train", [TRAIN]), ("val", [VAL]), ("trainval", [TRAIN, VAL])):
        (kit / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids) + "\n")
    write_label(kit / f"SegmentationClass/{TRAIN}.png", np.where(labels(1), 8, 255).astype("u1"))
    write_label(kit / f"SegmentationClass/{VAL}.png", labels(1))
    return tmp_path


@pytest.fixture
def kit(root):
    return root / "VOCdevkit" / "VOC2012"


@pytest.fixture
def sbd(tmp_path):
    """SBD as it is unpacked; it has VOC's own photos too, with masks of its own."""
    folder = tmp_path / "benchmark_RELEASE" / "dataset"
    for name, value in ((TRAIN, 3), (VAL, 3), (SBD_TRAIN, 15), (SBD_VAL, 20)):
        save_mat(folder / "cls" / f"{name}.mat", labels(value))
    (folder / "train.txt").write_text(f"{SBD_TRAIN}\n{VAL}\n")
    (folder / "val.txt").write_text(f"{SBD_VAL}\n{TRAIN}\n")
    return folder


def test_what_a_run_reads_is_written(root, kit, sbd):
    outcome = prepare_voc2012(root)
    assert outcome.missing == []
    assert (kit / "classes.txt").read_text().split() == ["background", *VOC_CLASSES]
    lists = kit / "ImageSets/Segmentation"
    assert (lists / "train_aug.txt").read_text().split() == [TRAIN, SBD_TRAIN, SBD_VAL]
    assert (kit / "ImageSets/tags.csv").read_text().splitlines() == [
        "image_id,labels",
        f"{TRAIN},cat;person",
        f"{VAL},aeroplane",
        f"{SBD_TRAIN},person",
        f"{SBD_VAL},tvmonitor",
        f"{PLAIN},",
    ]
    masks = kit / "SegmentationClassAug"
    assert {path.stem for path in masks.iterdir()} == {TRAIN, VAL, SBD_TRAIN, SBD_VAL}
    assert read_labels(masks / f"{SBD_VAL}.png").tolist() == labels(20).tolist()
    own = read_labels(kit / f"SegmentationClass/{TRAIN}.png").tolist()
    assert read_labels(masks / f"{TRAIN}.png").tolist() == own, "VOC's mask goes before SBD's"
    with Image.open(masks / f"{SBD_TRAIN}.png") as image:
        assert image.mode == "P" and image.getpalette()[45:48] == [192, 128, 128]


def test_the_reader_takes_what_was_written(root, kit, sbd):
    prepare_voc2012(root)
    photos = open_dataset(kit, "train_aug")
    assert photos.classes == VOC_CLASSES
    assert {sample.image_id: sample.tags for sample in photos.samples} == {
        TRAIN: (7, 14),
        SBD_TRAIN: (14,),
        SBD_VAL: (19,),
    }
    assert all(sample.mask_path is not None for sample in photos.samples)


def test_difficult_objects_can_be_left_out(root, kit):
    assert main(["data", "prepare", "voc2012", str(root), "--no_difficult"]) == 1
    rows = (kit / "ImageSets/tags.csv").read_text().splitlines()
    assert rows[1] == f"{TRAIN},cat" and rows[4] == f"{SBD_VAL},"


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_kit_is_found_where_it_is(root, kit, below):
    prepare_voc2012(root / below)
    assert (kit / "ImageSets/tags.csv").is_file()


def test_without_sbd_it_says_what_is_missing_and_where_to_get_it(root, kit, capsys):
    assert main(["data", "prepare", "voc2012", str(root)]) == 1
    said = capsys.readouterr().out
    assert "missing: SBD" in said and "https://www2.eecs.berkeley.edu/" in said
    assert "differs: train: 1, published: 1464" in said and "test: not found" in said
    assert (kit / "ImageSets/tags.csv").is_file()
    assert not (kit / "ImageSets/Segmentation/train_aug.txt").exists()


def test_counts_as_published_are_asked_for_by_verify(root, kit, sbd, monkeypatch, capsys):
    argv = ["data", "prepare", "voc2012", str(root), "--sbd", str(sbd)]
    assert main(argv) == 0
    assert main([*argv, "--verify"]) == 1
    counts = {"annotations": 5, "train": 1, "val": 1, "trainval": 2, "train_aug": 3}
    monkeypatch.setattr(voc, "PUBLISHED", counts | {"SBD train": 2, "SBD val": 2, "test": 1})
    capsys.readouterr()
    assert main([*argv, "--verify"]) == 0
    said = capsys.readouterr().out
    assert "train_aug: 3, as published" in said and "differs" not in said
    assert "benchmark.tgz: not found, checksum not verified" in said


def test_an_archive_with_another_checksum_is_refused(root, sbd):
    (root / voc.DEVKIT.name).write_bytes(b"half")
    prepare_voc2012(root)
    with pytest.raises(DataError, match=r"trainval.*tar: expected the MD5 checksum 6cd6.*found"):
        prepare_voc2012(root, verify=True)


def test_nothing_is_written_twice_and_it_goes_on_where_it_stopped(root, kit, sbd):
    broken = sbd / "cls" / f"{SBD_VAL}.mat"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{SBD_VAL}\.mat: expected labels in GTcls"):
        prepare_voc2012(root)
    first = kit / f"SegmentationClassAug/{SBD_TRAIN}.png"
    before = first.stat().st_mtime_ns
    assert not (kit / "ImageSets/Segmentation/train_aug.txt").exists()
    broken.write_bytes(whole)
    assert any("2 masks written" in line for line in prepare_voc2012(root).lines)
    assert any("0 masks written" in line for line in prepare_voc2012(root).lines)
    assert first.stat().st_mtime_ns == before
    assert not list(kit.rglob("*.tmp"))


def test_a_list_of_someone_else_is_left_alone(root, kit, sbd):
    path = kit / "ImageSets/tags.csv"
    path.write_text("image_id,labels\n")
    with pytest.raises(DataError, match=r"tags\.csv: contains something other .*; move it"):
        prepare_voc2012(root)
    assert path.read_text() == "image_id,labels\n"
    assert not (kit / "SegmentationClassAug").exists()


def test_verify_looks_at_masks_that_were_written_before(root, kit, sbd):
    prepare_voc2012(root)
    write_label(kit / f"SegmentationClassAug/{SBD_VAL}.png", labels(21))
    prepare_voc2012(root)
    with pytest.raises(DataError, match=rf"Aug.{SBD_VAL}\.png: expected labels 0 to 20 and 255, f"):
        prepare_voc2012(root, verify=True)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("JPEGImages", "expected the folder JPEGImages there"),
        (f"JPEGImages/{SBD_VAL}.jpg", "JPEGImages: expected the 5 photos listed in Annotations"),
        (f"JPEGImages/{VAL}.jpg", "expected the 2 photos listed in trainval, found 1; missing"),
        (
            f"SegmentationClass/{TRAIN}.png",
            "SegmentationClass: expected the 1 masks listed in train",
        ),
        (f"Annotations/{VAL}.xml", "Annotations: expected the 2 annotations .* found 1; missing"),
        (f"Annotations/{SBD_TRAIN}.xml", "expected the 2 annotations listed in SBD's train"),
        (
            "ImageSets/Segmentation/val.txt",
            r"val\.txt: expected, found none; download and unpack VOCtr",
        ),
        (
            "../../benchmark_RELEASE/dataset/val.txt",
            r"val\.txt: expected, found none; .*benchmark\.tgz from h",
        ),
        (f"../../benchmark_RELEASE/dataset/cls/{SBD_TRAIN}.mat", r"expected the 2 \.mat files .*1"),
    ],
)
def test_a_half_unpacked_kit_is_refused_before_anything_is_written(root, kit, sbd, gone, message):
    path = kit / gone
    if path.is_dir():
        path.rename(kit / "elsewhere")
    else:
        path.unlink()
    with pytest.raises(DataError, match=message):
        prepare_voc2012(root)
    assert not (kit / "ImageSets/tags.csv").exists()
    assert not (kit / "SegmentationClassAug").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "not well-formed XML"),
        ("<annotation><object/></annotation>", "an object has no name"),
        (xml("aeroplan"), "'aeroplan' is not a class, did you mean 'aeroplane'"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_named(root, kit, text, message):
    (kit / f"Annotations/{VAL}.xml").write_text(text)
    with pytest.raises(DataError, match=rf"{VAL}\.xml.*{message}"):
        prepare_voc2012(root)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (np.full(SIZE, 21, np.uint8), r"expected labels 0 to 20 and 255, found 21"),
        (np.full(SIZE, 300, np.uint16), r"found 300"),
        (np.zeros((6, 4), np.uint8), r"expected 6 x 4 pixels like its photo .*, found 4 x 6"),
        (np.full(SIZE, 0.5), r"expected GTcls\.Segmentation to be integers .* float64"),
    ],
)
def test_a_mask_of_sbd_that_does_not_fit_is_named(root, sbd, segmentation, message):
    save_mat(sbd / "cls" / f"{SBD_TRAIN}.mat", segmentation)
    with pytest.raises(DataError, match=rf"{SBD_TRAIN}\.mat: .*{message}"):
        prepare_voc2012(root)


def test_a_file_that_is_no_mask_of_sbd_is_named(tmp_path):
    savemat(tmp_path / "other.mat", {"x": np.zeros(3)})
    (tmp_path / "text.mat").write_text("no mat file, but a text of some length" * 9)
    for name in ("other", "text", "absent"):
        with pytest.raises(DataError, match=rf"{name}\.mat: expected labels in GTcls"):
            read_sbd_mask(tmp_path / f"{name}.mat")


def test_a_folder_without_sbd_is_refused(root):
    with pytest.raises(
        DataError, match=r"JPEGImages: expected SBD's folder cls/.* benchmark\.tgz from https://"
    ):
        prepare_voc2012(root, sbd=root / "VOCdevkit/VOC2012/JPEGImages")


def test_scipy_is_asked_for_before_any_mask_is_written(root, kit, sbd, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DscnetError, match=r"pip install 'dscnet\[voc\]'"):
        prepare_voc2012(root)
    assert not (kit / "SegmentationClassAug").exists()


def test_photos_of_the_test_set_need_no_annotation(root, kit, sbd):
    Image.new("RGB", SIZE[::-1]).save(kit / "JPEGImages/2008_000006.jpg")
    (kit / "ImageSets/Segmentation/test.txt").write_text("2008_000006\n")
    outcome = prepare_voc2012(root)
    assert "test: 1, published: 1456" in outcome.differing
    assert [s.image_id for s in open_dataset(kit, "test").samples] == ["2008_000006"]


def test_annotations_of_the_test_set_give_no_tags(root, kit, sbd):
    prepare_voc2012(root)
    before = (kit / "ImageSets/tags.csv").read_text()
    names = {"Layout": "2008_000006  1\n", "Action": "2010_000007  2\n2010_000007  3\n"}
    for task, text in names.items():
        (kit / "ImageSets" / task).mkdir()
        (kit / "ImageSets" / task / "test.txt").write_text(text)
        Image.new("RGB", SIZE[::-1]).save(kit / "JPEGImages" / f"{text[:11]}.jpg")
        (kit / "Annotations" / f"{text[:11]}.xml").write_text(xml("person"))
    assert "annotations: 5, published: 17125" in prepare_voc2012(root).differing
    assert (kit / "ImageSets/tags.csv").read_text() == before


def test_an_empty_folder_names_both_archives(tmp_path):
    with pytest.raises(
        DataError, match=r"VOCtrainval\S+ from https://.* benchmark\.tgz from https://"
    ):
        prepare_voc2012(tmp_path)


def test_archives_that_are_not_unpacked_are_named_as_such(root, kit, tmp_path):
    (root / voc.SBD.name).write_bytes(b"")
    said = prepare_voc2012(root).missing
    assert len(said) == 1 and f"{root / voc.SBD.name} exists: unpack it" in said[0]
    (kit / f"JPEGImages/{VAL}.jpg").unlink()
    (root / voc.DEVKIT.name).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"missing 2007_000002: .*tar exists: unpack it, or use --d"
    ):
        prepare_voc2012(root)


def pack(source, names, target, mode):
    with tarfile.open(target, mode) as archive:
        for name in names:
            archive.add(source / name, name)


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_download_completes_what_is_half_unpacked(root, kit, sbd, below, tmp_path, monkeypatch):
    kept = tmp_path / "server"
    kept.mkdir()
    pack(root, ["VOCdevkit"], kept / voc.DEVKIT.name, "w")
    pack(root, ["benchmark_RELEASE"], kept / voc.SBD.name, "w:gz")
    asked = []

    def fetch(archive, folder):
        asked.append(archive.name)
        return kept / archive.name

    monkeypatch.setattr(download, "fetch", fetch)
    gone = [kit / f"JPEGImages/{VAL}.jpg", sbd / f"cls/{SBD_VAL}.mat", sbd / "train.txt"]
    gone.append(kit / "ImageSets/Segmentation/train.txt")
    for path in gone:
        path.unlink()
    outcome = prepare_voc2012(root / below, sbd=sbd.parent, download=True)
    assert asked == [voc.DEVKIT.name, voc.SBD.name] and outcome.missing == []
    assert all(path.is_file() for path in gone)
    assert not (kit / "VOCdevkit").exists() and not (sbd.parent / "benchmark_RELEASE").exists()


def test_photos_that_only_sbd_names_are_fetched_with_the_kit(root, kit, sbd, tmp_path, monkeypatch):
    pack(root, ["VOCdevkit"], tmp_path / "kit.tar", "w")
    monkeypatch.setattr(download, "fetch", lambda archive, folder: tmp_path / "kit.tar")
    (kit / f"JPEGImages/{SBD_VAL}.jpg").unlink()
    (kit / f"Annotations/{SBD_VAL}.xml").unlink()
    assert prepare_voc2012(root, download=True).missing == []
    assert (kit / f"SegmentationClassAug/{SBD_VAL}.png").is_file()


def test_photos_of_the_test_set_are_in_no_archive_that_can_be_fetched(root, kit, sbd, monkeypatch):
    monkeypatch.setattr(download, "fetch", None)
    (kit / "ImageSets/Segmentation/test.txt").write_text("2008_000006\n")
    with pytest.raises(DataError, match=r"photos listed in test, .*: unpack their archive again"):
        prepare_voc2012(root, download=True)
