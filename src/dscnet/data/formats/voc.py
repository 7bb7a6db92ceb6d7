"""Input format: PASCAL VOC, ``JPEGImages/``, ``Annotations/``, ``ImageSets/`` and masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from dscnet.data.formats.layout import (
    Format,
    Layout,
    classes_of,
    find_tag_file,
    photos_in,
    pngs_in,
    split_files,
)
from dscnet.data.tag_files import (
    TagEntry,
    files_ending,
    read_annotations,
    read_tag_file,
    read_text,
)
from dscnet.types import DataError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


def _recognises(root: Path) -> bool:
    return (root / "JPEGImages").is_dir()


def _read(root: Path) -> Layout:
    tag_file = find_tag_file(root / "ImageSets", root)
    annotations = root / "Annotations"
    if tag_file is not None:
        read_tags: Callable[[Collection[str]], Sequence[TagEntry]] = partial(
            read_tag_file, tag_file
        )
    elif files_ending(annotations, ".xml"):

        def read_tags(known: Collection[str]) -> list[TagEntry]:
            return read_annotations(annotations)
    else:
        raise DataError(
            f"{root}: no tags. Looked for tags.csv, tags.json and tags.jsonl in ImageSets/ and in "
            "the folder itself, and for Annotations/*.xml; write ImageSets/tags.csv with the "
            "header 'image_id,labels' and one line per photo"
        )
    return Layout(
        name=root.resolve().name,
        photos=photos_in(root / "JPEGImages"),
        read_tags=read_tags,
        classes=classes_of(root),
        usual_classes=VOC_CLASSES if tag_file is None else (),
        # SBD's masks are used where VOC has none.
        masks=pngs_in(root / "SegmentationClassAug") | pngs_in(root / "SegmentationClass"),
        saliency=pngs_in(root / "saliency"),
        splits=voc_split_files(root / "ImageSets"),
        photo_folders=(root / "JPEGImages",),
        map_folders=tuple(
            root / name for name in ("SegmentationClass", "SegmentationClassAug", "saliency")
        ),
    )


def voc_split_files(image_sets: Path) -> dict[str, Path]:
    """Split lists by name, from ``Segmentation/``, or from ``Main/`` if it has none.

    VOC's lists of one class, with 1, 0 or -1 after each id, are not splits.

    Args:
        image_sets: The folder ``ImageSets``.
    """
    for folder in (image_sets / "Segmentation", image_sets / "Main"):
        found = split_files(folder)
        if splits := {name: path for name, path in found.items() if not _is_of_one_class(path)}:
            return splits
    return {}


def _is_of_one_class(path: Path) -> bool:
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    return bool(lines) and all(len(words) == 2 and words[1] in ("-1", "0", "1") for words in lines)


FORMAT = Format(
    "voc",
    _recognises,
    _read,
    looked_for="JPEGImages/ (VOC)",
    given_as="a VOC folder",
    split_home=lambda root: str(root / "ImageSets" / "Segmentation"),
)
