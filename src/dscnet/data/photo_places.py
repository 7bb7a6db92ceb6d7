"""Places of photos as typed: folders, photos, glob patterns and lists in files."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from dscnet.types import DataError


def photo_places(places: Iterable[str | Path], lists: Iterable[str | Path] = ()) -> list[Path]:
    """Expand patterns and lists.

    Args:
        places: Folders, photos, glob patterns (``**`` includes subfolders), or ``@FILE`` for a
            list. A path that exists is taken as it is.
        lists: Text files with one folder, photo or pattern per line; empty lines are ignored.

    Returns:
        Folders and photos, each once, in the given order; matches of a pattern are sorted.

    Raises:
        DataError: If a pattern matches nothing, or a list cannot be read.
    """
    named = [*map(str, places), *(f"@{path}" for path in lists)]
    found = (path for place in named for line in _lines(place) for path in _matches(line))
    return list(dict.fromkeys(found))


def _matches(place: str) -> list[Path]:
    """Matches of a pattern; anything else is a path."""
    if Path(place).exists() or not glob.has_magic(place):
        return [Path(place)]
    matches = sorted(glob.glob(place, recursive=True))
    if not matches:
        raise DataError(f"{place}: no file matches this pattern; check the path")
    return [Path(match) for match in matches]


def _lines(place: str) -> list[str]:
    """Lines of a list; anything else is a line of its own."""
    if Path(place).exists() or not place.startswith("@"):
        return [place]
    try:
        lines = Path(place[1:]).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"{place[1:]}: cannot be read as a list of photos ({error}); give a text file with one"
            " path per line"
        ) from error
    return [line.strip() for line in lines if line.strip()]
