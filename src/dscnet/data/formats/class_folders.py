"""Input format: one subfolder of photos per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from dscnet.data.formats.class_folder_names import refuse_other_meaning
from dscnet.data.formats.layout import (
    MAP_FOLDERS,
    Format,
    Layout,
    classes_of,
    find_tag_file,
    is_photo,
    join_id,
    photos_by_id,
    photos_in,
    pngs_in,
    split_files,
)
from dscnet.data.tag_files import (
    TagEntry,
    clean_classes,
    files_ending,
    first_few,
    ordered_classes,
)
from dscnet.data.tag_text import without_none
from dscnet.files.file_search import is_system
from dscnet.types import DataError


def _recognises(root: Path) -> bool:
    return any(photos_in(folder) for folder in _class_folders(root))


def _read(root: Path) -> Layout:
    _refuse_described(root)
    listed = classes_of(root)
    found = {folder: photos_in(folder) for folder in _class_folders(root)}
    refuse_other_meaning(
        root,
        {folder.name: [join_id(folder.name, stem) for stem in found[folder]] for folder in found},
        {name: _picture_stems(root / name) for name in MAP_FOLDERS},
    )
    photos: list[tuple[str, Path]] = []
    entries: list[TagEntry] = []
    for folder in found:
        names = without_none([folder.name], listed or ())
        for stem, path in found[folder].items():
            image_id = join_id(folder.name, stem)
            photos.append((image_id, path))
            entries.append(TagEntry(image_id, names, str(path)))
    classes = {name for entry in entries for name in entry.names}
    return Layout(
        name=root.resolve().name,
        photos=photos_by_id(photos),
        read_tags=lambda known: entries,
        classes=listed or clean_classes(ordered_classes(classes), str(root)),
        masks=pngs_in(root / "masks"),
        saliency=pngs_in(root / "saliency"),
        splits=split_files(root / "splits"),
        photo_folders=tuple(found),
        map_folders=(root / "masks", root / "saliency"),
        notes=(*_class_notes(found), *_notes_beside(root)),
    )


def _refuse_described(root: Path) -> None:
    """Reject class folders next to a file that describes the data set."""
    yamls = [*files_ending(root, ".yaml"), *files_ending(root, ".yml")]
    if beside := next(filter(None, [*yamls, find_tag_file(root)]), None):
        raise DataError(
            f"{root}: its subfolders contain photos, and {beside.name} lies next to them: give"
            f" {beside} if it describes the data set, or put the photos into images/ if it contains"
            " their tags; move it away if each subfolder is a class"
        )


def _class_notes(found: Mapping[Path, Mapping[str, Path]]) -> list[str]:
    """Notes on the photos of each class folder, by id."""
    notes = []
    file_names = Counter(path.name for photos in found.values() for path in photos.values())
    if shared := sorted(name for name, count in file_names.items() if count > 1):
        notes.append(
            f"{len(shared)} file names occur in more than one class folder and count as separate "
            f"photos with one tag each ({first_few(shared)}); for photos with several tags use "
            "images/ and tags.csv"
        )
    if empty := [folder.name for folder in found if not found[folder] and folder.name != "splits"]:
        notes.append(
            f"{len(empty)} folders contain no photo and are not classes: {first_few(empty)}"
        )
    return notes


def _notes_beside(root: Path) -> list[str]:
    """Notes on photos outside the class folders."""
    notes = []
    beside = sorted(path for path in root.iterdir() if path.is_dir() and is_system(path.name))
    if system := [path.name for path in beside if _picture_stems(path)]:
        notes.append(
            f"{len(system)} hidden or system folders contain photos and are not classes:"
            f" {first_few(system)}; rename those that are"
        )
    if loose := sorted(path.name for path in root.iterdir() if is_photo(path)):
        notes.append(
            f"{len(loose)} photos next to the class folders are ignored ({first_few(loose)}); "
            "move each into the folder of its class, or into background/ if it has none"
        )
    return notes


def _advice(root: Path) -> str:
    """Point to a subfolder that is a data set of this format."""
    inner = next(filter(_recognises, _class_folders(root)), None)
    return f"give {inner}, whose subfolders contain photos" if inner else ""


def _class_folders(root: Path) -> list[Path]:
    folders = (path for path in root.iterdir() if path.is_dir() and path.name not in MAP_FOLDERS)
    return sorted(path for path in folders if not is_system(path.name))


def _picture_stems(folder: Path) -> list[str]:
    return [path.stem for path in folder.iterdir() if is_photo(path)] if folder.is_dir() else []


FORMAT = Format(
    "class-folders",
    _recognises,
    _read,
    looked_for="one subfolder of photos per class",
    given_as="one subfolder per class",
    advice=_advice,
)
