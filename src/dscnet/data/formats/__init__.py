"""The input formats of data sets: each is a file that turns a path into a ``Layout``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dscnet.data.formats import class_folders, coco, images_folder, voc, webdataset, yaml_parts
from dscnet.data.formats.layout import (
    IMAGE_SUFFIXES,
    MAP_FOLDERS,
    Format,
    Layout,
    is_photo,
    join_id,
    listed_ids,
    match_id,
    photos_by_id,
    photos_in,
    pngs_in,
    same_id,
    split_files,
)
from dscnet.data.formats.voc import VOC_CLASSES
from dscnet.files.similar_names import similar_path
from dscnet.plugins import load_plugins
from dscnet.types import DataError

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAP_FOLDERS",
    "VOC_CLASSES",
    "Format",
    "Layout",
    "find_format",
    "find_layout",
    "is_photo",
    "join_id",
    "listed_ids",
    "match_id",
    "photos_by_id",
    "photos_in",
    "pngs_in",
    "register_format",
    "same_id",
    "split_files",
    "split_home",
]

FORMATS: tuple[Format, ...] = (
    voc.FORMAT,
    images_folder.FORMAT,
    class_folders.FORMAT,
    coco.FORMAT,
    webdataset.FORMAT,
    yaml_parts.FORMAT,
)
"""The built-in formats, in the order in which they are tried."""

_registered: list[Format] = []


def register_format(format: Format) -> None:
    """Add a format that ``open_dataset`` and the command line recognise from then on.

    Args:
        format: It is tried before the built-in formats, after those registered earlier.

    Raises:
        ValueError: If its name is taken.
    """
    names = [known.name for known in (*_registered, *FORMATS)]
    if format.name in names:
        raise ValueError(f"name must be new, got {format.name!r}; taken: {', '.join(names)}")
    _registered.append(format)


def find_format(path: Path) -> Format:
    """Recognise the format of a data set.

    Args:
        path: A folder, a file such as a COCO instances file, or a pattern of archives.

    Raises:
        DataError: If no format fits; the message says what was looked for.
        ValueError: If a plugin cannot be imported.
    """
    load_plugins()
    # Plugins first: `images/`, or any subfolder with photos, is enough for a built-in format to
    # claim a folder, so more specific ones would never be reached.
    formats = (*_registered, *FORMATS)
    for format in formats:
        given = path.is_file() if format.is_file else path.is_dir()
        if (given or format.is_file is None) and format.recognises(path):
            return format
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: no such file or folder{similar_path(path)}; check the path")
    raise DataError(_not_a_data_set(path, formats) if path.is_file() else _unknown(path, formats))


def find_layout(path: Path) -> Layout:
    """Recognise a data set's format and read its layout.

    Args:
        path: A folder, a COCO instances file, a YAML file that names the parts, or anything that a
            registered format reads.

    Raises:
        DataError: If no format fits, or a part is missing or invalid.
        ValueError: If a plugin cannot be imported.
    """
    format = find_format(path)
    layout = format.read(path)
    if format in _registered:
        note = f"read by the format {format.name!r}, which a plugin registered"
        layout = replace(layout, notes=(*layout.notes, note))
    return layout


def split_home(path: Path) -> str:
    """Where the split lists of a data set belong, for messages.

    Raises:
        DataError: If no format fits.
    """
    return find_format(path).split_home(path)


def _unknown(path: Path, formats: tuple[Format, ...]) -> str:
    *parts, last = (f"for {format.looked_for}" for format in formats if not format.is_file)
    advice = "; ".join(filter(None, (format.advice(path) for format in formats)))
    return f"{path}: no known layout. Looked {', '.join(parts)}, and {last}; {advice}"


def _not_a_data_set(path: Path, formats: tuple[Format, ...]) -> str:
    *kinds, last = (format.given_as or format.looked_for for format in formats)
    return f"{path}: not a data set; give {', '.join(kinds)} or {last}"
