from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dscnet.labels.external_masks import ExternalMasks, decode_rle, merge_masks
from dscnet.types import DataError, DscnetError

# ------------------------------------------------------------------------------------- merge rule


def merge_by_loops(probabilities, masks, overlap):
    """The rule, pixel by pixel, in float64."""
    count, height, width = probabilities.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    label_of = {}
    for y, x in pixels:
        best = 0
        for label in range(count):
            if probabilities[label, y, x] > probabilities[best, y, x]:
                best = label
        label_of[y, x] = best
    accepted = []
    for mask in masks:
        inside = [p for p in pixels if mask[p]]
        if not inside:
            continue
        shares = [sum(label_of[p] == c for p in inside) / len(inside) for c in range(count)]
        label = shares.index(max(shares))
        if shares[label] >= overlap:
            voters = [p for p in inside if label_of[p] == label]
            mean = [
                sum(float(probabilities[c][p]) for p in voters) / len(voters) for c in range(count)
            ]
            accepted.append((len(inside), mask, mean))
    merged = np.array(probabilities, dtype=np.float64)
    for p in pixels:
        covering = [(area, mean) for area, mask, mean in accepted if mask[p]]
        if covering:
            merged[(slice(None), *p)] = min(covering, key=lambda item: item[0])[1]
    return merged


def some_masks(rng, count, height, width):
    """Rectangles of all sizes that overlap, one of them empty, one the whole photo."""
    masks = [np.zeros((height, width), dtype=bool), np.ones((height, width), dtype=bool)]
    for _ in range(count):
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask = np.zeros((height, width), dtype=bool)
        mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = True
        masks.append(mask)
    return masks


@pytest.mark.parametrize("labels", [1, 2, 4])
@pytest.mark.parametrize("overlap", [0.01, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 5)])
def test_merge_equals_loops(labels, overlap, size):
    rng = np.random.default_rng(labels)
    start = rng.dirichlet(np.ones(labels), size=size).transpose(2, 0, 1)
    masks = some_masks(rng, 12, *size)
    merged = merge_masks(torch.from_numpy(start), masks, overlap=overlap)
    np.testing.assert_allclose(merged.numpy(), merge_by_loops(start, masks, overlap), atol=1e-12)
    np.testing.assert_allclose(merged.sum(0).numpy(), 1)


def trusted(labels, count=3, certainty=0.7):
    """Probabilities of labels that are all trusted alike."""
    labels = torch.tensor(labels)
    start = torch.full((count, *labels.shape), (1 - certainty) / (count - 1), dtype=torch.float64)
    return start.scatter_(0, labels[None], certainty)


def labels_of(probabilities):
    return probabilities.argmax(0).tolist()


def test_merge_by_hand():
    start = trusted([[1, 1, 2, 0, 0, 0]])
    most_of_one = np.array([[True, True, True, False, False, False]])
    undecided = np.array([[False, True, True, True, False, False]])
    background = np.array([[False, False, True, True, True, False]])
    merged = merge_masks(start, [most_of_one, undecided])
    assert labels_of(merged) == [[1, 1, 1, 0, 0, 0]]
    assert merged[:, 0, 2].tolist() == pytest.approx([0.15, 0.7, 0.15]), "as certain as before"
    assert labels_of(merge_masks(start, [background])) == [[1, 1, 0, 0, 0, 0]]
    assert torch.equal(merge_masks(start, [undecided]), start)


def test_smaller_masks_lie_over_larger_ones_in_any_order():
    start = trusted([[1, 1, 1, 1, 2, 2]])
    large = np.ones((1, 6), dtype=bool)
    small = np.array([[False, False, False, True, True, True]])
    for masks in ([large, small], [small, large]):
        assert labels_of(merge_masks(start, masks)) == [[1, 1, 1, 2, 2, 2]]


def test_of_equal_masks_and_of_equal_labels_the_first_counts():
    start = trusted([[2, 2, 1, 1]])
    left, right = (np.array([[i, True, j, False]]) for i, j in ((True, False), (False, True)))
    assert labels_of(merge_masks(start, [np.ones((1, 4), dtype=bool)])) == [[1, 1, 1, 1]]
    assert labels_of(merge_masks(start, [right, left]))[0][1] == 1
    assert labels_of(merge_masks(start, [left, right]))[0][1] == 2


def test_half_of_a_mask_is_enough_and_less_is_not():
    start = trusted([[1, 1, 2, 0]])
    assert labels_of(merge_masks(start, [np.ones((1, 4), dtype=bool)])) == [[1, 1, 1, 1]]
    assert torch.equal(merge_masks(start, [np.ones((1, 4), dtype=bool)], overlap=0.51), start)
    # Three of ten: 0.3 as it is written, whatever its binary digits.
    start = trusted([[1, 1, 1, 0, 0, 2, 2, 3, 3, 4]], count=5)
    mask = np.ones((1, 10), dtype=bool)
    assert labels_of(merge_masks(start, [mask], overlap=0.3)) == [[1] * 10]


def test_without_masks_nothing_changes():
    start = trusted([[0, 1], [2, 2]])
    assert torch.equal(merge_masks(start, []), start)


@pytest.mark.parametrize("overlap", [0.0, -1.0, 1.01])
def test_a_wrong_overlap(overlap):
    with pytest.raises(ValueError, match="overlap must be above 0"):
        merge_masks(trusted([[1]]), [], overlap=overlap)


def test_a_mask_of_another_size():
    with pytest.raises(ValueError, match=r"masks must be \(1, 2\), got \(2, 1\)"):
        merge_masks(trusted([[1, 0]]), [np.ones((2, 1), dtype=bool)])


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
    with pytest.raises(DataError, match=r"a\.png and .*a\.json both hold masks"):
        ExternalMasks(tmp_path).check("a", (2, 3))


def test_colours_are_refused(tmp_path):
    save(tmp_path / "a.png", np.zeros((2, 3, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"a\.png: image mode RGB holds no mask"):
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
        ("{", "is no readable JSON"),
        ("5", "must hold a list of COCO annotations"),
        ('{"masks": []}', "must hold a list of COCO annotations"),
        ("[1]", "must hold a list of COCO annotations"),
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
        ([{"segmentation": {}}], "annotation 0: names no photo"),
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
