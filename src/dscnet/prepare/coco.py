"""Masks from instances files: MS COCO 2014 with its tags, and files of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscnet.confusion import Labels
from dscnet.data import open_dataset
from dscnet.data.coco_json import CocoFile, CocoPhoto, Instance, read_coco
from dscnet.data.formats import photos_in
from dscnet.prepare.download import Archive, checked_line, provide
from dscnet.prepare.masks import write_masks
from dscnet.prepare.outcome import (
    Outcome,
    list_text,
    refuse_missing,
    refuse_other,
    tags_text,
    write_missing,
)
from dscnet.types import BACKGROUND, IGNORE_INDEX, DataError, DscnetError

ANNOTATIONS = Archive(
    "annotations_trainval2014.zip",
    "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    "0a379cfc70b0e71301e0f377548639bd",
)


@dataclass(frozen=True)
class Part:
    """A split as its owners publish it.

    Attributes:
        folder: Its photos.
        archive: Where they come from.
        json: Its instances file.
        photos: How many photos it has.
        tagged: How many of them have an annotation.
    """

    folder: str
    archive: Archive
    json: str
    photos: int
    tagged: int


PARTS = {
    "train": Part(
        "train2014",
        Archive(
            "train2014.zip",
            "http://images.cocodataset.org/zips/train2014.zip",
            "0da8c0bd3d6becc4dcb32757491aca88",
        ),
        "annotations/instances_train2014.json",
        photos=82783,
        tagged=82081,
    ),
    "val": Part(
        "val2014",
        Archive(
            "val2014.zip",
            "http://images.cocodataset.org/zips/val2014.zip",
            "a3d79f5ed8d289b7a7554ce06a5782b3",
        ),
        "annotations/instances_val2014.json",
        photos=40504,
        tagged=40137,
    ),
}
NUM_CLASSES = 80
YAML = """\
name: coco2014
images: [train2014, val2014]
tags: tags.csv
classes: classes.txt
masks: masks
splits: {train: splits/train.txt, val: splits/val.txt}
"""


def prepare_coco2014(root: Path, *, download: bool = False, verify: bool = False) -> Outcome:
    """Write what a run needs beside the photos; what is there is never written again.

    ``coco2014.yaml``, which is the data set, with ``tags.csv``, ``classes.txt``, ``splits/`` and
    ``masks/``. Photos without an annotation are in no split. [Reading: as in the field; the paper's
    82,081 and 40,137 are the photos that have one, crowds included.]

    Args:
        root: Folder with ``train2014/``, ``val2014/`` and ``annotations/``.
        download: Fetch and unpack the three archives, as far as they are not there.
        verify: Compare the archives that lie in ``root`` with their checksums, and open every mask
            that was written before.

    Returns:
        What was found. If a part is missing nothing has been written.

    Raises:
        DataError: If a part is incomplete or damaged, or a file says something else already.
        DscnetError: If pycocotools is absent, or a download fails.
    """
    if download:
        there = all((root / part.json).exists() for part in PARTS.values())
        provide(ANNOTATIONS, root, there=there)
        for part in PARTS.values():
            provide(part.archive, root, there=(root / part.folder).is_dir())
    outcome = Outcome()
    for part in PARTS.values():
        for path, archive in ((part.folder, part.archive), (part.json, ANNOTATIONS)):
            if not (root / path).exists():
                outcome.missing.append(f"{root / path}: {archive.name} from {archive.url}")
    if outcome.missing:
        return outcome
    _rle()  # says at once that pycocotools is absent
    splits = [_read_split(root, name) for name in PARTS]
    classes = splits[0].file.classes
    for split in splits:
        if split.file.classes != classes:
            raise DataError(
                f"{split.file.path}: expected the categories of {splits[0].file.path}, found "
                "others; take both files from one archive"
            )
    texts = _texts(root, splits)
    refuse_other(texts)
    for split in splits:
        written = write_masks(
            root / "masks", split.paths, split.mask, num_labels=len(classes) + 1, verify=verify
        )
        outcome.lines.append(f"{root / 'masks'}: {written} masks of {split.name} written")
    write_missing(texts, outcome)
    outcome.count("classes", len(classes), NUM_CLASSES)
    for split in splits:
        part, photos = PARTS[split.name], split.file.photos
        outcome.count(f"{split.name}, photos in the JSON", len(photos), part.photos)
        outcome.count(f"{split.name}, photos with an annotation", len(split.paths), part.tagged)
    if verify:
        archives = (ANNOTATIONS, *(part.archive for part in PARTS.values()))
        outcome.lines += [checked_line(archive, root) for archive in archives]
    return outcome


def prepare_coco(path: Path, *, verify: bool = False) -> Outcome:
    """Write the masks of an instances file's photos, to measure with: ``masks/ID.png`` beside it.

    Without them a run on the file has tags alone. Masks that are there stay as they are.

    Args:
        path: The instances file; its photos lie where a run looks for them.
        verify: Look at the masks that are there already too.

    Returns:
        How many were written.

    Raises:
        DataError: If photos are missing, or an outline is missing or wrong.
        DscnetError: If pycocotools is absent.
    """
    _rle()
    photos = open_dataset(path)
    file = read_coco(path, outlines=True)
    drawn = {photo.image_id: photo for photo in file.photos}
    written = write_masks(
        path.parent / "masks",
        {sample.image_id: sample.image_path for sample in photos.samples},
        lambda image_id: (coco_mask(drawn[image_id]), f"{path}, image {image_id!r}"),
        num_labels=photos.num_labels,
        verify=verify,
    )
    return Outcome([f"{path.parent / 'masks'}: {written} masks written"])


def coco_mask(photo: CocoPhoto) -> NDArray[np.uint8]:
    """Paint the instances of a photo.

    Larger ones first, so that small ones stay visible; of equal ones the later in the file lies on
    top. [Reading: the paper names no rule.] Crowds come before all and give 255, which nothing
    counts. [Reading]

    Args:
        photo: With size and outlines.

    Returns:
        ``(H, W)`` uint8: 0 = background, ``c + 1`` = class ``c``, 255 = crowd.

    Raises:
        DataError: If the photo's size or an outline is missing or wrong.
    """
    rle = _rle()
    if photo.size is None:
        raise DataError(f"image {photo.file_name!r}: expected height and width, found none")
    codes = [(instance, _encode(instance, photo.size)) for instance in photo.instances]
    codes.sort(key=lambda pair: (not pair[0].crowd, -int(rle.area(pair[1]))))
    labels = np.full(photo.size, BACKGROUND, dtype=np.uint8)
    for instance, code in codes:
        label = IGNORE_INDEX if instance.crowd else instance.class_index + 1
        labels[rle.decode(code).astype(bool)] = label
    return labels


def _encode(instance: Instance, size: tuple[int, int]) -> Any:
    """The run-length encoding of an outline, as COCO's own tools make it."""
    rle, outline = _rle(), instance.segmentation
    if isinstance(outline, dict):
        if list(outline.get("size", ())) != list(size) or "counts" not in outline:
            raise DataError(
                f"{instance.where}: expected a run-length encoding of {size[0]} x {size[1]} "
                f"(height, width), found {outline.get('size')}; fetch the file anew"
            )
        packed = isinstance(outline["counts"], str)
        return outline if packed else rle.frPyObjects(outline, *size)
    # COCO's tools would take four numbers for a box.
    if not outline or any(len(polygon) < 6 or len(polygon) % 2 for polygon in outline):
        found = [len(polygon) for polygon in outline or ()]
        raise DataError(
            f"{instance.where}: expected polygons of at least three points, found {found} "
            "numbers; correct it or remove the annotation"
        )
    return rle.merge(rle.frPyObjects(outline, *size))


