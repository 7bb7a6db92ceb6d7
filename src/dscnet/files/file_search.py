"""Recursive file search that follows links once and skips hidden and system folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dscnet.types import DataError

# Folders created by archivers, network drives, operating systems and viewers.
_SYSTEM_FOLDERS = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "lost+found"),
        *("system volume information", "thumbs", "__pycache__"),
    }
)


@dataclass(frozen=True)
class Found:
    """Files found in a folder and its subfolders.

    Attributes:
        files: Visible files, sorted, including broken links, so that they are reported.
        left_out: Hidden files, and files in hidden and system folders.
    """

    files: tuple[Path, ...]
    left_out: tuple[Path, ...]


def is_system(name: str) -> bool:
    """Whether a folder name is hidden (``.ipynb_checkpoints``) or that of a system folder."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def find_files(
    root: Path, accept: Callable[[Path], bool], apart_from: Collection[Path] = ()
) -> Found:
    """Find files recursively.

    Linked folders are searched too, each folder once: at its own location if that is below
    ``root``, else via its first link. Cyclic links are not followed.

    Args:
        root: The folder, of any name.
        accept: Selects files by path; called without the leading dots of hidden files.
        apart_from: Folders to exclude; no effect if ``root`` is inside one.

    Raises:
        DataError: If a visible folder cannot be listed.
    """
    files: tuple[list[Path], list[Path]] = ([], [])
    for path, hidden in each_file(root, accept, apart_from):
        files[hidden].append(path)
    return Found(*(tuple(sorted(paths)) for paths in files))


def each_file(
    root: Path, accept: Callable[[Path], bool], apart_from: Collection[Path] = ()
) -> Iterator[tuple[Path, bool]]:
    """The files of :func:`find_files`, one by one, and whether each is left out."""
    for folder, name, hidden in each_name(root, lambda folder, name: True, apart_from):
        path = Path(folder, name)
        if accept(path.with_name(name.lstrip(".") or "hidden")):
            yield path, hidden


def each_name(
    root: Path, keep: Callable[[str, str], bool], apart_from: Collection[Path] = ()
) -> Iterator[tuple[str, str, bool]]:
    """Folder and name of each file of :func:`find_files`, and whether it is left out.

    Args:
        root: As for :func:`find_files`.
        keep: Selects files by folder and name, hidden ones with their leading dots.
        apart_from: As for :func:`find_files`.

    Raises:
        DataError: As for :func:`find_files`.
    """
    search = _Search([_real(folder) for folder in apart_from if not _lies_in(root, folder)], keep)
    # Links are followed after all real folders, hidden folders after everything else.
    for places, system in (([str(root)], False), (search.hidden, True)):
        while places:
            yield from search.visit(places.pop(0), system=system)
            if not system:
                places += search.links
                search.links.clear()


def left_out_notes(left_out: Sequence[Path], root: Path) -> list[str]:
    """Note on hidden and system files that were skipped; empty if there are none."""
    if not left_out:
        return []
    first = ", ".join(str(path.relative_to(root)) for path in left_out[:5])
    more = ", ..." if len(left_out) > 5 else ""
    return [
        f"{len(left_out)} hidden or system files in {root} are skipped ({first}{more}); move or"
        " rename them to include them"
    ]


class _Search:
    """State of a search: the folders seen, and those still to visit."""

    def __init__(self, apart_from: Sequence[str], keep: Callable[[str, str], bool]) -> None:
        self.apart_from, self.keep = apart_from, keep
        self.seen: set[str] = set()
        self.links: list[str] = []
        self.hidden: list[str] = []

    def visit(self, folder: str, *, system: bool) -> Iterator[tuple[str, str, bool]]:
        """Files of a folder and its subfolders, and whether hidden; links to folders wait."""
        real = _real(folder)
        if real in self.seen or any(_is_within(real, apart) for apart in self.apart_from):
            return
        self.seen.add(real)
        files, folders = self._listed(folder, system)
        for name in files:
            yield folder, name, system or name.startswith(".")
        for name, is_link in folders:
            path = os.path.join(folder, name)
            if is_system(name) and not system:
                self.hidden += [] if is_link else [path]
            elif not is_link:
                yield from self.visit(path, system=system)
            elif not system:
                self.links.append(path)

    def _listed(self, folder: str, system: bool) -> tuple[list[str], list[tuple[str, bool]]]:
        """Names of the files kept, and of the folders with whether each is a link, sorted."""
        files, folders = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    is_link = entry.is_symlink()
                    if os.path.isdir(entry.path) if is_link else entry.is_dir():
                        folders.append((entry.name, is_link))
                    elif (is_link or entry.is_file()) and self.keep(folder, entry.name):
                        files.append(entry.name)
        except OSError as error:
            if not system:
                raise DataError(
                    f"{folder}: cannot be listed ({error.strerror}); check its permissions or move"
                    " it away"
                ) from error
        return sorted(files), sorted(folders)


def _real(folder: Path | str) -> str:
    return os.path.realpath(folder)


def _lies_in(place: Path, folder: Path) -> bool:
    return _is_within(_real(place), _real(folder))


def _is_within(real: str, folder: str) -> bool:
    return real == folder or real.startswith(os.path.join(folder, ""))
