"""YAML files that name the parts of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dscnet.data.tag_files import clean_classes, read_classes, read_text, suggestion
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
