"""Image-level tags and class names as people write them: CSV, JSON, JSON lines, VOC annotations."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from dscnet.data.tag_text import clean_name, foreground, is_background, is_separated, split_tags
from dscnet.types import DataError, check_class_count

TAG_SUFFIXES = (".csv", ".json", ".jsonl")

_CSV_HEADER = ["image_id", "labels"]
# The background as lists of labels with numbers or colours beside the names have it.
_NUMBERED_BACKGROUND = re.compile(r"[\d\W_]*background[\d\W_]*", re.IGNORECASE)


@dataclass(frozen=True)
class TagEntry:
    """The tags of one photo.

    Attributes:
        image_id: The photo's name as written, with or without its file ending.
        names: Clean class names, each once, in the order of the file; empty for a negative photo.
        where: File and line (or entry), for messages.
    """

    image_id: str
    names: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class _Row:
    """One row of a tag file before its labels are split; a list needs no splitting."""

    image_id: str
    labels: str | list[str]
    where: str


def read_tag_file(path: Path, known: Collection[str] = ()) -> list[TagEntry]:
    """Read image-level tags from ``.csv``, ``.json`` or ``.jsonl``.

    CSV has the header ``image_id,labels``. JSON is ``{"id": ["cat", "dog"]}`` or a list of
    ``{"image_id": ..., "labels": ...}``; JSON lines holds one such object a line. In all of them
    labels follow the rule of ``tag_text.split_tags``. A name that another row has between
    separators or in a list is known (so ``traffic light`` alone is one tag).

    Args:
        path: The file.
        known: Class names that may contain spaces, usually those of ``classes.txt``.

    Raises:
        DataError: If the file is missing or does not have this form.
    """
    readers = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _jsonl_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: tags must be a file ending in {', '.join(TAG_SUFFIXES)}")
    rows = reader(path)
    listed = {clean_name(name) for name in known}
    seen = [name for row in rows if is_separated(row.labels) for name in _names(row, listed)]
    names = listed.union(seen)
    return [TagEntry(row.image_id, _names(row, names), row.where) for row in rows]


def read_annotations(folder: Path, *, difficult: bool = True) -> list[TagEntry]:
    """Read the object names of every VOC annotation in a folder, one ``.xml`` a photo.

    Parts of objects do not count, and an object ``background``, in any case, is none.

    Args:
        folder: Searched without its sub-folders.
        difficult: Whether objects marked difficult count. [Reading: they do, as in the tag list
            that the field's code shares.]

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
    """Read foreground class names, one a line; a leading ``background``, in any case, is dropped.

    Raises:
        DataError: If the file is missing or empty, a name is repeated, there are more classes than
            masks have room for, or a blank line lies between names: masks may number the classes by
            the lines of the file.
    """
    lines = "\n".join(map(clean_name, read_text(path).split("\n"))).strip().splitlines()
    if "" in lines:
        blank = lines.index("")
        raise DataError(
            f"{path}: a blank line follows {lines[blank - 1]!r}, and the place of a class in the"
            " list is its label in masks; remove the line, or write the name of its class there"
        )
    return clean_classes(lines, str(path))


def clean_classes(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Drop a leading background name and refuse an empty or ambiguous list of classes.

    Returns:
        Clean names.

    Raises:
        DataError: If no class is left, there are more than masks have room for, or a name is
            repeated or is a misplaced background.
    """
    names = [clean_name(name) for name in names]
    if names and is_background(names[0]):
        names = names[1:]
    if not names:
        raise DataError(f"{where}: names no class; write one class name a line")
    for index, name in enumerate(names):
        if is_background(name):
            raise DataError(f"{where}: {name!r} must come first or not at all; move or remove it")
        if index == 0 and _NUMBERED_BACKGROUND.fullmatch(name):
            raise DataError(
                f"{where}: {name!r} is more than the name of the background; write names alone, one"
                " a line, in the order of their labels"
            )
        if name in names[:index]:
            raise DataError(f"{where}: class {name!r} is named twice; remove one")
    check_class_count(len(names), where)
    return tuple(names)


def ordered_classes(names: Collection[str]) -> list[str]:
    """Put class names that nobody listed in the order of their labels.

    Sorted, capitals first; names that are one text but for a number (``2`` and ``10``, ``c2`` and
    ``c10``) by that number.
    """
    parts = {name: re.split(r"(\d+)", name) for name in names}
    if all(len(part) == 3 for part in parts.values()):
        texts = {(before, after) for before, _, after in parts.values()}
        if len(texts) == 1:
            return sorted(names, key=lambda name: (int(parts[name][1]), name))
    return sorted(names)


def class_indices(entry: TagEntry, classes: Sequence[str]) -> tuple[int, ...]:
    """Give the sorted 0-based foreground indices of an entry's tags.

    Raises:
        DataError: If a tag is no known class; the message names the nearest one.
    """
    for name in entry.names:
        if name not in classes:
            raise DataError(
                f"{entry.where}: {name!r} is not a class{suggestion(name, classes)}; correct the "
                "tag or add it to the class names (separate names that contain spaces by ';')"
            )
    return tuple(sorted(classes.index(name) for name in entry.names))


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Say which choice is nearest to a mistyped word, as the end of a sentence; may be empty."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f", did you mean {by_lower[near[0]]!r}?" if near else ""


def first_few(names: Sequence[str], limit: int = 3) -> str:
    """Name the first items of a list and count the rest: ``"a, b, c and 4 more"``."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        DataError: If the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8") from error


def files_ending(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder by ending, in either case, sorted; hidden ones (``._a.png``) are left out.

    Args:
        folder: Searched without its sub-folders; if it is absent there are no files.
        suffix: With its dot, in lower case.
    """
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() == suffix)
    return sorted(path for path in found if not path.name.startswith("."))


def _names(row: _Row, known: Collection[str]) -> tuple[str, ...]:
    try:
        return split_tags(row.labels, known)
    except ValueError as error:
        raise DataError(f"{row.where}: {error}") from error


def _csv_rows(path: Path) -> list[_Row]:
    # From a stream: without ends of lines a field of several would lose what parts its names.
    lines = csv.reader(io.StringIO(read_text(path)), skipinitialspace=True, strict=True)
    found, start, rows = [], 1, []
    try:
        header = [cell.strip() for cell in next(lines, [])]
        if header != _CSV_HEADER:
            raise DataError(f"{path}, line 1: the header must be {','.join(_CSV_HEADER)!r}")
        for cells in lines:
            found.append((cells, f"{path}, line {lines.line_num}"))
            start = lines.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}: is no CSV ({error}); put quotes around a whole field or remove"
            " them"
        ) from error
    for cells, where in found:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != 2:
            raise DataError(
                f"{where}: expected an image id, one comma and the labels; separate several "
                "labels by spaces, ';' or '|'"
            )
        if not cells[0].strip():
            raise DataError(f"{where}: the image id is missing; add it or remove the line")
        rows.append(_Row(cells[0].strip(), cells[1], where))
    return rows


def _json_rows(path: Path) -> list[_Row]:
    content = _parse_json(read_text(path), str(path))
    if isinstance(content, dict):
        return [_row(key, value, f"{path}, entry {key!r}") for key, value in content.items()]
    if isinstance(content, list):
        return [_object_row(item, f"{path}, item {i}") for i, item in enumerate(content, 1)]
    raise DataError(f"{path}: expected an object of id: labels, or a list of objects")


def _jsonl_rows(path: Path) -> list[_Row]:
    rows = []
    # Other marks than "\\n" that end lines for Python may stand in a JSON text.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            rows.append(_object_row(_parse_json(line, where), where))
    return rows


def _parse_json(text: str, where: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        seen = dict(pairs)
        if len(seen) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{where}: {twice!r} is named twice; merge the two")
        return seen

    try:
        content: object = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error}); repair it") from error
    return content


def _object_row(item: object, where: str) -> _Row:
    if not isinstance(item, dict) or set(item) != set(_CSV_HEADER):
        raise DataError(f"{where}: expected an object with the keys 'image_id' and 'labels'")
    return _row(item["image_id"], item["labels"], where)


def _row(image_id: object, labels: object, where: str) -> _Row:
    if not isinstance(image_id, str) or not image_id.strip():
        raise DataError(f"{where}: the image id must be text, got {image_id!r}")
    labels = "" if labels is None else labels  # as pandas writes a missing value
    if not isinstance(labels, str | list) or not all(isinstance(name, str) for name in labels):
        raise DataError(f"{where}: labels must be text or a list of texts, got {labels!r}")
    return _Row(image_id.strip(), labels, where)
