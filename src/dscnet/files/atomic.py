"""Atomic file writing, and JSON reading with helpful errors."""

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
    """Write a file atomically: to a temporary name, then move it to ``path``.

    Parent folders are created. If the body raises, the temporary file is removed and an existing
    file at ``path`` is unchanged.

    Args:
        path: Target path.

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
        remedy: What to do about a broken file, for the message.

    Raises:
        DataError: If the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable JSON ({error}); {remedy}") from error
