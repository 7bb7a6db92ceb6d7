"""Where the photos of a COCO file lie, however other systems write their paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from dscnet.data.tag_text import written_forms
from dscnet.types import DataError


def photo_id(file_name: str) -> str:
    """The file's name without ending, folders before it joined by ``__``; empty if it has none.

    Backslashes part folders as slashes do; drives, ``..`` and the scheme of a URL are left out.
    """
    parts = _parts(file_name)
    return "__".join((*parts[:-1], PurePosixPath(parts[-1]).stem)) if parts else ""


def find_photos(
    json: Path, homes: Sequence[Path], named: Iterable[tuple[str, str]]
) -> list[tuple[str, Path]]:
    """Find photos as their names say, else by what their paths end in.

    A path may come from another machine: with backslashes, absolute, or with ``%20`` for a space.
    Then the longest end of it counts that leads from a home to a file, be its case another.

    Args:
        json: The file that names them, for messages.
        homes: Folders where they may lie, the first goes first.
        named: Image ids and names of files.

    Returns:
        Image ids and photos, as far as there are any.

    Raises:
        DataError: If two names lead to one photo.
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
                f"{json}: images {names[path]!r} and {name!r} both lead to {path}; put each photo"
                f" where its file_name says, from {homes[0]}"
            )
        names[path] = name
        found.append((image_id, path))
    return found


def _parts(file_name: str) -> tuple[str, ...]:
    path = PureWindowsPath(file_name)
    parts = path.parts[1:] if path.anchor else path.parts
    return tuple(part for part in parts if part != ".." and not part.endswith(":"))


def _ends(file_name: str) -> Iterator[str]:
    """The name, then its path without what comes first, longest end first."""
    yield file_name
    for parts in dict.fromkeys((_parts(file_name), _parts(unquote(file_name)))):
        for start in range(len(parts)):
            yield "/".join(parts[start:])


class _Cases:
    """Files by name; if none has it, by name without regard to case, where one alone has it."""

    def __init__(self) -> None:
        self.names: dict[str, dict[str, list[str]]] = {}

    def file(self, home: Path, name: str) -> Path | None:
        for form in written_forms(name):
            path = home / form
            if os.path.isfile(path):  # False too for what is no path, such as too long a name
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
