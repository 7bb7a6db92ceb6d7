"""Locates the photos of a COCO file, including paths written on other systems."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from dscnet.data.tag_text import written_forms
from dscnet.types import DataError


def photo_id(file_name: str) -> str:
    """Image id: file name without ending, with folders joined by ``__``; empty if there is none.

    Backslashes separate folders like slashes; drives, ``..`` and URL schemes are dropped.
    """
    parts = _parts(file_name)
    return "__".join((*parts[:-1], PurePosixPath(parts[-1]).stem)) if parts else ""


def find_photos(
    json: Path, homes: Sequence[Path], named: Iterable[tuple[str, str]]
) -> list[tuple[str, Path]]:
    """Find photos by file name, else by the end of the path.

    Paths may come from another machine: absolute, with backslashes, or with ``%20`` for a space.
    Then the longest suffix that exists in one of the folders is used, ignoring case.

    Args:
        json: The COCO file, for messages.
        homes: Folders to search, in order of preference.
        named: Image ids and file names.

    Returns:
        Image ids and paths of the photos found.

    Raises:
        DataError: If two names match the same photo.
    """
    cases = _Cases()
    found: list[tuple[str, Path]] = []
    names: dict[Path, str] = {}
    for image_id, name in named:
        path = next(filter(None, (cases.file(h, end) for end in _ends(name) for h in homes)), None)
        if path is None:
            continue
        if path in names:
            raise DataError(
                f"{json}: images {names[path]!r} and {name!r} both match {path}; put each photo"
                f" at its file_name relative to {homes[0]}"
            )
        names[path] = name
        found.append((image_id, path))
    return found


def _parts(file_name: str) -> tuple[str, ...]:
    path = PureWindowsPath(file_name)
    parts = path.parts[1:] if path.anchor else path.parts
    return tuple(part for part in parts if part != ".." and not part.endswith(":"))


def _ends(file_name: str) -> Iterator[str]:
    """The name, then suffixes of its path, longest first."""
    yield file_name
    for parts in dict.fromkeys((_parts(file_name), _parts(unquote(file_name)))):
        for start in range(len(parts)):
            yield "/".join(parts[start:])


class _Cases:
    """Files by name; if there is none, by case-insensitive name if that is unique."""

    def __init__(self) -> None:
        self.names: dict[str, dict[str, list[str]]] = {}

    def file(self, home: Path, name: str) -> Path | None:
        for form in written_forms(name):
            path = home / form
            if os.path.isfile(
                path
            ):  # also False for invalid paths, such as names that are too long
                return path
        folder, last = os.path.split(home / name)
        alike = self._names(folder).get(last.casefold(), [])
        return Path(folder, alike[0]) if len(alike) == 1 else None

    def _names(self, folder: str) -> dict[str, list[str]]:
        if folder not in self.names:
            found: dict[str, list[str]] = {}
            if os.path.isdir(folder):
                for entry in os.scandir(folder):
                    if entry.is_file():
                        found.setdefault(entry.name.casefold(), []).append(entry.name)
            self.names[folder] = found
        return self.names[folder]