def _rle() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DscnetError("COCO's masks need pycocotools: pip install 'dscnet[coco]'") from error
    return mask


@dataclass(frozen=True)
class _Split:
    """A split whose photos are all there.

    Attributes:
        name: ``train`` or ``val``.
        file: Its instances.
        photos: Those with an annotation, by image id.
        paths: Where these lie.
    """

    name: str
    file: CocoFile
    photos: dict[str, CocoPhoto]
    paths: dict[str, Path]

    def mask(self, image_id: str) -> tuple[Labels, str]:
        """Labels of a photo, and where they are from."""
        return coco_mask(self.photos[image_id]), f"{self.file.path}, image {image_id!r}"


def _read_split(root: Path, name: str) -> _Split:
    part = PARTS[name]
    file = read_coco(root / part.json, outlines=True)
    photos = {photo.image_id: photo for photo in file.photos if photo.instances}
    there = photos_in(root / part.folder)
    refuse_missing(root / part.folder, "photos", str(file.path), tuple(photos), there)
    return _Split(name, file, photos, {image_id: there[image_id] for image_id in photos})


def _texts(root: Path, splits: Sequence[_Split]) -> dict[Path, str]:
    entries = [entry for split in splits for entry in split.file.tags() if entry.names]
    return {
        root / "classes.txt": list_text(("background", *splits[0].file.classes)),
        root / "tags.csv": tags_text({entry.image_id: entry.names for entry in entries}),
        root / "coco2014.yaml": YAML,
        **{
            root / "splits" / f"{split.name}.txt": list_text(tuple(split.photos))
            for split in splits
        },
    }
