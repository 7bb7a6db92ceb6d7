"""Every layout of a data set with every awkwardness that files of people have, through all verbs.

Each set is checked, learned from in one pass, mapped, labelled, measured and predicted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dscnet.cli import main
from dscnet.config import Config
from dscnet.data import open_dataset
from dscnet.files.label_images import read_labels
from dscnet.pipeline.runner import run
from dscnet.predictor import predict
from helpers import small_config

VOID = 255


@dataclass(frozen=True)
class Photo:
    """A photo with a square of a class, as its file will be."""

    name: str
    tag: str | None
    size: tuple[int, int] = (48, 36)
    """Width and height, upright."""
    suffix: str = ".jpg"
    mode: str = "RGB"
    orientation: int = 1
    void: bool = False
    """Whether a part of the mask is not to be measured; a crowd where the layout has such."""

    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the square."""
        width, height = self.size
        return width // 4, height // 4, width // 2, height // 2

    def void_box(self) -> tuple[int, int, int, int]:
        width, height = self.size
        return width // 2 + 1, height // 2 + 1, width - 1, height - 1

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(self._pixels())
        exif = Image.Exif()
        if self.orientation == 6:
            image = image.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = 6
        if self.mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            image = image.convert(self.mode)
        image.save(path, exif=exif)

    def _pixels(self) -> np.ndarray:
        rng = np.random.default_rng(sum(map(ord, self.name)))
        pixels = rng.integers(60, 90, (*self.size[::-1], 3), dtype=np.uint8)
        if self.tag is not None:
            left, top, right, bottom = self.box()
            pixels[top:bottom, left:right] = (220, 60, 60) if self.tag == "cow" else (60, 60, 220)
        return pixels

    def mask(self, label: int) -> np.ndarray:
        labels = np.zeros(self.size[::-1], dtype=np.uint8)
        left, top, right, bottom = self.box()
        if self.tag is not None:
            labels[top:bottom, left:right] = label
        if self.void:
            left, top, right, bottom = self.void_box()
            labels[top:bottom, left:right] = VOID
        return labels


@dataclass(frozen=True)
class Awkward:
    """What is unusual about a set."""

    photos: tuple[Photo, ...]
    classes: tuple[str, ...] | None = None
    """A list of classes beside the photos; None = none is written."""
    val: tuple[str, ...] = field(default=())
    """Names of the photos that are listed as val; the others are listed as train."""


PLAIN = tuple(Photo(f"p{n}", ("cow", "sheep")[n % 2]) for n in range(6))


def changed(kind: str, **each: list) -> tuple[Photo, ...]:
    """Photos like the plain ones, but for their names and the values of some fields, in turn."""
    return tuple(
        replace(
            PLAIN[n % 2],
            name=f"{kind}{n}",
            **{name: values[n % len(values)] for name, values in each.items()},
        )
        for n in range(max(map(len, each.values())))
    )


ODD = (
    *PLAIN,
    *changed("size", size=[(400, 300), (36, 48), (20, 20), (300, 40), (1000, 700)]),
    *changed(
        "mode",
        mode=["L", "RGBA", "CMYK", "I;16", "P", "1"],
        suffix=[".png", ".png", ".jpg", ".png", ".png", ".png"],
    ),
    *changed("turned", orientation=[6, 6], suffix=[".jpg", ".JPG"]),
    *changed("void", void=[True, True]),
    Photo("n0", None),
    Photo("n1", None),
)
AWKWARD = {
    "plain": Awkward(PLAIN),
    # One run for all of them: what is wrong is told by the photo's name.
    "odd photos": Awkward(ODD),
    "listed": Awkward(
        ODD,
        classes=("sheep", "goat", "cow"),
        val=("p4", "p5", "size1", "mode3", "turned1", "void0", "n1"),
    ),
}


def write_table(root: Path, awkward: Awkward) -> Path:
    """``images/`` and ``tags.csv``."""
    _write_parts(root, awkward, "images", "masks")
    rows = "".join(f"{photo.name},{photo.tag or ''}\n" for photo in awkward.photos)
    (root / "tags.csv").write_text("image_id,labels\n" + rows)
    _write_lists(root / "splits", awkward)
    return root


def write_yaml(root: Path, awkward: Awkward) -> Path:
    """Parts in places of their own, named by a YAML file."""
    _write_parts(root, awkward, "jpg", "truth")
    rows = [{"image_id": p.name, "labels": [p.tag] if p.tag else []} for p in awkward.photos]
    (root / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "classes.txt").rename(root / "names.txt") if awkward.classes else None
    _write_lists(root / "lists", awkward)
    parts = {"images": "jpg", "masks": "truth", "tags": "said.jsonl"}
    parts |= {"classes": "names.txt"} if awkward.classes else {}
    text = "".join(f"{name}: {place}\n" for name, place in parts.items())
    if awkward.val:
        text += "splits: {train: lists/train.txt, val: lists/val.txt}\n"
    (root / "set.yaml").write_text(text)
    return root / "set.yaml"


