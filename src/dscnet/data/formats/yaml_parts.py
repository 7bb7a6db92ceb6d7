"""Input format: a YAML file that names the parts of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from dscnet.data.formats.layout import Format, Layout, photos_by_id, photos_in, pngs_in
from dscnet.data.tag_files import (
    clean_classes,
    read_classes,
    read_tag_file,
    read_text,
    suggestion,
)
from dscnet.data.tag_text import clean_name
from dscnet.types import DataError

YAML_KEYS = ("name", "images", "tags", "classes", "masks", "saliency", "splits")


@dataclass(frozen=True)
class YamlParts:
    """Content of a YAML file.

    Attributes:
        path: The file.
        values: Its values by key; known keys only.
    """

    path: Path
    values: dict[str, Any]

    def place(self, key: str, value: object) -> Path:
        """The file or folder that a value names, relative to the YAML file.

        Raises:
            DataError: If it is not a path or does not exist.
        """
        if not isinstance(value, str):
            raise DataError(f"{self.path}: {key} must be a path, got {value!r}")
        found = self.path.parent / value
        if not found.exists():
            raise DataError(f"{self.path}: {key} is {value!r}, but {found} does not exist")
        return found

    def classes(self) -> tuple[str, ...] | None:
        """Foreground class names, listed in the YAML file or in another; None if in neither.

        Without the key, a ``classes.txt`` next to the file is used, as for other data sets.

        Raises:
            DataError: If an item is not a name, or the class list is invalid.
        """
        names = self.values.get("classes")
        beside = self.path.parent / "classes.txt"
        if names is None:
            return read_classes(beside) if beside.exists() else None
        if not isinstance(names, list):
            return read_classes(self.place("classes", names))
        for number, name in enumerate(names, 1):
            if type(name) not in (str, int) or not clean_name(str(name)):  # no booleans
                raise DataError(
                    f"{self.path}: classes, item {number} is {name!r}, but the position of a class"
                    " in the list is its label in masks; write its name in quotes or remove the"
                    " item"
                )
        return clean_classes([str(name) for name in names], str(self.path))


def read_parts(path: Path) -> YamlParts:
    """Read a YAML file of ``key: value`` lines.

    Raises:
        DataError: If it is unreadable, has an unknown key, or lacks ``images`` or ``tags``.
    """
    try:
        parts = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML ({error}); repair it") from error
    if not isinstance(parts, dict):
        raise DataError(f"{path}: expected 'key: value' lines with {', '.join(YAML_KEYS)}")
    for key in parts:
        if key not in YAML_KEYS:
            raise DataError(
                f"{path}: unknown key {key!r}{suggestion(str(key), YAML_KEYS)}; "
                f"the keys are {', '.join(YAML_KEYS)}"
            )
    for key in ("images", "tags"):
        if key not in parts:
            raise DataError(f"{path}: the key {key!r} is missing; add '{key}: PATH'")
    return YamlParts(path, parts)


def _recognises(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _read(path: Path) -> Layout:
    parts = read_parts(path)
    values, part = parts.values, parts.place
    splits = values.get("splits", {})
    if not isinstance(splits, dict):
        raise DataError(f"{path}: splits must map names to files, got {splits!r}")
    named = values["images"] if isinstance(values["images"], list) else [values["images"]]
    folders = tuple(part("images", name) for name in named)
    photos = (item for folder in folders for item in photos_in(folder).items())
    maps = {key: part(key, values[key]) for key in ("masks", "saliency") if key in values}
    return Layout(
        name=str(values.get("name", path.stem)),
        photos=photos_by_id(photos),
        read_tags=partial(read_tag_file, part("tags", values["tags"])),
        classes=parts.classes(),
        masks=pngs_in(maps["masks"]) if "masks" in maps else {},
        saliency=pngs_in(maps["saliency"]) if "saliency" in maps else {},
        splits={str(name): part(f"splits.{name}", file) for name, file in splits.items()},
        photo_folders=folders,
        map_folders=tuple(maps.values()),
    )


FORMAT = Format(
    "yaml",
    _recognises,
    _read,
    looked_for="a YAML file",
    is_file=True,
    advice=lambda root: f"or give a YAML file that names the parts ({', '.join(YAML_KEYS)})",
    split_home=lambda path: f"the key 'splits' of {path}",
)
