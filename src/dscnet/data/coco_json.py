"""Instances files of COCO: categories, photos, and what each photo shows."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from dscnet.data.tag_files import (
    TagEntry,
    class_indices,
    clean_classes,
    foreground,
    is_background,
    read_text,
)
from dscnet.types import DataError

Segmentation: TypeAlias = "list[array[float]] | dict[str, Any]"
"""Polygons ``x, y, x, y, ...`` in pixels, or a run-length encoding with ``counts`` and ``size``."""

_TOP = ("images", "annotations", "categories")
_KEPT = frozenset(
    {*_TOP, "id", "name", "file_name", "height", "width", "image_id", "category_id", "iscrowd"}
)
_SHAPE = frozenset({"segmentation", "counts", "size"})


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotation.

    Attributes:
        class_index: 0-based foreground class, its place in the file's ``classes``.
        crowd: Whether it outlines a crowd instead of one object.
        segmentation: Its outline, where it was asked for.
        where: File and annotation id, for messages.
    """

    class_index: int
    crowd: bool
    segmentation: Segmentation | None
    where: str


@dataclass(frozen=True, slots=True)
class CocoPhoto:
    """One photo and its annotations, in the order of the file.

    Attributes:
        image_id: The file's name without ending, as far as the photo lies in sub-folders joined by
            ``__``; not COCO's number.
        file_name: Path as the JSON has it.
        size: Height and width as the JSON has them; None if it does not say, or not in whole
            numbers above 0.
        where: File and photo, for messages.
        instances: What it shows.
    """

    image_id: str
    file_name: str
    size: tuple[int, int] | None
    where: str
    instances: list[Instance] = field(default_factory=list)


@dataclass(frozen=True)
class CocoFile:
    """What an instances file says; photos need not be there.

    Attributes:
        path: The file.
        classes: Foreground class names, as they were given or else by ascending category id. COCO's
            own ids have gaps: its 80 categories are numbered up to 90.
        photos: In the order of the file.
    """

    path: Path
    classes: tuple[str, ...]
    photos: tuple[CocoPhoto, ...]

    def tags(self) -> list[TagEntry]:
        """The classes of every photo's annotations, crowds included; none for a negative."""
        return [
            TagEntry(
                photo.image_id,
                tuple(self.classes[i] for i in sorted({x.class_index for x in photo.instances})),
                photo.where,
            )
            for photo in self.photos
        ]


def read_coco(
    path: Path, *, outlines: bool = False, classes: Sequence[str] | None = None
) -> CocoFile:
    """Read an instances file.

    Args:
        path: The JSON; COCO's largest has 330 MB.
        outlines: Keep the segmentations, polygons packed; without them only tags are known.
        classes: Foreground class names in the order of their labels; a category that is none of
            them must have no annotation. None = the categories, without the background.

    Raises:
        DataError: If the file is unreadable or no instances file, an id is used twice, there are
            more classes than masks have room for, or an annotation names a photo, category or class
            that is not listed.
    """
    content = _parse(path, _KEPT | _SHAPE if outlines else _KEPT)
    names = _categories(path, content["categories"])
    if classes is None:
        ordered = [names[key] for key in sorted(names) if not is_background(names[key])]
        classes = clean_classes(ordered, f"{path}, categories")
    photos: dict[int, CocoPhoto] = {}
    for item in _items(path, content, "images", {"id": int, "file_name": str}):
        if item["id"] in photos:
            raise DataError(f"{path}: two images have the id {item['id']}; remove one")
        name = PurePosixPath(item["file_name"])
        parts = [part for part in name.with_suffix("").parts if part not in ("/", "..")]
        where = f"{path}, image {str(name)!r}"
        photos[item["id"]] = CocoPhoto("__".join(parts), str(name), _size(item), where)
    needed = {"id": int, "image_id": int, "category_id": int}
    indices: dict[int, tuple[int, ...]] = {}
    for item in _items(path, content, "annotations", needed):
        where = f"{path}, annotation {item['id']}"
        if item["image_id"] not in photos:
            raise DataError(
                f"{where}: image_id {item['image_id']} is none of the {len(photos)} images; add "
                "the image to 'images' or remove the annotation"
            )
        if item["category_id"] not in names:
            raise DataError(
                f"{where}: category_id {item['category_id']} is none of {sorted(names)}; "
                "correct it or add the category"
            )
        if item["category_id"] not in indices:
            tag = TagEntry("", foreground([names[item["category_id"]]]), where)
            indices[item["category_id"]] = class_indices(tag, classes)
        for class_index in indices[item["category_id"]]:
            photos[item["image_id"]].instances.append(
                Instance(class_index, bool(item.get("iscrowd")), item.get("segmentation"), where)
            )
    return CocoFile(path, tuple(classes), tuple(photos.values()))


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    return (height, width) if min(height, width) > 0 else None


def _parse(path: Path, kept: frozenset[str]) -> dict[str, Any]:
    """The JSON with the kept keys alone, thrown away while it is parsed: it is large."""

    def lighter(item: dict[str, Any]) -> dict[str, Any]:
        small = {key: value for key, value in item.items() if key in kept}
        outline = small.get("segmentation")
        if isinstance(outline, list):
            small["segmentation"] = [_packed(path, item, polygon) for polygon in outline]
        return small

    try:
        content = json.loads(read_text(path), object_hook=lighter)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error}); repair or fetch it again") from error
    found = sorted(content) if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in _TOP):
        raise DataError(
            f"{path}: no COCO instances file: expected an object with the lists "
            f"{', '.join(_TOP)}, found {found}"
        )
    return content


def _packed(path: Path, item: dict[str, Any], polygon: Any) -> array[float]:
    try:
        return array("d", polygon)
    except (TypeError, OverflowError) as error:
        raise DataError(
            f"{path}, annotation {item.get('id')}: expected polygons of numbers, found "
            f"{str(polygon)[:40]!r}; correct it"
        ) from error


def _categories(path: Path, items: Sequence[Any]) -> dict[int, str]:
    """Name of each category id."""
    names: dict[int, str] = {}
    for item in _items(path, {"categories": items}, "categories", {"id": int, "name": str}):
        if item["id"] in names:
            raise DataError(f"{path}: two categories have the id {item['id']}; remove one")
        if not item["name"].strip():
            raise DataError(f"{path}: category {item['id']} has no name; give it one or remove it")
        names[item["id"]] = item["name"].strip()
    return names


def _items(
    path: Path, content: dict[str, Any], part: str, needed: Mapping[str, type]
) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(content[part], 1):
        for key, kind in needed.items():
            if not isinstance(item, dict) or not isinstance(item.get(key), kind):
                found = item.get(key) if isinstance(item, dict) else item
                raise DataError(
                    f"{path}, {part}, item {number}: expected {key!r} to be {kind.__name__}, "
                    f"found {found!r}"
                )
        yield item
