"""The files of a folder and all below it: links followed once, what systems put there left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dscnet.types import DataError

# Folders of archivers, network stores, operating systems and viewers; hidden ones come besides.
_SYSTEM_FOLDERS = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "lost+found"),
        *("system volume information", "thumbs", "__pycache__"),
    }
)


@dataclass(frozen=True)
class Found:
    """What lies in a folder and below it.

    Attributes:
        files: Visible files, sorted; a link to nothing is one of them, so that it is told of.
        left_out: Hidden files, and files of hidden folders and of those that systems keep.
    """

    files: tuple[Path, ...]
    left_out: tuple[Path, ...]


def is_system(name: str) -> bool:
    """Whether a folder by its name is hidden (``.ipynb_checkpoints``) or a system's own."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def find_files(
    root: Path, wanted: Callable[[Path], bool], apart_from: Collection[Path] = ()
) -> Found:
    """Find files at any depth below a folder.

    Linked folders are searched as if they lay there, each folder once: where it lies itself, if
    that is below ``root`` too, else by the first of its links. A link that leads back is not
    followed.

    Args:
        root: The folder, whatever its own name.
        wanted: Chooses files by their names; hidden ones are asked for without their dots.
        apart_from: Folders that are not searched; of no effect if ``root`` lies in one.

    Raises:
        DataError: If a visible folder cannot be listed.
    """
    search = _Search([_real(folder) for folder in apart_from if not _lies_in(root, folder)])
    # Links wait until all that lies here itself was seen, and what is hidden until all was.
    places = [root]
    while places:
        search.visit(places.pop(0), system=False)
        places += search.links
        search.links = []
    while search.hidden:
        search.visit(search.hidden.pop(0), system=True)
    files, left_out = (
        tuple(
            sorted(
                path for path in paths if wanted(path.with_name(path.name.lstrip(".") or "hidden"))
            )
        )
        for paths in (search.files, search.left_out)
    )
    return Found(files, left_out)


def left_out_notes(left_out: Sequence[Path], root: Path) -> list[str]:
    """Say which files of a folder were left out as hidden or a system's; empty if none were."""
    if not left_out:
        return []
    shown = ", ".join(str(path.relative_to(root)) for path in left_out[:5])
    more = ", ..." if len(left_out) > 5 else ""
    return [
        f"{len(left_out)} hidden files and files of system folders in {root} are left out "
        f"({shown}{more}); move or rename them if they are meant"
    ]


class _Search:
    """What was seen of a folder so far, and what is still to be visited."""

    def __init__(self, apart_from: Sequence[str]) -> None:
        self.apart_from = apart_from
        self.seen: set[str] = set()
        self.files: list[Path] = []
        self.left_out: list[Path] = []
        self.links: list[Path] = []
        self.hidden: list[Path] = []

    def visit(self, folder: Path, *, system: bool) -> None:
        """Note the files of a folder and of those that lie in it; links to folders wait."""
        real = _real(folder)
        if real in self.seen or any(_is_within(real, apart) for apart in self.apart_from):
            return
        self.seen.add(real)
        for name in _listed(folder, system):
            path = folder / name
            if not path.is_dir():
                if path.is_file() or path.is_symlink():
                    (self.left_out if system or name.startswith(".") else self.files).append(path)
            elif is_system(name) and not system:
                self.hidden += [] if path.is_symlink() else [path]
            elif not path.is_symlink():
                self.visit(path, system=system)
            elif not system:
                self.links.append(path)


def _listed(folder: Path, system: bool) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        if system:
            return []
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); allow it to be read, or move it away"
        ) from error


def _real(folder: Path) -> str:
    return os.path.realpath(folder)


def _lies_in(place: Path, folder: Path) -> bool:
    return _is_within(_real(place), _real(folder))


def _is_within(real: str, folder: str) -> bool:
    return real == folder or real.startswith(os.path.join(folder, ""))
