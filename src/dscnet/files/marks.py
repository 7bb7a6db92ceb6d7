"""Fingerprints of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from dscnet.files.archives import modified_ns, open_file

_END = 4096  # bytes
_UNCOMPRESSED = (".bmp", ".tif", ".tiff", ".npy", ".npz")


def file_mark(path: Path) -> list[Any]:
    """Fingerprint of a file's content, the same for copies.

    Size and hash of both ends: if the content of a compressed file changes, so does its end, and
    the EXIF orientation is at the start. For uncompressed files the modification time is added.
    """
    with open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        ends = file.read(_END)
        file.seek(max(0, size - _END))
        ends += file.read()
    mark = [size, hashlib.sha256(ends).hexdigest()[:16]]
    return [*mark, modified_ns(path)] if path.suffix.lower() in _UNCOMPRESSED else mark
