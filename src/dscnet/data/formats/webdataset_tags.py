"""Tags in members of tar archives: ``.cls``, ``.json`` and ``.txt``."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from dscnet.data.formats.layout import classes_of
from dscnet.data.tag_files import TagEntry, read_text
from dscnet.data.tag_text import clean_name, is_background, is_separated, split_tags
from dscnet.files.archives import open_file
from dscnet.types import DataError

TAG_ENDINGS = ("cls", "json", "txt")
"""Endings of members with tags; the first that a photo has is read."""

_KEYS = ("labels", "label", "tags", "cls")
_BETWEEN = re.compile(r"[\s,;|]+")


def numbered_classes(root: Path) -> tuple[str, ...]:
    """Class of each number: the lines of ``classes.txt``; empty if there is no such file.

    Args:
        root: The folder of the archives.
    """
    classes = classes_of(root)
    if classes is None:
        return ()
    first = read_text(root / "classes.txt").lstrip().splitlines()[0]
    return ("background", *classes) if is_background(first) else classes


def read_member_tags(
    members: Mapping[str, Path], numbered: Sequence[str], known: Collection[str]
) -> list[TagEntry]:
    """Read the tags of photos in archives.

    ``.cls`` contains the number of a class, from 0, or several; ``.json`` a list of names or
    numbers, or an object with one under ``labels``, ``label``, ``tags`` or ``cls``; ``.txt`` names,
    parsed by ``tag_text.split_tags`` like all names. Numbers of classes are names themselves if
    ``numbered`` is empty.

    Args:
        members: Member with the tags by image id.
        numbered: Class of each number; see :func:`numbered_classes`.
        known: Class names that may contain spaces.

    Raises:
        DataError: If a member cannot be read, or a number is that of no class.
    """
    labels = {name: _labels(path, numbered) for name, path in members.items()}
    listed = {clean_name(name) for name in known}
    seen = [
        name
        for image_id, label in labels.items()
        if is_separated(label)
        for name in _names(label, listed, members[image_id])
    ]
    names = listed.union(seen)
    return [
        TagEntry(image_id, _names(label, names, members[image_id]), str(members[image_id]))
        for image_id, label in labels.items()
    ]


def _names(labels: str | list[str], known: Collection[str], path: Path) -> tuple[str, ...]:
    try:
        return split_tags(labels, known)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _labels(path: Path, numbered: Sequence[str]) -> str | list[str]:
    try:
        with open_file(path) as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    if path.suffix.lower() == ".json":
        return _from_json(path, text, numbered)
    words = [word for word in _BETWEEN.split(text) if word]
    if path.suffix.lower() == ".cls" and words and all(map(_is_number, words)):
        return [_class_of(path, int(word), numbered) for word in words]
    return text


def _from_json(path: Path, text: str, numbered: Sequence[str]) -> str | list[str]:
    try:
        labels = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error}); repair it") from error
    if isinstance(labels, dict):
        keys = [key for key in _KEYS if key in labels]
        if len(keys) != 1:
            raise DataError(
                f"{path}: expected tags under one of the keys {', '.join(_KEYS)}, found"
                f" {', '.join(keys or labels) or 'no key'}"
            )
        labels = labels[keys[0]]
    if labels is None or isinstance(labels, str):
        return labels or ""
    items = labels if isinstance(labels, list) else [labels]
    if not all(type(item) in (str, int) for item in items):  # no booleans
        raise DataError(f"{path}: labels must be names or numbers of classes, got {labels!r}")
    return [item if isinstance(item, str) else _class_of(path, item, numbered) for item in items]


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+", word) is not None


def _class_of(path: Path, number: int, numbered: Sequence[str]) -> str:
    if number < 0 or (numbered and number >= len(numbered)):
        last = f"0 to {len(numbered) - 1}, the lines of classes.txt" if numbered else "0, 1, 2, ..."
        raise DataError(f"{path}: {number} is not the number of a class ({last}); correct it")
    return numbered[number] if numbered else str(number)
