"""Shared by all input formats: the records ``Layout`` and ``Format``, ids, folders of files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dscnet.data.tag_files import TAG_SUFFIXES, TagEntry, files_ending, read_classes, read_text
from dscnet.data.tag_text import written_forms
from dscnet.files.folder_files import FolderFiles
from dscnet.types import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAP_FOLDERS = ("masks", "saliency", "SegmentationClass", "SegmentationClassAug")
"""Names of folders next to photos that contain masks or saliency maps."""


@dataclass(frozen=True)
class Layout:
    """Locations of the parts of a data set; tags are read on demand.

    Attributes:
        name: Name of the data set.
        photos: Photo by image id.
        read_tags: Returns all tag entries; takes class names that may contain spaces.
        classes: Foreground class names, or None to derive them from the tags.
        usual_classes: Class names to use if ``classes`` is None and every tag is among them.
        masks: Available ground-truth masks by image id.
        saliency: Available saliency maps by image id.
        splits: List file by split name; empty if there are no lists.
        split_ids: Ids by split name, of formats that split a data set without lists.
        photo_folders: Folders whose photos are read, without subfolders.
        map_folders: Folders of masks and saliency maps; need not exist.
        notes: Notes for the user.
    """

    name: str
    photos: Mapping[str, Path]
    read_tags: Callable[[Collection[str]], Sequence[TagEntry]]
    classes: tuple[str, ...] | None = None
    usual_classes: tuple[str, ...] = ()
    masks: dict[str, Path] = field(default_factory=dict)
    saliency: dict[str, Path] = field(default_factory=dict)
    splits: dict[str, Path] = field(default_factory=dict)
    split_ids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    photo_folders: tuple[Path, ...] = ()
    map_folders: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits, sorted; empty if the data set is not split."""
        return tuple(sorted({**self.splits, **self.split_ids}))


def splits_folder(path: Path) -> str:
    """Usual folder of the split lists: ``splits/`` in the folder of the data set."""
    return str((path if path.is_dir() else path.parent) / "splits")


@dataclass(frozen=True)
class Format:
    """A layout of data sets on disk.

    Attributes:
        name: Unique name.
        recognises: Whether an existing folder (or file, see ``is_file``) is of this format; must
            not modify anything.
        read: Turns the path into a ``Layout``; raises ``DataError`` if parts are missing or wrong.
        looked_for: What ``recognises`` looks for, named in the message when no format fits.
        given_as: A shorter name for the same, for the message about an invalid file; empty =
            ``looked_for``.
        is_file: Whether the data set is given as a file; otherwise as a folder. None = either, or
            as a pattern.
        advice: Advice for a folder that no format fits; may be empty.
        split_home: Where split lists belong, for messages.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Layout]
    looked_for: str
    given_as: str = ""
    is_file: bool | None = False
    advice: Callable[[Path], str] = lambda path: ""
    split_home: Callable[[Path], str] = splits_folder


def is_photo(path: Path) -> bool:
    """Whether a file is a photo by its ending; hidden files are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def photos_by_id(photos: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Collect photos under their ids, sorted by id.

    Raises:
        DataError: If two photos share an id.
    """
    found: dict[str, Path] = {}
    for image_id, path in photos:
        if image_id in found:
            raise DataError(
                f"{path} and {found[image_id]} have the same image id {image_id!r}; "
                "rename or remove one of them"
            )
        found[image_id] = path
    return dict(sorted(found.items()))


def photos_in(folder: Path) -> FolderFiles:
    """Photos of a folder by id (file name without ending), without subfolders.

    Raises:
        DataError: If there is no such folder, or two photos share an id.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder of photos")
    endings: dict[str, str] = {}
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                dot = name.rindex(".")
                endings[name[:dot]] = sys.intern(name[dot:])
                count += 1
    if len(endings) < count:
        photos_by_id((path.stem, path) for path in sorted(folder.iterdir()) if is_photo(path))
    return FolderFiles(folder, {image_id: endings[image_id] for image_id in sorted(endings)})


def pngs_in(folder: Path) -> dict[str, Path]:
    """PNGs of a folder by id; empty if there is no such folder."""
    return {path.stem: path for path in files_ending(folder, ".png")}


def split_files(folder: Path) -> dict[str, Path]:
    """List file by split name; empty if there is no such folder."""
    return {path.stem: path for path in files_ending(folder, ".txt")}


def classes_of(root: Path) -> tuple[str, ...] | None:
    """Foreground classes that ``classes.txt`` lists; None if there is no such file."""
    path = root / "classes.txt"
    return read_classes(path) if path.exists() else None


def find_tag_file(*folders: Path) -> Path | None:
    """The file ``tags.csv``, ``.json`` or ``.jsonl`` of some folders; None if there is none.

    Raises:
        DataError: If there are two.
    """
    paths = [folder / f"tags{suffix}" for folder in folders for suffix in TAG_SUFFIXES]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1]} both contain tags; keep one of them")
    return found[0] if found else None


def match_id(name: str, photos: Collection[str]) -> str | None:
    """Find the image id for a name, with or without file ending or folder; None if absent.

    ``cat/a.jpg`` is the photo ``cat__a``.
    """
    if name in photos:
        return name
    name = join_id(*name.split("/"))
    if (image_id := same_id(name, photos)) is not None:
        return image_id
    stem, _, ending = name.rpartition(".")
    return same_id(stem, photos) if f".{ending.lower()}" in IMAGE_SUFFIXES else None


def same_id(name: str, known: Collection[str]) -> str | None:
    """Find a name among known ones in any Unicode normal form; None if absent."""
    return next((form for form in written_forms(name) if form in known), None)


def listed_ids(path: Path, known: Collection[str]) -> list[str]:
    """Image ids from a list file, one per line, with or without file ending.

    Args:
        path: The list, UTF-8 text.
        known: Existing ids.

    Returns:
        Unique ids in list order; unknown names are returned unchanged.

    Raises:
        DataError: If the list is missing, unreadable or empty.
    """
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: expected image ids, one per line, found none")
    return list(dict.fromkeys(match_id(name, known) or name for name in names))


def join_id(*parts: str) -> str:
    """Join parts of a path into an id that is a valid file name: ``("a", "b")`` gives ``a__b``."""
    return "__".join(parts)
