"""Readers of image-level tags and class names: CSV, JSON, JSON Lines, VOC annotations."""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from dscnet.data.tag_table import TagEntry as TagEntry
from dscnet.data.tag_table import TagTable
from dscnet.data.tag_text import (
    TagParser,
    clean_name,
    foreground,
    is_background,
    says_none,
)
from dscnet.types import DataError, check_class_count

TAG_SUFFIXES = (".csv", ".json", ".jsonl")

_CSV_HEADER = ["image_id", "labels"]
# The background in lists with numbers or colours next to the names.
_NUMBERED_BACKGROUND = re.compile(r"[\d\W_]*background[\d\W_]*", re.IGNORECASE)


_Row = tuple[str, str | list[str], int | str]
"""Image id, labels still as text or as a list, and the row's place in the file."""


class _Reader(NamedTuple):
    """Reader of the rows of one kind of tag file.

    Attributes:
        rows: Yields the rows of a file.
        where: Message on a file and the place of a row, with two slots.
        places: Type code of the places in an array; None for text.
    """

    rows: Callable[[Path], Iterator[_Row]]
    where: str
    places: str | None = "L"


def read_tag_file(path: Path, known: Collection[str] = ()) -> TagTable:
    """Read image-level tags from ``.csv``, ``.json`` or ``.jsonl``.

    CSV has the header ``image_id,labels``. JSON is ``{"id": ["cat", "dog"]}`` or a list of
    ``{"image_id": ..., "labels": ...}``; JSON Lines has one such object per line. Labels are
    parsed by ``tag_text.split_tags``. Names that occur between separators or in a list in any row
    are known (so ``traffic light`` alone is one tag).

    Args:
        path: The file.
        known: Class names that may contain spaces, usually those of ``classes.txt``.

    Raises:
        DataError: If the file is missing or malformed.
    """
    if path.suffix.lower() not in TAG_SUFFIXES:
        raise DataError(f"{path}: tags must be a file ending in {', '.join(TAG_SUFFIXES)}")
    listed = {clean_name(name) for name in known}
    table, delimited = _read_rows(path, listed)
    # Knowing a single word changes nothing, unless words like it are dropped.
    if all(name.isalnum() and not says_none(name) for name in delimited - listed):
        return table
    return _read_rows(path, listed | delimited)[0]


def _read_rows(path: Path, known: Collection[str]) -> tuple[TagTable, set[str]]:
    """The rows, and the names that occur between separators or in a list."""
    reader = _READERS[path.suffix.lower()]
    where = partial(reader.where.format, path)
    table = TagTable(where, array(reader.places) if reader.places else [])
    parse = TagParser(known)
    for image_id, labels, place in reader.rows(path):
        try:
            table.add(image_id, parse(labels), place)
        except ValueError as error:
            raise DataError(f"{where(place)}: {error}") from error
    return table, parse.delimited


def read_annotations(folder: Path, *, difficult: bool = True) -> list[TagEntry]:
    """Read the object names of all VOC annotations in a folder, one ``.xml`` per photo.

    Parts of objects are ignored, and so is an object ``background`` in any case.

    Args:
        folder: Searched without subfolders.
        difficult: Whether objects marked difficult count. [Reading: they do, as in the tag list
            used by published code.]

    Raises:
        DataError: If a file is not well-formed XML or an object has no name.
    """
    entries = []
    for path in files_ending(folder, ".xml"):
        try:
            objects = ElementTree.parse(path).getroot().findall("object")
        except (ElementTree.ParseError, OSError) as error:
            raise DataError(f"{path}: not well-formed XML ({error}); repair it") from error
        if not difficult:
            objects = [
                item for item in objects if (item.findtext("difficult") or "0").strip() == "0"
            ]
        names = [item.findtext("name") or "" for item in objects]
        if not all(map(clean_name, names)):
            raise DataError(f"{path}: an object has no name; add one or remove the object")
        entries.append(TagEntry(path.stem, foreground(names), str(path)))
    return entries


def read_classes(path: Path) -> tuple[str, ...]:
    """Read foreground class names, one per line; a leading ``background`` in any case is dropped.

    Raises:
        DataError: If the file is missing or empty, a name is repeated, there are too many classes
            for masks, or there is a blank line between names, as line numbers are labels.
    """
    lines = "\n".join(map(clean_name, read_text(path).split("\n"))).strip().splitlines()
    if "" in lines:
        blank = lines.index("")
        raise DataError(
            f"{path}: a blank line follows {lines[blank - 1]!r}, but the position of a class in the"
            " list is its label in masks; remove the line, or insert the name of its class"
        )
    return clean_classes(lines, str(path))


