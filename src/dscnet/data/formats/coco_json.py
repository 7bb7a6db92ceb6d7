"""Reader of COCO instances files: categories, photos and annotations."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from dscnet.data.formats import coco_values as values
from dscnet.data.formats.coco_crowds import CrowdFlags, crowd_notes
from dscnet.data.formats.coco_files import photo_id
from dscnet.data.tag_files import TagEntry, class_indices, clean_classes, read_text
from dscnet.data.tag_text import clean_name, foreground, is_background
from dscnet.types import DataError

Segmentation: TypeAlias = "list[array[float]] | dict[str, Any]"
"""Polygons ``x, y, x, y, ...`` in pixels, or a run-length encoding with ``counts`` and ``size``."""

_TOP = ("images", "annotations", "categories")
_KEPT = frozenset(
    {*_TOP, "id", "name", "file_name", "height", "width", "image_id", "category_id", "iscrowd"}
)
_SHAPE = frozenset({"segmentation", "counts", "size"})
_KINDS: dict[Callable[[Any], Any], str] = {
    values.whole: "a whole number",
    values.key: "a number or text",
    values.text: "text",
}


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotation.

    Attributes:
        class_index: 0-based foreground class, its place in the file's ``classes``.
        crowd: Whether it is a crowd instead of one object; False if the file's flags do not
            indicate crowds.
        segmentation: Its outline, if requested.
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
        image_id: File name without ending, with subfolders joined by ``__``; not COCO's number. See
            ``coco_files.photo_id``.
        file_name: Path in the JSON.
        size: Height and width in the JSON; None if missing or not positive integers.
        where: File and photo, for messages.
        instances: Its annotations.
    """

    image_id: str
    file_name: str
    size: tuple[int, int] | None
    where: str
    instances: list[Instance] = field(default_factory=list)


@dataclass(frozen=True)
class CocoFile:
    """Content of an instances file; photos need not exist.

    Attributes:
        path: The file.
        classes: Foreground class names, as given, else by ascending category id. COCO's own ids
            have gaps: its 80 categories are numbered up to 90.
        photos: In the order of the file.
        notes: Notes on its crowds for the user.
    """

    path: Path
    classes: tuple[str, ...]
    photos: tuple[CocoPhoto, ...]
    notes: tuple[str, ...] = ()

    def only_crowds(self) -> dict[str, Instance]:
        """One crowd for each class that has only crowds."""
        crowds: dict[int, Instance] = {}
        objects: set[int] = set()
        for instance in (x for photo in self.photos for x in photo.instances):
            if instance.crowd:
                crowds.setdefault(instance.class_index, instance)
            else:
                objects.add(instance.class_index)
        return {self.classes[i]: crowds[i] for i in sorted(crowds) if i not in objects}

    def tags(self) -> list[TagEntry]:
        """Tags of all photos, crowds included; none for negatives."""
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
        path: The JSON file; COCO's largest has 330 MB.
        outlines: Keep the segmentations, with packed polygons; otherwise only tags are read.
        classes: Foreground class names in label order; other categories must have no annotations.
            None = the categories without background.

    Raises:
        DataError: If the file is unreadable or not an instances file, an id is not unique, there
            are too many classes for masks, or an annotation refers to an unknown photo, category or
            class.
    """
    content = _parse(path, _KEPT | _SHAPE if outlines else _KEPT)
    names = _categories(path, content)
    if classes is None:
        ordered = [names[key] for key in sorted(names) if not is_background(names[key])]
        classes = clean_classes(ordered, f"{path}, categories")
    photos, flags = _photos(path, content), CrowdFlags()
    needed = {"image_id": values.key, "category_id": values.whole}
    indices: dict[int, tuple[int, ...]] = {}
    for number, item in enumerate(_items(path, content, "annotations", needed), 1):
        where = f"{path}, annotation {item.get('id', f'number {number}')}"
        if item["image_id"] not in photos:
            raise DataError(
                f"{where}: image_id {item['image_id']} is not among the {len(photos)} images; add "
                "the image to 'images' or remove the annotation"
            )
        if item["category_id"] not in names:
            raise DataError(
                f"{where}: category_id {item['category_id']} is not among {sorted(names)}; "
                "correct it or add the category"
            )
        crowd = values.flag(item.get("iscrowd"))
        if crowd is None:
            raise DataError(f"{where}: expected iscrowd to be 0 or 1, found {item['iscrowd']!r}")
        if item["category_id"] not in indices:
            tag = TagEntry("", foreground([names[item["category_id"]]]), where)
            indices[item["category_id"]] = class_indices(tag, classes)
        for class_index in indices[item["category_id"]]:
            flags.add(flagged=crowd, pixels="pixels" in item, attributes="attributes" in item)
            photos[item["image_id"]].instances.append(
                Instance(class_index, crowd, item.get("segmentation"), where)
            )
    if flags.unmeant:
        for photo in photos.values():
            photo.instances[:] = [replace(item, crowd=False) for item in photo.instances]
    instances = [instance for photo in photos.values() for instance in photo.instances]
    notes = crowd_notes(
        flags,
        [classes[item.class_index] for item in instances if item.crowd],
        {classes[item.class_index] for item in instances if not item.crowd},
    )
    return CocoFile(path, tuple(classes), tuple(photos.values()), tuple(notes))


def _photos(path: Path, content: dict[str, Any]) -> dict[int | str, CocoPhoto]:
    """Photos by the file's own ids, still without annotations."""
    photos: dict[int | str, CocoPhoto] = {}
    for item in _items(path, content, "images", {"id": values.key, "file_name": values.text}):
        if item["id"] in photos:
            raise DataError(f"{path}: two images have the id {item['id']}; remove one")
        where = f"{path}, image {item['file_name']!r}"
        if not (image_id := photo_id(item["file_name"])):
            raise DataError(f"{where}: has no file name; correct file_name")
        photos[item["id"]] = CocoPhoto(image_id, item["file_name"], _size(item), where)
    return photos


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    height, width = values.whole(image.get("height")), values.whole(image.get("width"))
    if height is None or width is None:
        return None
    return (height, width) if min(height, width) > 0 else None


