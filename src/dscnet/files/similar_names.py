"""Hints for mistyped words and paths: the nearest one that exists."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint to append to a message.

    Args:
        word: What was typed.
        known: The words that are right.

    Returns:
        `` (did you mean X?)``, or "" if none is similar; case does not count.
    """
    by_lower = {name.lower(): name for name in known}
    nearest = get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[nearest[0]]}?)" if nearest else ""


def similar_path(path: str | Path) -> str:
    """The hint for a path that does not exist: the nearest name in the deepest existing folder."""
    missing = Path(path)
    while not missing.parent.exists():
        missing = missing.parent
    try:
        names = os.listdir(missing.parent)
    except OSError:
        return ""
    return did_you_mean(missing.name, names)
