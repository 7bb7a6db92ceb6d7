"""Input format: a COCO instances file next to its photos."""

from __future__ import annotations

from pathlib import Path

from dscnet.data.formats.coco_files import find_photos
from dscnet.data.formats.coco_json import read_coco
from dscnet.data.formats.layout import (
    Format,
    Layout,
    classes_of,
    photos_by_id,
    pngs_in,
    split_files,
)
from dscnet.types import DataError


def _recognises(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _read(path: Path) -> Layout:
    content = read_coco(path, classes=classes_of(path.parent))
    homes = (path.parent / "images", path.parent)
    found = find_photos(path, homes, [(x.image_id, x.file_name) for x in content.photos])
    photos = photos_by_id(found)
    if not photos:
        raise DataError(
            f"{path}: none of its {len(content.photos)} photos is in {homes[0]} or {homes[1]}; "
            "move them there"
        )
    return Layout(
        name=path.stem,
        photos=photos,
        read_tags=lambda known: content.tags(),
        classes=content.classes,
        masks=pngs_in(path.parent / "masks"),
        saliency=pngs_in(path.parent / "saliency"),
        splits=split_files(path.parent / "splits"),
        map_folders=(path.parent / "masks", path.parent / "saliency"),
        notes=content.notes,
    )


FORMAT = Format(
    "coco", _recognises, _read, looked_for="a COCO instances file (.json)", is_file=True
)
