"""Places of photos as typed: folders, photos, glob patterns and lists in files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from dscnet.types import DataError


def photo_places(places: Iterable[str | Path], lists: Iterable[str | Path] = ()) -> list[Path]:
    """Expand patterns and lists.

    Args:
        places: Folders, photos, glob patterns (``**`` includes subfolders), or ``@FILE`` for a
            list. A path that exists is taken as it is.
        lists: Text files with one such path per line; empty lines are ignored.

    Returns:
        Folders and photos, each once, in the given order; matches of a pattern are sorted.

    Raises:
        DataError: If a pattern matches nothing, or a list cannot be read.
    """
    named = [*places, *(f"@{path}" for path in lists)]
    found = (path for place in named for path in _expanded(str(place)))
    return list(dict.fromkeys(found))


def _expanded(place: str) -> Iterator[Path]:
    if Path(place).exists():
        yield Path(place)
    elif place.startswith("@"):
        for line in _lines(Path(place[1:])):
            yield Path(line)
    elif glob.has_magic(place):
        matches = sorted(glob.glob(place, recursive=True))
        if not matches:
            raise DataError(f"{place}: no file matches this pattern; check the path")
        yield from map(Path, matches)
    else:
        yield Path(place)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"{path}: cannot be read as a list of photos ({error}); give a text file with one path"
            " per line"
        ) from error
    return [line.strip() for line in lines if line.strip()]