def _parse(path: Path, kept: frozenset[str]) -> dict[str, Any]:
    """Parse the JSON, dropping other keys while parsing because it is large."""

    def lighter(item: dict[str, Any]) -> dict[str, Any]:
        small = {key: value for key, value in item.items() if key in kept}
        # Markers for `CrowdFlags`, instead of the content.
        if isinstance(item.get("segmentation"), dict):
            small["pixels"] = True
        if "attributes" in item:
            small["attributes"] = True
        if isinstance(outline := small.get("segmentation"), list):
            try:
                small["segmentation"] = values.polygons(outline)
            except ValueError as error:
                raise DataError(
                    f"{path}, annotation {item.get('id')}: {error}; correct it"
                ) from error
        return small

    try:
        content = json.loads(read_text(path), object_hook=lighter)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error}); repair or download it again") from error
    found = sorted(content) if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in _TOP):
        raise DataError(
            f"{path}: not a COCO instances file: expected an object with the lists "
            f"{', '.join(_TOP)}, found {found}"
        )
    return content


def _categories(path: Path, content: dict[str, Any]) -> dict[int, str]:
    """Name of each category id."""
    names: dict[int, str] = {}
    for item in _items(path, content, "categories", {"id": values.whole}):
        if item["id"] in names:
            raise DataError(f"{path}: two categories have the id {item['id']}; remove one")
        names[item["id"]] = clean_name(values.text(item.get("name")) or "")
        if not names[item["id"]]:
            raise DataError(
                f"{path}: category {item['id']} has no name, found {item.get('name')!r}; give it"
                " one as text or remove it"
            )
    return names


def _items(
    path: Path, content: dict[str, Any], part: str, needed: Mapping[str, Callable[[Any], Any]]
) -> Iterator[dict[str, Any]]:
    """Items of a section, with the required keys parsed by the given functions."""
    for number, item in enumerate(content[part], 1):
        for key, read in needed.items():
            found = item.get(key) if isinstance(item, dict) else item
            value = read(found) if isinstance(item, dict) else None
            if value is None:
                raise DataError(
                    f"{path}, {part}, item {number}: expected {key!r} to be {_KINDS[read]}, "
                    f"found {found!r}"
                )
            item[key] = value
        yield item
