"""Downloads (resumable), verifies and unpacks archives of data sets."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from dscnet.files.atomic import whole_file
from dscnet.types import DataError, DscnetError

log = logging.getLogger("dscnet")

Read = TypeVar("Read")

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
_TIMEOUT = 60
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL = 206
_NO_HEADER = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        name: File name.
        url: Official URL.
        md5: Published checksum.
    """

    name: str
    url: str
    md5: str


class Incomplete(DataError):
    """Files of a published archive are missing.

    Attributes:
        archive: The archive; None if it cannot be downloaded.
    """

    def __init__(self, message: str, archive: Archive | None) -> None:
        super().__init__(message)
        self.archive = archive


def where_to_get(archive: Archive, folder: Path) -> str:
    """How to get the content of an archive into a folder, for messages."""
    path = folder / archive.name
    if path.exists():
        return f"{path} exists: unpack it, or use --download"
    return f"download and unpack {archive.name} from {archive.url}, or use --download"


def until_complete(read: Callable[[], Read], provide_again: Callable[[Archive], None]) -> Read:
    """Read the content of archives; unpack incomplete ones again, each at most once.

    Args:
        read: Reads everything, and raises `Incomplete` if files are missing.
        provide_again: Downloads and unpacks an archive.

    Returns:
        The result of ``read``.

    Raises:
        Incomplete: If files are still missing, or cannot be downloaded.
    """
    unpacked: set[Archive] = set()
    while True:
        try:
            return read()
        except Incomplete as error:
            if error.archive is None or error.archive in unpacked:
                raise
            log.info("%s", error)
            unpacked.add(error.archive)
            provide_again(error.archive)


def provide(archive: Archive, folder: Path, *, there: bool, skip: int = 0) -> None:
    """Download and unpack an archive, if needed.

    Args:
        archive: The archive.
        folder: Target folder.
        there: Whether its content exists; it is then unpacked again only if the archive file exists
            too, as unpacking may have been interrupted.
        skip: As for `unpack`.
    """
    if not there or (folder / archive.name).exists():
        unpack(fetch(archive, folder), folder, skip=skip)


def fetch(archive: Archive, folder: Path) -> Path:
    """Download an archive; an interrupted download is resumed.

    Returns:
        ``folder/NAME``; nothing is downloaded if it exists.

    Raises:
        DscnetError: If there is no connection, or it is interrupted; the partial file is kept.
        DataError: If the checksum is wrong; the file is removed.
    """
    target = folder / archive.name
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    folder.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s to %s", archive.url, target)
    try:
        _fetch_rest(archive.url, part)
    except (OSError, HTTPException) as error:  # URLError is an OSError
        raise DscnetError(
            f"{archive.url}: cannot be downloaded ({error}); run again to resume from "
            f"{part.stat().st_size if part.exists() else 0} bytes, or put the file at {target} "
            "yourself"
        ) from error
    try:
        check_md5(archive, part)
    except DataError:
        part.unlink()
        raise
    os.replace(part, target)
    return target


def check_md5(archive: Archive, path: Path) -> None:
    """Compare a file with its published checksum.

    Raises:
        DataError: If they differ.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        raise DataError(
            f"{path}: expected the MD5 checksum {archive.md5}, found {found}; download it again "
            f"from {archive.url}"
        )


def checked_line(archive: Archive, folder: Path) -> str:
    """Check an archive in a folder, and describe the result.

    Raises:
        DataError: If its checksum is wrong.
    """
    path = folder / archive.name
    if not path.exists():
        return f"{archive.name}: not found, checksum not verified"
    check_md5(archive, path)
    return f"{archive.name}: checksum as published"


def unpack(path: Path, folder: Path, *, skip: int = 0) -> None:
    """Unpack a tar or zip archive; existing files of the right size are kept.

    Args:
        path: The archive.
        folder: Target folder.
        skip: Number of leading folders to strip from paths; files above them are skipped.

    Raises:
        DataError: If the archive is damaged or contains a path outside of ``folder``.
    """
    log.info("unpacking %s", path)
    members = _zip_members if path.suffix == ".zip" else _tar_members
    try:
        for name, size, opened in members(path):
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts:
                raise DataError(
                    f"{path}: contains {name!r}, which is outside of {folder}; do not use it"
                )
            target = folder.joinpath(*inside.parts[skip:])
            above = len(inside.parts) <= skip
            if above or (target.exists() and target.stat().st_size == size):
                continue
            with opened() as source, whole_file(target) as file:
                shutil.copyfileobj(source, file)
    except _DAMAGED as error:
        raise DataError(f"{path}: the archive is damaged ({error}); download it again") from error


Member = tuple[str, int, Callable[[], IO[bytes]]]
"""A file of an archive: its path, its size in bytes, and how to open it."""


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():

                def opened(member: tarfile.TarInfo = member) -> IO[bytes]:
                    file = archive.extractfile(member)
                    assert file is not None, "a regular file has content"
                    return file

                yield member.name, member.size, opened
        _refuse_no_end(archive)


def _refuse_no_end(archive: tarfile.TarFile) -> None:
    """Reject an archive without the terminating block of zeros.

    The reader treats a truncated or damaged header as the end.
    """
    file = archive.fileobj
    assert file is not None, "an archive that is read has a file"
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != _NO_HEADER:
        raise tarfile.ReadError(f"no end of the archive after {archive.offset} bytes of files")


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():

                def opened(member: zipfile.ZipInfo = member) -> IO[bytes]:
                    return archive.open(member)

                yield member.filename, member.file_size, opened


def _fetch_rest(url: str, part: Path) -> None:
    """Download the rest of ``part``, or all of it if the server does not support ranges."""
    start = part.stat().st_size if part.exists() else 0
    response = _open(url, start)
    if response is None:
        return
    with response:
        resumed = response.status == _PARTIAL
        length = response.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
    found = part.stat().st_size
    expected = None if length is None else int(length) + (start if resumed else 0)
    if expected is not None and found != expected:
        raise ConnectionError(f"ended after {found} of {expected} bytes")


def _open(url: str, start: int) -> Any | None:
    """The response from byte ``start`` on; None if the file ends there."""
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        return urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code != _RANGE_NOT_SATISFIABLE:
                raise
        return None
