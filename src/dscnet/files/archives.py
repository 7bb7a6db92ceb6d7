"""Files in tar archives, read in place: ``shards/0.tar/a.jpg`` is the member ``a.jpg``.

A member's place is a plain path that continues into its archive, so that messages name both, and
paths of files and members are used alike. An archive is scanned once per process for the offsets of
its members; reading one is then a seek. Each opened member has its own file handle, so that threads
and processes can read the same archive.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple

from dscnet.types import DataError

SUFFIX = ".tar"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""First bytes of gzip, bzip2, xz and zstd."""


class Member(NamedTuple):
    """Where a member's content is: offset and size in bytes; time of modification in ns."""

    start: int
    size: int
    modified: int


_Index = dict[str, Member]
_indices: dict[str, tuple[tuple[int, int, int], _Index]] = {}


def is_archive(path: Path) -> bool:
    """Whether a file is a tar archive by its ending; hidden files are not."""
    return path.suffix.lower() == SUFFIX and not path.name.startswith(".")


def open_file(path: Path) -> IO[bytes]:
    """Open a file or a member of an archive for reading, at its start.

    Raises:
        OSError: If it cannot be opened; ``FileNotFoundError`` if there is no such file or member.
        DataError: If the archive is damaged or compressed.
    """
    inside = _split(path)
    if inside is None:
        return path.open("rb")
    archive, name = inside
    file = archive.open("rb")
    try:
        member = _index_of(archive, file)[name]
    except BaseException as error:
        file.close()
        if isinstance(error, KeyError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
        raise
    return io.BufferedReader(_Window(file, member))


def is_file(path: Path) -> bool:
    """Whether there is such a file or member of an archive."""
    inside = _split(path)
    return path.is_file() if inside is None else inside[1] in members_of(inside[0])


def modified_ns(path: Path) -> int:
    """Time of modification of a file or member, in ns."""
    inside = _split(path)
    return path.stat().st_mtime_ns if inside is None else members_of(inside[0])[inside[1]].modified


def members_of(archive: Path) -> dict[str, Member]:
    """Files in an archive by name, in its order; the archive is scanned at the first call.

    Links to other members are files; folders and special files are left out.

    Raises:
        DataError: If the archive is missing, damaged or compressed, has a file twice, or has one
            that cannot be read in place.
    """
    try:
        with archive.open("rb") as file:
            return _index_of(archive, file)
    except OSError as error:
        raise DataError(f"{archive}: cannot be read ({error.strerror}); check the path") from error


class _Window(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, file: BinaryIO, member: Member) -> None:
        self._file = file
        self._start, self._size, _ = member
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._place = origin + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        self._file.seek(self._start + self._place)
        left = max(0, self._size - self._place)
        content = self._file.read(min(len(view), left))
        view[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _split(path: Path) -> tuple[Path, str] | None:
    """An archive and the name of a member; None for the path of a file."""
    if SUFFIX + os.sep not in os.fspath(path).lower():
        return None
    archives = (folder for folder in path.parents if folder.suffix.lower() == SUFFIX)
    archive = next((folder for folder in archives if folder.is_file()), None)
    return None if archive is None else (archive, path.relative_to(archive).as_posix())


def _index_of(archive: Path, file: BinaryIO) -> _Index:
    """The index of an open archive; made again if the file has changed."""
    info = os.fstat(file.fileno())
    state, key = (info.st_ino, info.st_size, info.st_mtime_ns), os.path.abspath(archive)
    known = _indices.get(key)
    if known is None or known[0] != state:
        known = _indices[key] = (state, _scan(archive, file))
    return known[1]


def _scan(archive: Path, file: BinaryIO) -> _Index:
    if file.read(6).startswith(_COMPRESSED):
        raise DataError(
            f"{archive}: is compressed, and its members cannot be read one by one; decompress it"
            " (JPEG and PNG files hardly grow)"
        )
    file.seek(0)
    index: _Index = {}
    try:
        with tarfile.TarFile(fileobj=file, encoding="utf-8") as tar:
            for name, member in _files(archive, tar, index):
                if name in index:
                    raise DataError(f"{archive}: contains {name} twice; remove one of them")
                index[name] = member
            damage = _damage_at(file, tar.offset)
    except (tarfile.TarError, EOFError, ValueError) as error:
        damage = str(error)
    if damage:
        raise DataError(
            f"{archive}: is not an intact tar archive ({damage}); make or download it again"
        )
    return index


def _files(archive: Path, tar: tarfile.TarFile, index: _Index) -> Iterator[tuple[str, Member]]:
    while (info := tar.next()) is not None:
        name = _plain(info.name)
        if ".." in PurePosixPath(name).parts:
            raise DataError(f"{archive}: member {info.name} lies outside the archive; rename it")
        if info.issym() or info.issparse():
            kind = "a symbolic link" if info.issym() else "a sparse file"
            raise DataError(
                f"{archive}: member {name} is {kind}, not a whole file; make the archive again with"
                " tar --dereference and without --sparse"
            )
        if info.islnk():
            target = _plain(info.linkname)
            if target not in index:
                raise DataError(
                    f"{archive}: member {name} is a link to {target}, which does not come before"
                    " it; make the archive again with tar --hard-dereference"
                )
            yield name, index[target]
        elif info.isreg():
            yield name, Member(info.offset_data, info.size, round(info.mtime * 1e9))


def _plain(name: str) -> str:
    return PurePosixPath(name.lstrip("/")).as_posix()


def _damage_at(file: BinaryIO, end: int) -> str:
    """What is wrong after the last member; empty if nothing is.

    The standard library takes any invalid header after the first for the end of the archive.
    """
    file.seek(end)
    rest = file.read(tarfile.RECORDSIZE)
    if len(rest) < tarfile.BLOCKSIZE:
        return "its end is missing"
    if any(rest[: tarfile.BLOCKSIZE]):
        return f"invalid header at byte {end}"
    return "members follow its end" if any(rest) else ""
