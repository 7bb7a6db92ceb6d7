from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dscnet.refine.mask_files import ExternalMasks, decode_rle
from dscnet.types import DataError, DscnetError

# ------------------------------------------------------------------------------------- run lengths


def encode_by_loops(mask):
    """COCO's runs, down the columns, outside first."""
    runs, inside = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != inside:
                inside = not inside
                runs.append(0)
            runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def compress(rle):
    """COCO's text: numbers as groups of five bits, from the third on differences."""
    text = []
    for index, run in enumerate(rle["counts"]):
        number = run - rle["counts"][index - 2] if index > 2 else run
        more = True
        while more:
            bits = number & 0x1F
            number >>= 5
            more = number != (-1 if bits & 0x10 else 0)
            text.append(chr(48 + bits + (0x20 if more else 0)))
    return {"size": rle["size"], "counts": "".join(text)}


def test_run_lengths_by_hand():
    mask = decode_rle({"size": [2, 3], "counts": [1, 3, 2]})
    assert mask.tolist() == [[False, True, False], [True, True, False]]
    assert decode_rle({"size": [1, 1], "counts": [0, 1]}).tolist() == [[True]]
    assert decode_rle({"size": [1, 2], "counts": [2]}).tolist() == [[False, False]]


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (61, 83)])
def test_runs_come_back(size):
    mask = np.random.default_rng(0).random(size) > 0.6
    np.testing.assert_array_equal(decode_rle(encode_by_loops(mask)), mask)


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (61, 83)])
def test_compressed_runs_come_back(size):
    pytest.importorskip("pycocotools")
    mask = np.random.default_rng(0).random(size) > 0.6
    mask[:, : size[1] // 2] = False  # a run of more than five bits
    np.testing.assert_array_equal(decode_rle(compress(encode_by_loops(mask))), mask)


@pytest.mark.parametrize("counts", [[3], [5], [-1, 5], [[4]], []])
def test_runs_that_do_not_fill_the_mask(counts):
    with pytest.raises(ValueError, match="runs that fill 2 x 2 pixels"):
        decode_rle({"size": [2, 2], "counts": counts})


def test_without_pycocotools_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    (tmp_path / "a.json").write_text(
        json.dumps([{"segmentation": {"size": [1, 1], "counts": "1"}}])
    )
    with pytest.raises(DscnetError, match=r"pip install 'dscnet\[coco\]'"):
        ExternalMasks(tmp_path).check("a", (1, 1))
    assert decode_rle({"size": [1, 1], "counts": [0, 1]}).all(), "plain numbers need no package"


# ------------------------------------------------------------------------------------------- files


MASKS = np.array([[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 1]]], dtype=bool)
"""Two masks of a photo of 2 x 3 pixels that do not overlap."""


def save(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


def annotations(masks=MASKS, **names):
    return [{"segmentation": encode_by_loops(mask), **names} for mask in masks]


def as_pngs(root):
    for index, mask in enumerate(MASKS):
        save(root / "a" / f"{index}.png", mask.astype(np.uint8) * 255)
    (root / "a" / "metadata.csv").write_text("id,area\n")


def as_one_bit_pngs(root):
    for index, mask in enumerate(MASKS):
        save(root / "a" / f"{index}.png", mask)


def as_index_map(root):
    save(root / "a.png", (MASKS[0] * 7 + MASKS[1] * 200).astype(np.uint8))


def as_index_map_of_16_bits(root):
    save(root / "a.png", (MASKS[0] * 7 + MASKS[1] * 60000).astype(np.uint16))


def as_json(root):
    (root / "a.json").write_text(json.dumps(annotations()))


def as_json_object(root):
    (root / "a.json").write_text(json.dumps({"image": {}, "annotations": annotations()}))


def as_compressed_json(root):
    pytest.importorskip("pycocotools")
    entries = [{"segmentation": compress(encode_by_loops(mask)), "area": 2} for mask in MASKS]
    (root / "a.json").write_text(json.dumps(entries))


@pytest.mark.parametrize(
    "write",
    [
        as_pngs,
        as_one_bit_pngs,
        as_index_map,
        as_index_map_of_16_bits,
        as_json,
        as_json_object,
        as_compressed_json,
    ],
)
def test_every_format_gives_the_same_masks(tmp_path, write):
    write(tmp_path)
    masks = ExternalMasks(tmp_path)
    assert "a" in masks
    assert "b" not in masks
    masks.check("a", (2, 3))
    np.testing.assert_array_equal(np.stack(list(masks.read("a", (2, 3)))), MASKS)
    assert list(masks.read("b", (2, 3))) == []


@pytest.mark.parametrize(
    "content",
    [
        annotations(file_name="a.jpg"),
        annotations(image_id="a"),
        {
            "images": [{"id": 5, "file_name": "a.png"}, {"id": 6, "file_name": "b.png"}],
            "annotations": annotations(image_id=5),
        },
    ],
)
def test_one_file_for_all_photos(tmp_path, content):
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(content))
    masks = ExternalMasks(path)
    assert "a" in masks
    assert ("b" in masks) == isinstance(content, dict), "an image without a mask is no missing one"
    np.testing.assert_array_equal(np.stack(list(masks.read("a", (2, 3)))), MASKS)
    assert list(masks.read("b", (2, 3))) == []


