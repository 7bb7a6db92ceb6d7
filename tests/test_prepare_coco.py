from __future__ import annotations

import json
import sys
import zipfile

import numpy as np
import pytest
from PIL import ExifTags, Image

from coco_instances import BRUSH, CATEGORIES, HEIGHT, PERSON, WIDTH, annotation, box, runs
from dscnet.cli import main
from dscnet.data import open_dataset
from dscnet.files.label_images import read_labels
from dscnet.prepare import coco, prepare_coco2014
from dscnet.types import DataError, DscnetError


def name_of(split, number):
    return f"COCO_{split}2014_{number:012}"


@pytest.fixture
def root(tmp_path):
    """Two photos with annotations and one without in each split, and the odd file of a Mac."""
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        folder = tmp_path / f"{split}2014"
        folder.mkdir()
        images = []
        for number in (1, 2, 3):
            name = f"{name_of(split, number)}.jpg"
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
            images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        (folder / f"._{name_of(split, 1)}.jpg").write_bytes(b"\0\5\26\7")
        content = {
            "images": images,
            "annotations": [
                annotation(1, 90, [box(0, 0, 2, 2)]),
                annotation(2, 1, [box(3, 3, 5, 5)]),
                annotation(3, 1, runs(np.ones((HEIGHT, WIDTH), int)), image=3, crowd=1),
            ],
            "categories": CATEGORIES,
        }
        path = tmp_path / "annotations" / f"instances_{split}2014.json"
        path.write_text(json.dumps(content))
    return tmp_path


def change(root, split, edit):
    path = root / "annotations" / f"instances_{split}2014.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_what_a_run_reads_is_written(root, capsys):
    assert main(["data", "prepare", "coco2014", str(root)]) == 0
    said = capsys.readouterr().out
    assert "differs: train, photos with an annotation: 2, published: 82081" in said
    train = open_dataset(root / "coco2014.yaml", "train")
    assert train.classes == ("person", "toothbrush") and train.name == "coco2014"
    assert {s.image_id: s.tags for s in train.samples} == {
        name_of("train", 1): (0, 1),
        name_of("train", 3): (0,),
    }
    val = open_dataset(root / "coco2014.yaml", "val")
    masks = [read_labels(s.mask_path) for s in val.samples]
    assert np.unique(masks[0]).tolist() == [0, 1, 2] and np.unique(masks[1]).tolist() == [255]
    assert len(list((root / "masks").iterdir())) == 4


def test_names_with_spaces_stay_whole(root):
    def edit(content):
        content["categories"] = [{"id": 90, "name": "hair drier"}, {"id": 1, "name": "stop sign"}]

    change(root, "train", edit)
    change(root, "val", edit)
    prepare_coco2014(root)
    train = open_dataset(root / "coco2014.yaml", "train")
    assert train.classes == ("stop sign", "hair drier")
    assert [s.tags for s in train.samples] == [(0, 1), (0,)]


def test_counts_as_published_are_asked_for_by_verify(root, monkeypatch):
    argv = ["data", "prepare", "coco2014", str(root), "--verify"]
    assert main(argv) == 1
    from dataclasses import replace

    parts = {name: replace(part, photos=3, tagged=2) for name, part in coco.PARTS.items()}
    monkeypatch.setattr(coco, "PARTS", parts)
    monkeypatch.setattr(coco, "NUM_CLASSES", 2)
    assert main(argv) == 0
    (root / "masks" / f"{name_of('val', 1)}.png").write_bytes(b"broken")
    assert main(argv) == 1


def test_nothing_is_written_twice(root):
    prepare_coco2014(root)
    files = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    (root / "masks" / f"{name_of('train', 3)}.png").unlink()
    outcome = prepare_coco2014(root)
    assert any("1 masks of train written" in line for line in outcome.lines)
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert {path for path in files if files[path] != after[path]} == {
        root / "masks" / f"{name_of('train', 3)}.png"
    }


