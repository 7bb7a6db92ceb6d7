"""Detects folders that look like class folders but mean something else."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from dscnet.data.tag_files import first_few
from dscnet.types import DataError

_SPLIT = re.compile(r"(train|test|val)(ing|id|idation)?([ _-]?(set|data|images|photos|\d{4}))?")
# Compared ignoring case, spaces, hyphens and underscores.
_PARTS = frozenset(
    {"images", "imgs", "photos", "pictures", "jpegimages", "masks", "labels", "annotations"}
    | {"groundtruth", "gt", "segmentations", "segmentationclass", "segmentationclassaug"}
    | {"segmentationobject", "saliency", "saliencymaps", "overlays", "predictions"}
)
_COCO_FILES = ("*coco.json", "instances*.json")
_TAG_FILES = (
    *("metadata.csv", "metadata.jsonl", "metadata.parquet", "tags.csv", "tags.json", "tags.jsonl"),
    *("_annotations.*", "annotations.csv", "annotations.json", "_classes.csv", "labels.csv"),
    *("labels.json", "via_*.json"),
)
_REMEDY = (
    "put the photos into images/ and their tags into tags.csv next to it (header image_id,labels)"
)


def refuse_other_meaning(
    root: Path, folders: Mapping[str, Collection[str]], maps: Mapping[str, Collection[str]]
) -> None:
    """Reject subfolders of photos that are evidently not classes.

    Args:
        root: The data set.
        folders: Image ids of the photos in each folder taken for a class or the negatives.
        maps: Stems of the images in each folder taken for masks or saliency maps.

    Raises:
        DataError: If folders have names of splits or parts of a data set, if a file in one
            describes its photos, or if no image in a folder of maps belongs to a photo.
    """
    names = [name for name in folders if folders[name]]
    for name in names:
        _refuse_described(root / name)
    _refuse_splits(root, names)
    if parts := [name for name in names if _plain(name) in _PARTS]:
        raise DataError(
            f"{root}: {first_few(parts)} contain photos like class folders, but are named like"
            " parts of a data set; rename those that are classes, and move the others out of this"
            " folder"
        )
    ids = {image_id for name in names for image_id in folders[name]}
    for name, stems in maps.items():
        if stems and ids.isdisjoint(stems):
            raise DataError(
                f"{root / name}: is taken for maps because of its name, but none of its"
                f" {len(stems)} images is named like a photo; rename the folder if it is a class,"
                f" or name maps after the ids of their photos (such as {min(ids)}.png)"
            )


def _refuse_described(folder: Path) -> None:
    """Reject a class folder with a file that describes its photos."""
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if any(fnmatch(name, pattern) for pattern in _COCO_FILES):
            remedy = "give this file as the data set"
        elif any(fnmatch(name, pattern) for pattern in _TAG_FILES):
            remedy = _REMEDY
        else:
            continue
        raise DataError(
            f"{path}: describes photos, so {folder.name}/ is not a class; {remedy}, or move the"
            " file away if the folder is a class"
        )


def _refuse_splits(root: Path, names: Sequence[str]) -> None:
    """Reject names of splits; a folder ``train`` among others may be the class train."""
    splits = [name for name in names if _SPLIT.fullmatch(name.casefold())]
    alone = len(splits) == len(names)
    if splits and (alone or any(name.casefold() != "train" for name in splits)):
        lists = " and ".join(f"splits/{name}.txt" for name in splits[:3])
        raise DataError(
            f"{root}: {first_few(splits)} contain photos like class folders, but are named like"
            f" splits; {_REMEDY}, and their ids into {lists}; rename those that are classes"
        )


def _plain(name: str) -> str:
    return re.sub(r"[ _-]", "", name.casefold())
