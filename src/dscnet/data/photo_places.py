"""Places of photos as typed: folders, photos, glob patterns and lists in files."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from dscnet.types import DataError

# Innermost braces with a range of numbers or a list.
_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<items>[^{}]*,[^{}]*))\}")


def photo_places(places: Iterable[str | Path], lists: Iterable[str | Path] = ()) -> list[Path]:
    """Expand patterns and lists.

    Args:
        places: Folders, photos, archives, patterns (``*``, ``?``, ``[]``; ``**`` includes
            subfolders; ``{a,b}``, ``{000..009}``), or ``@FILE`` for a list. A path that exists is
            taken as it is.
        lists: Text files with one folder, photo or pattern per line; empty lines are ignored.

    Returns:
        Folders and photos, each once, in the given order; matches of a pattern are sorted.

    Raises:
        DataError: If a pattern matches nothing, or a list cannot be read.
    """
    named = [*map(str, places), *(f"@{path}" for path in lists)]
    found = (path for place in named for line in _lines(place) for path in matches(line))
    return list(dict.fromkeys(found))


def matches(place: str) -> list[Path]:
    """Files and folders that match a pattern; anything else is a path.

    Raises:
        DataError: If a pattern, or one of those that braces expand to, matches nothing.
    """
    if Path(place).exists():
        return [Path(place)]
    return [path for pattern in expand_braces(place) for path in _glob(pattern)]


def is_there(place: str | Path) -> bool:
    """Whether a path exists, or a pattern matches."""
    try:
        return all(path.exists() for path in matches(str(place)))
    except DataError:
        return False


def expand_braces(pattern: str) -> list[str]:
    """Expand braces as a shell does: ``{a,b}`` to ``a`` and ``b``, ``{08..10}`` to 08, 09, 10."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    if found["first"]:
        first, last, digits = int(found["first"]), int(found["last"]), len(found["first"])
        items = [str(number).zfill(digits) for number in range(first, last + 1)]
    else:
        items = found["items"].split(",")
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [one for item in items for one in expand_braces(head + item + tail)]


def _glob(pattern: str) -> list[Path]:
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [Path(pattern)]
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise DataError(f"{pattern}: no file matches this pattern; check the path")
    return [Path(match) for match in found]


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
