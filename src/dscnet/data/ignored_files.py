"""Notes on files in a data set that are ignored, so that nothing is lost silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from dscnet.data.formats import IMAGE_SUFFIXES, Layout, same_id
from dscnet.data.tag_files import first_few
from dscnet.files.file_search import Found, each_name, find_files, left_out_notes

# Endings of files commonly kept next to photos.
_COMPANIONS = frozenset(
    {".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".md", ".txt", ".xml", ".yaml", ".yml"}
)


def unread_notes(layout: Layout) -> list[str]:
    """Notes on ignored files of a data set that look relevant; no file is opened.

    Args:
        layout: The data set.

    Returns:
        Notes on photos in subfolders, files with other endings, and masks and saliency maps that
        are not PNGs or belong to no photo; usually none.
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
    beside = {folder: _beside_photos(folder, read) for folder in folders}
    notes = _ending_notes(path for found in beside.values() for path in found.files)
    nested: Counter[str] = Counter()
    for folder, found in beside.items():
        photos = (path for path in found.files if _ends_as_photo(path))
        nested.update(str(path.parent) for path in photos if path.parent != folder)
        notes += left_out_notes([path for path in found.left_out if _ends_as_photo(path)], folder)
    if nested:
        notes.append(
            f"{nested.total()} photos in subfolders of a photo folder are ignored: "
            f"{first_few(list(nested))}; move them up if they belong to it"
        )
    return notes


def _beside_photos(folder: Path, apart_from: Collection[Path]) -> Found:
    """Files of a folder and its subfolders, without the photos of the folder itself."""
    own = str(folder)

    def keep(at: str, name: str) -> bool:
        # First, so that a million photos cost no path each.
        return at != own or name.startswith(".") or not name.lower().endswith(IMAGE_SUFFIXES)

    files: tuple[list[Path], list[Path]] = ([], [])
    for at, name, hidden in each_name(folder, keep, apart_from):
        files[hidden].append(Path(at, name))
    return Found(*(tuple(sorted(paths)) for paths in files))


def ending_notes(folders: Collection[Path], apart_from: Collection[Path]) -> list[str]:
    """Note on files in photo folders with unsupported endings.

    Args:
        folders: The folders, searched recursively.
        apart_from: Folders to exclude.
    """
    found = (_beside_photos(folder, apart_from).files for folder in folders)
    return _ending_notes(path for files in found for path in files)


def _ending_notes(files: Iterable[Path]) -> list[str]:
    found = [path for path in files if _is_reported(path) and not _ends_as_photo(path)]
    if not found:
        return []
    endings = ", ".join(sorted({path.suffix.lower() or "no ending" for path in found}))
    return [
        f"{len(found)} files with unsupported endings are ignored ({endings}): "
        f"{first_few([path.name for path in found])}; if they are photos, save them as .jpg or .png"
    ]


def _map_notes(folder: Path, read: Collection[Path]) -> list[str]:
    if not folder.is_dir():
        return []
    names = [
        str(path.relative_to(folder))
        for path in find_files(folder, _is_reported, read).files
        if path.suffix.lower() != ".png" or path.parent != folder
    ]
    if not names:
        return []
    return [
        f"{len(names)} files in {folder} are ignored: {first_few(names)}; expected PNGs directly "
        "in the folder, named like their photos"
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
    # A hidden file counts by its name without the leading dots.
    return Path(path.name.lstrip(".") or "hidden").suffix.lower() in IMAGE_SUFFIXES


def _is_reported(path: Path) -> bool:
    return path.suffix.lower() not in _COMPANIONS