def clean_classes(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Drop a leading background name and reject an empty or ambiguous class list.

    Returns:
        Cleaned names.

    Raises:
        DataError: If no class is left, there are too many for masks, or a name is repeated or is a
            misplaced background.
    """
    names = [clean_name(name) for name in names]
    if names and is_background(names[0]):
        names = names[1:]
    if not names:
        raise DataError(f"{where}: lists no class; write one class name per line")
    for index, name in enumerate(names):
        if is_background(name):
            raise DataError(f"{where}: {name!r} must come first or not at all; move or remove it")
        if index == 0 and _NUMBERED_BACKGROUND.fullmatch(name):
            raise DataError(
                f"{where}: {name!r} is more than the name of the background; write only names, one"
                " per line, in the order of their labels"
            )
        if name in names[:index]:
            raise DataError(f"{where}: class {name!r} is listed twice; remove one")
    check_class_count(len(names), where)
    return tuple(names)


def ordered_classes(names: Collection[str]) -> list[str]:
    """Sort class names of a data set without a class list into label order.

    Sorted, capitals first; names that differ only in a number (``2`` and ``10``, ``c2`` and
    ``c10``) by that number.
    """
    parts = {name: re.split(r"(\d+)", name) for name in names}
    if all(len(part) == 3 for part in parts.values()):
        texts = {(before, after) for before, _, after in parts.values()}
        if len(texts) == 1:
            return sorted(names, key=lambda name: (int(parts[name][1]), name))
    return sorted(names)


def class_indices(entry: TagEntry, classes: Sequence[str]) -> tuple[int, ...]:
    """Sorted 0-based foreground indices of an entry's tags.

    Raises:
        DataError: If a tag is not a known class; the message suggests the closest one.
    """
    for name in entry.names:
        if name not in classes:
            raise DataError(
                f"{entry.where}: {name!r} is not a class{suggestion(name, classes)}; correct the "
                "tag or add it to the class names (separate names that contain spaces by ';')"
            )
    return tuple(sorted(classes.index(name) for name in entry.names))


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Suggest the closest choice for a mistyped word, as the end of a sentence; may be empty."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f", did you mean {by_lower[near[0]]!r}?" if near else ""


def first_few(names: Sequence[str], limit: int = 3) -> str:
    """List the first items and count the rest: ``"a, b, c and 4 more"``."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        DataError: If the file is missing, unreadable or not UTF-8.
    """
    with _readable(path):
        return path.read_text(encoding="utf-8-sig")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8") from error


def files_ending(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder with an ending, ignoring case, sorted, without hidden ones (``._a.png``).

    Args:
        folder: Searched without subfolders; may be missing.
        suffix: With its dot, in lower case.
    """
    if not folder.is_dir():
        return []
    # Names first: a folder of photos may have a million.
    return [
        folder / name
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(suffix) and not name.startswith(".")
    ]


def _csv_rows(path: Path) -> Iterator[_Row]:
    with _readable(path), path.open(encoding="utf-8-sig") as file:
        # From a stream: splitting lines first would drop line breaks within quoted fields.
        lines = csv.reader(file, skipinitialspace=True, strict=True)
        start = 1
        try:
            header = [cell.strip() for cell in next(lines, [])]
            if header != _CSV_HEADER:
                raise DataError(f"{path}, line 1: the header must be {','.join(_CSV_HEADER)!r}")
            for cells in lines:
                start = lines.line_num + 1
                if len(cells) == 2 and (image_id := cells[0].strip()):
                    yield image_id, cells[1], start - 1
                elif any(cell.strip() for cell in cells):
                    raise DataError(f"{path}, line {start - 1}: {_wrong_cells(cells)}")
        except csv.Error as error:
            raise DataError(
                f"{path}, line {start}: invalid CSV ({error}); put quotes around a whole field or"
                " remove them"
            ) from error


def _wrong_cells(cells: Sequence[str]) -> str:
    if len(cells) == 2:
        return "the image id is missing; add it or remove the line"
    return (
        "expected an image id, one comma and the labels; separate several labels by spaces, ';' or"
        " '|'"
    )


def _json_rows(path: Path) -> Iterator[_Row]:
    content = _parse_json(read_text(path), str(path))
    if isinstance(content, dict):
        for key, value in content.items():
            place = f"entry {key!r}"
            yield _row(key, value, f"{path}, {place}", place)
    elif isinstance(content, list):
        for number, item in enumerate(content, 1):
            place = f"item {number}"
            yield _object_row(item, f"{path}, {place}", place)
    else:
        raise DataError(f"{path}: expected an object of id: labels, or a list of objects")


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    # Not splitlines(): other line separators may occur within JSON text.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _object_row(_parse_json(line, where), where, number)


def _parse_json(text: str, where: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        seen = dict(pairs)
        if len(seen) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{where}: {twice!r} occurs twice; merge the two")
        return seen

    try:
        content: object = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error}); repair it") from error
    return content


def _object_row(item: object, where: str, place: int | str) -> _Row:
    if not isinstance(item, dict) or set(item) != set(_CSV_HEADER):
        raise DataError(f"{where}: expected an object with the keys 'image_id' and 'labels'")
    return _row(item["image_id"], item["labels"], where, place)


def _row(image_id: object, labels: object, where: str, place: int | str) -> _Row:
    if not isinstance(image_id, str) or not image_id.strip():
        raise DataError(f"{where}: the image id must be text, got {image_id!r}")
    labels = "" if labels is None else labels  # as pandas writes a missing value
    if not isinstance(labels, str | list) or not all(isinstance(name, str) for name in labels):
        raise DataError(f"{where}: labels must be text or a list of texts, got {labels!r}")
    return image_id.strip(), labels, place


_READERS = {
    ".csv": _Reader(_csv_rows, "{}, line {}"),
    ".json": _Reader(_json_rows, "{}, {}", None),
    ".jsonl": _Reader(_jsonl_rows, "{}, line {}"),
}
