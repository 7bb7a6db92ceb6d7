"""What lies in a data set and is not read, so that nothing goes missing in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from dscnet.data.formats import IMAGE_SUFFIXES, Layout, same_id
from dscnet.data.tag_files import first_few
from dscnet.files.walking import find_files, left_out_notes

# Endings of what people keep beside photos; nobody takes it for a photo.
_COMPANIONS = frozenset(
    {".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".md", ".txt", ".xml", ".yaml", ".yml"}
)


def unread_notes(layout: Layout) -> list[str]:
    """Say which files of a data set nobody reads though they look as if they were meant.

    No file is opened.

    Args:
        layout: The data set.

    Returns:
        Notes on photos in sub-folders, files of other endings, and masks and saliency maps that
        are no PNG or belong to no photo; mostly none.
    """
    read = {*layout.photo_folders, *layout.map_folders}
    notes = _photo_notes(layout.photo_folders, read)
    for folder in layout.map_folders:
        if folder not in layout.photo_folders:
            notes += _map_notes(folder, read - {folder})
    notes += _orphans("masks", layout.masks, layout.photos)
    notes += _orphans("saliency maps", layout.saliency, layout.photos)
    return notes


def _photo_notes(folders: Collection[Path], read: Collection[Path]) -> list[str]:
    nested: Counter[str] = Counter()
    notes = ending_notes(folders, read)
    for folder in folders:
        found = find_files(folder, _ends_as_photo, read)
        nested.update(str(path.parent) for path in found.files if path.parent != folder)
        notes += left_out_notes(found.left_out, folder)
    if nested:
        notes.append(
            f"{nested.total()} photos in sub-folders of a folder of photos are not read: "
            f"{first_few(list(nested))}; move them up if they belong to it"
        )
    return notes


def ending_notes(folders: Collection[Path], apart_from: Collection[Path]) -> list[str]:
    """Say which files of folders of photos have endings that nobody reads.

    Args:
        folders: They, and what lies below them.
        apart_from: Folders below them that hold something else.
    """
    found = [
        path
        for folder in folders
        for path in find_files(folder, _is_told, apart_from).files
        if not _ends_as_photo(path)
    ]
    if not found:
        return []
    endings = ", ".join(sorted({path.suffix.lower() or "no ending" for path in found}))
    return [
        f"{len(found)} files of endings that are not read ({endings}): "
        f"{first_few([path.name for path in found])}; if they are photos, save them as .jpg or .png"
    ]


def _map_notes(folder: Path, read: Collection[Path]) -> list[str]:
    if not folder.is_dir():
        return []
    names = [
        str(path.relative_to(folder))
        for path in find_files(folder, _is_told, read).files
        if path.suffix.lower() != ".png" or path.parent != folder
    ]
    if not names:
        return []
    return [
        f"{len(names)} files in {folder} are not read: {first_few(names)}; expected PNGs in the "
        "folder itself, each named as its photo"
    ]


def _orphans(what: str, maps: Mapping[str, Path], photos: Collection[str]) -> list[str]:
    names = [path.name for name, path in maps.items() if same_id(name, photos) is None]
    if not names:
        return []
    example = next(iter(photos), "ID")
    return [
        f"{len(names)} {what} belong to no photo ({first_few(names)}); name each after the id of "
        f"its photo, such as {example}.png"
    ]


def _ends_as_photo(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _is_told(path: Path) -> bool:
    return path.suffix.lower() not in _COMPANIONS
