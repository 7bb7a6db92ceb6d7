"""Files that appear whole or not at all, and JSON that is named when it cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dscnet.types import DataError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing under a temporary name beside ``path``, and move it there at the end.

    Folders that lead to ``path`` are made. If the body raises, nothing is left behind and a file
    that was at ``path`` before is untouched.

    Args:
        path: Where the finished file shall lie.

    Yields:
        The open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        remedy: What to do about a broken one, for the message.

    Raises:
        DataError: If the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is no readable JSON ({error}); {remedy}") from error
