"""Input format: photos in ``images/``, and a tag file next to it."""

from __future__ import annotations

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
from dscnet.data.tag_files import read_tag_file
from dscnet.types import DataError


def _recognises(root: Path) -> bool:
    return (root / "images").is_dir()


def _read(root: Path) -> Layout:
    tag_file = find_tag_file(root)
    if tag_file is None:
        raise DataError(
            f"{root}: has images/ but no tags.csv, tags.json or tags.jsonl next to it; write "
            "tags.csv with the header 'image_id,labels' and one line per photo"
        )
    return Layout(
        name=root.resolve().name,
        photos=photos_in(root / "images"),
        read_tags=partial(read_tag_file, tag_file),
        classes=classes_of(root),
        masks=pngs_in(root / "masks"),
        saliency=pngs_in(root / "saliency"),
        splits=split_files(root / "splits"),
        photo_folders=(root / "images",),
        map_folders=(root / "masks", root / "saliency"),
    )


FORMAT = Format(
    "images",
    _recognises,
    _read,
    looked_for="images/ with tags.csv, .json or .jsonl",
    given_as="images/ with a tag file",
)