def test_missing_parts_are_named_and_nothing_is_written(root, capsys):
    (root / "val2014").rename(root / "elsewhere")
    (root / "annotations/instances_train2014.json").unlink()
    assert main(["data", "prepare", "coco2014", str(root)]) == 1
    said = capsys.readouterr().out
    assert "missing: " in said and "http://images.cocodataset.org/zips/val2014.zip" in said
    assert (
        "instances_train2014.json: download and unpack annotations_trainval2014.zip from h" in said
    )
    assert not (root / "masks").exists() and not (root / "tags.csv").exists()


def test_a_half_unpacked_folder_is_refused(root):
    (root / "val2014" / f"{name_of('val', 3)}.jpg").unlink()
    message = r"val2014: expected the 2 photos .*found 1; missing C.*unpack val2014\.zip from http"
    with pytest.raises(DataError, match=message):
        prepare_coco2014(root)
    assert not (root / "masks").exists()


def test_an_archive_that_is_not_unpacked_is_named_as_such(root, capsys):
    (root / "val2014").rename(root / "elsewhere")
    (root / "val2014.zip").write_bytes(b"")
    assert main(["data", "prepare", "coco2014", str(root)]) == 1
    assert "val2014.zip exists: unpack it, or use --download" in capsys.readouterr().out


def test_download_completes_a_half_unpacked_folder(root, monkeypatch):
    photo = root / "val2014" / f"{name_of('val', 3)}.jpg"
    asked = []

    def fetch(archive, folder):
        asked.append(archive.name)
        with zipfile.ZipFile(folder / archive.name, "w") as file:
            file.write(root / "val2014" / f"{name_of('val', 1)}.jpg", f"val2014/{photo.name}")
        return folder / archive.name

    monkeypatch.setattr(coco, "fetch", fetch)
    photo.unlink()
    prepare_coco2014(root, download=True)
    assert asked == ["val2014.zip"] and photo.is_file()
    assert len(list((root / "masks").iterdir())) == 4


def test_saliency_maps_are_read_once_they_are_there(root):
    prepare_coco2014(root)
    path = root / "coco2014.yaml"
    plain = path.read_text()
    (root / "saliency").mkdir()
    name = name_of("train", 1)
    Image.new("L", (WIDTH, HEIGHT)).save(root / "saliency" / f"{name}.png")
    outcome = prepare_coco2014(root)
    assert f"{path}: written" in outcome.lines
    samples = open_dataset(path, "train").samples
    assert [sample.saliency_path is not None for sample in samples] == [True, False]
    assert path.read_text() == plain + "saliency: saliency\n"


def test_a_line_on_saliency_of_ones_own_stays(root):
    prepare_coco2014(root)
    path = root / "coco2014.yaml"
    own = "saliency: elsewhere\n" + path.read_text()
    path.write_text(own)
    (root / "saliency").mkdir()
    prepare_coco2014(root)
    assert path.read_text() == own
    path.write_text(own.replace("masks: masks", "masks: others"))
    with pytest.raises(DataError, match=r"coco2014\.yaml: contains something other"):
        prepare_coco2014(root)


def test_outlines_are_checked_before_the_first_mask_is_written(root):
    def edit(content):
        content["annotations"][1]["segmentation"] = [[0, 0, 1, 1, 2, 2, 3]]

    change(root, "val", edit)
    with pytest.raises(DataError, match=r"instances_val2014\.json, annotation 2: .*found \[7\]"):
        prepare_coco2014(root)
    assert not (root / "masks").exists()


def test_polygons_of_two_points_are_skipped_and_counted(root):
    def edit(content):
        content["annotations"][1]["segmentation"] = [[0, 0, 1, 1]]

    change(root, "val", edit)
    lines = prepare_coco2014(root).lines
    assert any("val2014.json: 1 polygons of fewer than three points skipped" in x for x in lines)
    mask = read_labels(root / "masks" / f"{name_of('val', 1)}.png")
    assert np.unique(mask).tolist() == [0, BRUSH]


def test_a_photo_of_another_size_is_named(root):
    Image.new("RGB", (3, 3)).save(root / "train2014" / f"{name_of('train', 1)}.jpg")
    with pytest.raises(DataError, match=r"instances_train.*expected 3 x 3 pixels .*found 7 x 5"):
        prepare_coco2014(root)


