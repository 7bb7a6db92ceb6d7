"""Archives of data sets: fetched in parts that add up, checked, and unpacked file by file."""

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
        name: Its file name.
        url: Where its owner publishes it.
        md5: Its published checksum.
    """

    name: str
    url: str
    md5: str


class Incomplete(DataError):
    """Files that a published archive holds are missing.

    Attributes:
        archive: The archive; None if it cannot be fetched.
    """

    def __init__(self, message: str, archive: Archive | None) -> None:
        super().__init__(message)
        self.archive = archive


def where_to_get(archive: Archive, folder: Path) -> str:
    """Say how the content of an archive comes into a folder, where it lies already or not."""
    path = folder / archive.name
    if path.exists():
        return f"{path} is here: unpack it, or let --download do so"
    return f"fetch and unpack {archive.name} from {archive.url}, or let --download do so"


def until_complete(read: Callable[[], Read], provide_again: Callable[[Archive], None]) -> Read:
    """Read what archives hold; one whose files are missing is unpacked again, each at most once.

    Args:
        read: Reads all of it, and raises `Incomplete` if files are missing.
        provide_again: Fetches and unpacks an archive.

    Returns:
        What ``read`` gives.

    Raises:
        Incomplete: If files are missing that the archive does not bring, or that has none.
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
    """Fetch an archive and unpack it, as far as that has not been done.

    Args:
        archive: What to fetch.
        folder: Where it goes and is unpacked.
        there: Its content is there, and is unpacked again only if the archive itself lies there
            too: it may have been interrupted.
        skip: As in `unpack`.
    """
    if not there or (folder / archive.name).exists():
        unpack(fetch(archive, folder), folder, skip=skip)


def fetch(archive: Archive, folder: Path) -> Path:
    """Fetch an archive; an interrupted download goes on where it stopped.

    Returns:
        ``folder/NAME``; nothing is fetched if it is there.

    Raises:
        DscnetError: If there is no connection, or it ends too early; what was fetched is kept.
        DataError: If the checksum is wrong; what was fetched is removed.
    """
    target = folder / archive.name
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    folder.mkdir(parents=True, exist_ok=True)
    log.info("fetching %s to %s", archive.url, target)
    try:
        _fetch_rest(archive.url, part)
    except (OSError, HTTPException) as error:  # URLError is an OSError
        raise DscnetError(
            f"{archive.url}: cannot be fetched ({error}); run again to go on from "
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
            f"{path}: expected the MD5 checksum {archive.md5}, found {found}; fetch it anew from "
            f"{archive.url}"
        )


def checked_line(archive: Archive, folder: Path) -> str:
    """Check an archive that lies in a folder, and say what came of it.

    Raises:
        DataError: If its checksum is wrong.
    """
    path = folder / archive.name
    if not path.exists():
        return f"{archive.name}: not here, checksum not verified"
    check_md5(archive, path)
    return f"{archive.name}: checksum as published"


def unpack(path: Path, folder: Path, *, skip: int = 0) -> None:
    """Unpack a tar or zip archive; files that are there with their full size are left alone.

    Args:
        path: The archive.
        folder: Where its files go.
        skip: How many outer folders of the archive's paths are left out; files that lie above
            them are left out too.

    Raises:
        DataError: If the archive is damaged or holds a path that leads out of ``folder``.
    """
    log.info("unpacking %s", path)
    members = _zip_members if path.suffix == ".zip" else _tar_members
    try:
        for name, size, opened in members(path):
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts:
                raise DataError(
                    f"{path}: holds {name!r}, which leads out of {folder}; do not use it"
                )
            target = folder.joinpath(*inside.parts[skip:])
            above = len(inside.parts) <= skip
            if above or (target.exists() and target.stat().st_size == size):
                continue
            with opened() as source, whole_file(target) as file:
                shutil.copyfileobj(source, file)
    except _DAMAGED as error:
        raise DataError(
            f"{path}: expected a whole archive, found damage ({error}); fetch it anew"
        ) from error


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
    """Refuse an archive whose members do not end with the block of zeros that ends all of them.

    A reader takes a cut or damaged header for the end.
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
    """Append what ``part`` lacks, or write it anew where the server cannot go on."""
    start = part.stat().st_size if part.exists() else 0
    response = _open(url, start)
    if response is None:
        return
    with response:
        goes_on = response.status == _PARTIAL
        length = response.headers.get("Content-Length")
        with part.open("ab" if goes_on else "wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
    found = part.stat().st_size
    expected = None if length is None else int(length) + (start if goes_on else 0)
    if expected is not None and found != expected:
        raise ConnectionError(f"ended after {found} of {expected} bytes")


def _open(url: str, start: int) -> Any | None:
    """The server's answer from byte ``start`` on; None if the file ends there."""
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        return urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code != _RANGE_NOT_SATISFIABLE:
                raise
        return None
