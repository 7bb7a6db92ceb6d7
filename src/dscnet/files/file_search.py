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
    search = _Search([_real(folder) for folder in apart_from if not _lies_in(root, folder)])
    # Links are followed after all real folders, hidden folders after everything else.
    for places, system in (([root], False), (search.hidden, True)):
        while places:
            for path, hidden in search.visit(places.pop(0), system=system):
                if accept(path.with_name(path.name.lstrip(".") or "hidden")):
                    yield path, hidden
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

    def __init__(self, apart_from: Sequence[str]) -> None:
        self.apart_from = apart_from
        self.seen: set[str] = set()
        self.links: list[Path] = []
        self.hidden: list[Path] = []

    def visit(self, folder: Path, *, system: bool) -> Iterator[tuple[Path, bool]]:
        """Files of a folder and its subfolders, and whether hidden; links to folders wait."""
        real = _real(folder)
        if real in self.seen or any(_is_within(real, apart) for apart in self.apart_from):
            return
        self.seen.add(real)
        for name in _listed(folder, system):
            path = folder / name
            if not path.is_dir():
                if path.is_file() or path.is_symlink():
                    yield path, system or name.startswith(".")
            elif is_system(name) and not system:
                self.hidden += [] if path.is_symlink() else [path]
            elif not path.is_symlink():
                yield from self.visit(path, system=system)
            elif not system:
                self.links.append(path)


def _listed(folder: Path, system: bool) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        if system:
            return []
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); check its permissions or move it away"
        ) from error


def _real(folder: Path) -> str:
    return os.path.realpath(folder)


def _lies_in(place: Path, folder: Path) -> bool:
    return _is_within(_real(place), _real(folder))


def _is_within(real: str, folder: str) -> bool:
    return real == folder or real.startswith(os.path.join(folder, ""))
