from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from dscnet.cli import main
from dscnet.data import open_dataset
from dscnet.data.coco_json import read_coco
from dscnet.labels.pseudo_label import read_label
from dscnet.prepare import coco, prepare_coco2014
from dscnet.prepare.coco import coco_mask
from dscnet.types import DataError, DscnetError

HEIGHT, WIDTH = 5, 7
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}]
PERSON, BRUSH = 1, 2  # labels


def box(left, top, right, bottom):
    """The outline of pixels left..right-1, top..bottom-1."""
    return [left, top, right, top, right, bottom, left, bottom]


def runs(mask):
    """Uncompressed run lengths by COCO's rule: down the columns, beginning with zeros."""
    counts, value = [0], 0
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column] != value:
                value = mask[row, column]
                counts.append(0)
            counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def annotation(number, category, segmentation, *, image=1, crowd=0):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
        "bbox": [0, 0, 1, 1],
    }


def photo(tmp_path, *annotations, **image):
    path = tmp_path / "instances.json"
    size = {"height": HEIGHT, "width": WIDTH} | image
    images = [{"id": 1, "file_name": "a.jpg"} | size]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    return read_coco(path, outlines=True).photos[0]


def test_polygons_are_painted_with_labels_by_sorted_category_id(tmp_path):
    two_parts = [box(0, 0, 2, 1), box(5, 3, 7, 5)]
    made = coco_mask(photo(tmp_path, annotation(1, 90, two_parts)))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[0:1, 0:2] = BRUSH
    expected[3:5, 5:7] = BRUSH
    assert made.dtype == np.uint8 and made.tolist() == expected.tolist()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_small_objects_lie_on_large_ones_and_crowds_below_all(tmp_path, order):
    crowd = np.zeros((HEIGHT, WIDTH), int)
    crowd[:, 0:3] = 1
    listed = [
        annotation(1, 1, [box(2, 0, 7, 4)]),
        annotation(2, 90, [box(3, 1, 5, 3)]),
        annotation(3, 1, runs(crowd), crowd=1),
    ]
    made = coco_mask(photo(tmp_path, *[listed[i] for i in order]))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:, 0:3] = 255
    expected[0:4, 2:7] = PERSON
    expected[1:3, 3:5] = BRUSH
    assert made.tolist() == expected.tolist()


def test_of_equal_objects_the_later_lies_on_top(tmp_path):
    made = coco_mask(
        photo(tmp_path, annotation(1, 90, [box(0, 0, 2, 2)]), annotation(2, 1, [box(1, 0, 3, 2)]))
    )
    assert made[0].tolist() == [BRUSH, PERSON, PERSON, 0, 0, 0, 0]


def test_compressed_and_plain_run_lengths_agree(tmp_path):
    from pycocotools import mask as tools

    shape = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8)
    packed = tools.encode(np.asfortranarray(shape))
    packed["counts"] = packed["counts"].decode()
    for outline in (runs(shape), packed):
        made = coco_mask(photo(tmp_path, annotation(1, 90, outline)))
        assert made.tolist() == (shape * BRUSH).tolist()


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([[0, 0, 2, 2]], r"annotation 4: expected polygons of at least three points, found \[4\]"),
        ([[0, 0, 1, 1, 2, 2, 3]], r"found \[7\] numbers"),
        ([], r"found \[\] numbers"),
        (None, r"found \[\] numbers"),
        ({"size": [7, 5], "counts": [35]}, r"run-length encoding of 5 x 7 .*found \[7, 5\]"),
        ({"size": [5, 7]}, r"expected a run-length encoding"),
    ],
)
def test_an_outline_that_is_none_is_named(tmp_path, outline, message):
    with pytest.raises(DataError, match=message):
        coco_mask(photo(tmp_path, annotation(4, 1, outline)))


def test_a_photo_without_size_is_named(tmp_path):
    made = photo(tmp_path, annotation(1, 1, [box(0, 0, 2, 2)]), height=None)
    with pytest.raises(DataError, match=r"'a\.jpg': expected height and width, found none"):
        coco_mask(made)


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
    assert "differs: train, photos with an annotation: 2, published are 82081" in said
    train = open_dataset(root / "coco2014.yaml", "train")
    assert train.classes == ("person", "toothbrush") and train.name == "coco2014"
    assert {s.image_id: s.tags for s in train.samples} == {
        name_of("train", 1): (0, 1),
        name_of("train", 3): (0,),
    }
    val = open_dataset(root / "coco2014.yaml", "val")
    masks = [read_label(s.mask_path) for s in val.samples]
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
    assert "instances_train2014.json: annotations_trainval2014.zip from http" in said
    assert not (root / "masks").exists() and not (root / "tags.csv").exists()


def test_a_half_unpacked_folder_is_refused(root):
    (root / "val2014" / f"{name_of('val', 3)}.jpg").unlink()
    with pytest.raises(DataError, match=r"val2014: expected the 2 photos .*found 1; missing C"):
        prepare_coco2014(root)
    assert not (root / "masks").exists()


def test_a_photo_of_another_size_is_named(root):
    Image.new("RGB", (3, 3)).save(root / "train2014" / f"{name_of('train', 1)}.jpg")
    with pytest.raises(DataError, match=r"instances_train.*expected 3 x 3 pixels .*found 7 x 5"):
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
    shown, empty = (read_label(sample.mask_path) for sample in open_dataset(own).samples)
    assert (shown[0, 0], shown[3, 3], shown[4, 6]) == (BRUSH, PERSON, 0)
    assert not empty.any() and empty.shape == (HEIGHT, WIDTH)


def test_masks_of_ones_own_stay_and_are_looked_at_by_verify(own, capsys):
    (own.parent / "masks").mkdir()
    mask = Image.new("L", (WIDTH, HEIGHT), 7)
    mask.save(own.parent / "masks" / "a.png")
    assert main(["data", "prepare", "coco", str(own)]) == 0
    assert "masks: 1 masks written" in capsys.readouterr().out
    assert read_label(own.parent / "masks" / "a.png")[0, 0] == 7
    assert main(["data", "prepare", "coco", str(own), "--verify"]) == 1
    assert "expected labels 0 to 2 and 255, found 7" in capsys.readouterr().err


def test_an_own_file_without_outlines_is_named(own, capsys):
    content = json.loads(own.read_text())
    del content["annotations"][0]["segmentation"]
    own.write_text(json.dumps(content))
    assert main(["data", "prepare", "coco", str(own)]) == 1
    assert "own.json, annotation 1: expected polygons" in capsys.readouterr().err


def test_nothing_is_fetched_for_an_own_file(own, capsys):
    assert main(["data", "prepare", "coco", str(own), "--download"]) == 1
    assert "--download goes with voc2012 and coco2014" in capsys.readouterr().err