def test_photos_in_folders_and_with_numbers_for_names(tmp_path):
    path = tmp_path / "masks.json"
    path.write_text(
        json.dumps([*annotations(file_name="cats/a.v2.jpg"), *annotations(MASKS[:1], image_id=12)])
    )
    masks = ExternalMasks(path)
    assert len(list(masks.read("cats__a.v2", (2, 3)))) == 2
    assert len(list(masks.read("12", (2, 3)))) == 1


@pytest.mark.parametrize("name", [r"cats\a.jpg", r"C:\cats\a.jpg", "/cats/a.jpg"])
def test_paths_of_other_systems_are_of_the_same_photo(tmp_path, name):
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(annotations(file_name=name)))
    assert "cats__a" in ExternalMasks(path)


def test_a_photo_in_which_nothing_was_found(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    save(tmp_path / "b.png", np.zeros((2, 3), dtype=np.uint8))
    (tmp_path / "c").mkdir()
    masks = ExternalMasks(tmp_path)
    assert list(masks.read("a", (2, 3))) == list(masks.read("b", (2, 3))) == []
    assert ["a" in masks, "b" in masks, "c" in masks] == [True, True, False]


@pytest.mark.parametrize("write", [as_pngs, as_index_map, as_json])
def test_a_wrong_size_is_named(tmp_path, write):
    write(tmp_path)
    masks = ExternalMasks(tmp_path)
    for use in (masks.check, lambda *args: list(masks.read(*args))):
        with pytest.raises(DataError, match=r"mask is 2 x 3, photo 'a' is 3 x 2") as caught:
            use("a", (3, 2))
        assert str(tmp_path / "a") in str(caught.value)


def test_two_sources_of_a_photo_are_refused(tmp_path):
    as_index_map(tmp_path)
    as_json(tmp_path)
    with pytest.raises(DataError, match=r"a\.png and .*a\.json both contain masks"):
        ExternalMasks(tmp_path).check("a", (2, 3))


def test_colours_are_refused(tmp_path):
    save(tmp_path / "a.png", np.zeros((2, 3, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"a\.png: image mode RGB cannot store masks"):
        ExternalMasks(tmp_path).check("a", (2, 3))


def test_a_damaged_image_is_named(tmp_path):
    save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        list(ExternalMasks(tmp_path).read("a", (64, 64)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable JSON"),
        ("5", "must contain a list of COCO annotations"),
        ('{"masks": []}', "must contain a list of COCO annotations"),
        ("[1]", "must contain a list of COCO annotations"),
        ("[{}]", "annotation 0: 'segmentation' must be run lengths"),
        ('[{"segmentation": [[0, 0, 1, 1, 0, 1]]}]', "not as polygons"),
        ('[{"segmentation": {"size": [2], "counts": [6]}}]', "must be run lengths"),
        ('[{"segmentation": {"size": [2, 0], "counts": [6]}}]', "must be run lengths"),
        ('[{"segmentation": {"size": [2, 3], "counts": [5]}}]', "annotation 0: cannot be decoded"),
        ('[{"segmentation": {"size": [2, 3], "counts": ["x"]}}]', "cannot be decoded"),
    ],
)
def test_a_wrong_json_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        list(ExternalMasks(tmp_path).read("a", (2, 3)))
    assert "a.json" in str(caught.value)


@pytest.mark.parametrize("counts", ["!!", "P", "oooooooooo1"])
def test_compressed_text_that_is_none(tmp_path, counts):
    pytest.importorskip("pycocotools")
    entry = {"segmentation": {"size": [2, 3], "counts": counts}}
    (tmp_path / "a.json").write_text(json.dumps([entry]))
    with pytest.raises(DataError, match=r"a\.json, annotation 0: cannot be decoded"):
        list(ExternalMasks(tmp_path).read("a", (2, 3)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"segmentation": {}}], "annotation 0: has no photo"),
        ({"images": [{"id": 1}], "annotations": []}, "'images' must be objects"),
    ],
)
def test_a_file_for_all_that_names_no_photo(tmp_path, content, message):
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        ExternalMasks(path)


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="no such folder or JSON file of masks"):
        ExternalMasks(tmp_path / "none")