def test_a_photo_that_was_outlined_before_it_was_turned_is_named_as_such(root):
    photo = root / "train2014" / f"{name_of('train', 1)}.jpg"
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(photo, exif=turned)
    with pytest.raises(
        DataError, match=r"expected 5 x 7 .*found 7 x 5; .*EXIF .*: remove the orientation"
    ):
        prepare_coco2014(root)
    Image.new("RGB", (WIDTH, HEIGHT)).save(photo)
    prepare_coco2014(root)


def test_splits_of_different_categories_are_refused(root):
    change(root, "val", lambda content: content["categories"].append({"id": 5, "name": "boat"}))
    with pytest.raises(DataError, match=r"instances_val.*expected the categories of .*_train"):
        prepare_coco2014(root)


def test_pycocotools_is_asked_for_before_any_work(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(DscnetError, match=r"pip install 'dscnet\[coco\]'"):
        prepare_coco2014(root)
    assert not (root / "masks").exists()


@pytest.fixture
def own(tmp_path):
    """An instances file of one's own: a photo with two objects, and one that shows nothing."""
    (tmp_path / "images").mkdir()
    images = []
    for number, name in ((1, "a.jpg"), (2, "b.png")):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    annotations = [annotation(1, 90, [box(0, 0, 2, 2)]), annotation(2, 1, [box(3, 3, 5, 5)])]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    return path


def test_masks_of_an_own_file_are_painted_beside_it(own, capsys):
    assert all(sample.mask_path is None for sample in open_dataset(own).samples)
    assert main(["data", "prepare", "coco", str(own)]) == 0
    assert "masks: 2 masks written" in capsys.readouterr().out
    shown, empty = (read_labels(sample.mask_path) for sample in open_dataset(own).samples)
    assert (shown[0, 0], shown[3, 3], shown[4, 6]) == (BRUSH, PERSON, 0)
    assert not empty.any() and empty.shape == (HEIGHT, WIDTH)


def test_masks_of_ones_own_stay_and_are_looked_at_by_verify(own, capsys):
    (own.parent / "masks").mkdir()
    mask = Image.new("L", (WIDTH, HEIGHT), 7)
    mask.save(own.parent / "masks" / "a.png")
    assert main(["data", "prepare", "coco", str(own)]) == 0
    assert "masks: 1 masks written" in capsys.readouterr().out
    assert read_labels(own.parent / "masks" / "a.png")[0, 0] == 7
    assert main(["data", "prepare", "coco", str(own), "--verify"]) == 1
    assert "expected labels 0 to 2 and 255, found 7" in capsys.readouterr().err


def test_masks_of_an_own_file_are_numbered_as_its_classes_txt(own):
    (own.parent / "classes.txt").write_text("yak\ntoothbrush\nperson\n")
    assert main(["data", "prepare", "coco", str(own)]) == 0
    shown = read_labels(own.parent / "masks" / "a.png")
    assert (shown[0, 0], shown[3, 3]) == (2, 3)


def test_too_many_classes_are_refused_before_a_mask_is_written(own, capsys):
    content = json.loads(own.read_text())
    content["categories"] += [{"id": 100 + n, "name": f"s{n}"} for n in range(253)]
    own.write_text(json.dumps(content))
    assert main(["data", "prepare", "coco", str(own)]) == 1
    assert "own.json, categories: 255 classes" in capsys.readouterr().err
    assert not (own.parent / "masks").exists()


def test_an_own_file_without_outlines_is_named(own, capsys):
    content = json.loads(own.read_text())
    del content["annotations"][0]["segmentation"]
    own.write_text(json.dumps(content))
    assert main(["data", "prepare", "coco", str(own)]) == 1
    assert "own.json, annotation 1: has no outline" in capsys.readouterr().err


def test_nothing_is_fetched_for_an_own_file(own, capsys):
    assert main(["data", "prepare", "coco", str(own), "--download"]) == 1
    assert "--download needs voc2012 or coco2014, got coco" in capsys.readouterr().err