def write_class_folders(root: Path, awkward: Awkward) -> Path:
    """One folder a class."""
    ids = {}
    for photo in awkward.photos:
        folder = photo.tag or "negatives"
        photo.save(root / folder / (photo.name + photo.suffix))
        ids[photo.name] = f"{folder}__{photo.name}"
        _write_mask(root / "masks" / f"{ids[photo.name]}.png", photo, awkward)
    if awkward.classes:
        (root / "classes.txt").write_text("\n".join(awkward.classes) + "\n")
    _write_lists(root / "splits", awkward, ids)
    return root


def write_voc(root: Path, awkward: Awkward) -> Path:
    """Pascal VOC, its tags in XML."""
    _write_parts(
        root, replace(awkward, classes=_numbered(awkward)), "JPEGImages", "SegmentationClass"
    )
    for photo in awkward.photos:
        thing = f"<object><name>{photo.tag}</name></object>" if photo.tag else ""
        path = root / "Annotations" / f"{photo.name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<annotation>{thing}</annotation>")
    _write_lists(root / "ImageSets" / "Segmentation", awkward)
    return root


def write_coco(root: Path, awkward: Awkward) -> Path:
    """An instances file, whose masks ``data prepare coco`` paints."""
    _write_parts(root, replace(awkward, classes=None), "images", None)
    names, images, annotations = _numbered(awkward), [], []
    for number, photo in enumerate(awkward.photos, 1):
        width, height = photo.size
        file = photo.name + photo.suffix
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        boxes = [(photo.box(), 0)] if photo.tag else []
        boxes += [(photo.void_box(), 1)] if photo.void and photo.tag else []
        for box, crowd in boxes:
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(photo.tag) + 1,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": crowd,
                }
            )
    categories = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    _write_lists(root / "splits", awkward)
    assert main(["data", "prepare", "coco", str(root / "instances.json")]) == 0
    return root / "instances.json"


LAYOUTS: dict[str, Callable[[Path, Awkward], Path]] = {
    "table": write_table,
    "YAML": write_yaml,
    "class folders": write_class_folders,
    "VOC": write_voc,
    "COCO": write_coco,
}


def _numbered(awkward: Awkward) -> tuple[str, ...]:
    return awkward.classes or ("cow", "sheep")


def _write_mask(path: Path, photo: Photo, awkward: Awkward) -> None:
    label = _numbered(awkward).index(photo.tag) + 1 if photo.tag else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo.mask(label)).save(path)


def _write_parts(root: Path, awkward: Awkward, images: str, masks: str | None) -> None:
    for photo in awkward.photos:
        photo.save(root / images / (photo.name + photo.suffix))
        if masks is not None:
            _write_mask(root / masks / f"{photo.name}.png", photo, awkward)
    if awkward.classes:
        (root / "classes.txt").write_text("\n".join(awkward.classes) + "\n")


def _write_lists(folder: Path, awkward: Awkward, ids: dict[str, str] | None = None) -> None:
    if not awkward.val:
        return
    folder.mkdir(parents=True)
    names = [photo.name for photo in awkward.photos]
    for split in ("train", "val"):
        listed = [name for name in names if (name in awkward.val) == (split == "val")]
        lines = [name if ids is None else ids[name] for name in listed]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def tiny(data: Path) -> Config:
    """One pass over all photos, by networks that take no time, tested as by default."""
    return small_config(
        data,
        {
            "augment.crop_size": 32,
            "augment.long_side": [32, 48],
            "scale.side": None,
            # Maps of a network that has learned nothing suggest none.
            "label.bg_score": 0.3,
            "train.epochs": 1,
            "train.batch_size": 8,
            "segment.network": "deeplabv1",
            "segment.epochs": 1,
            "segment.batch_size": 8,
            "segment.test_scales": [1.0, 1.5],
            "segment.flip_test": True,
            "segment.crf": False,
        },
    )


@pytest.mark.parametrize("awkwardness", AWKWARD)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_goes_through_every_verb(layout, awkwardness, tmp_path, capsys, untried):
    awkward, out = AWKWARD[awkwardness], tmp_path / "run"
    data = LAYOUTS[layout](tmp_path / "data", awkward)
    assert main(["check", str(data)]) == 0, capsys.readouterr()
    train = open_dataset(data, "train")
    by_name = {photo.name: photo for photo in awkward.photos}
    for sample in train.samples:
        photo = by_name[sample.image_id.rpartition("__")[2]]
        assert [train.classes[tag] for tag in sample.tags] == ([photo.tag] if photo.tag else [])
        true = read_labels(sample.mask_path)
        shown = {train.classes[label - 1] for label in np.unique(true) if 0 < label < VOID}
        assert shown == ({photo.tag} if photo.tag else set()), "masks and tags say the same"
        assert (true == VOID).any() == photo.void
    stages = ["train", "cam", "label", "segment", "evaluate"]
    metrics = run(tiny(data), out, stages=stages, progress=False)
    expected = len(awkward.photos) - len(awkward.val)
    assert metrics["cam"]["num_images"] == metrics["pseudo_label"]["num_images"] == expected
    assert (metrics["segmenter"] is None) == (not awkward.val)
    assert predict([str(s.image_path) for s in train.samples], out, tmp_path / "new") == []
    for sample in train.samples:
        size = by_name[sample.image_id.rpartition("__")[2]].size
        for folder, name in (
            (out / "labels", sample.image_id),
            (tmp_path / "new" / "masks", sample.image_path.stem),
        ):
            assert read_labels(folder / f"{name}.png").shape == size[::-1]
