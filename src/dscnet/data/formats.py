"""Supported data set layouts, each parsed into a ``Layout``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dscnet.data.class_folders import refuse_other_meaning
from dscnet.data.coco_files import find_photos
from dscnet.data.coco_json import read_coco
from dscnet.data.split_lists import split_files, voc_split_files
from dscnet.data.tag_files import (
    TAG_SUFFIXES,
    TagEntry,
    clean_classes,
    files_ending,
    first_few,
    ordered_classes,
    read_annotations,
    read_classes,
    read_tag_file,
    read_text,
)
from dscnet.data.tag_text import without_none, written_forms
from dscnet.data.yaml_parts import YAML_KEYS, read_parts
from dscnet.files.walking import is_system
from dscnet.types import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

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
        masks: Available masks by image id.
        saliency: Available saliency maps by image id.
        splits: List file by split name; empty if the data set is not split.
        photo_folders: Folders whose photos are read, without subfolders.
        map_folders: Folders of masks and saliency maps; need not exist.
        notes: Notes for the user.
    """

    name: str
    photos: dict[str, Path]
    read_tags: Callable[[Collection[str]], list[TagEntry]]
    classes: tuple[str, ...] | None = None
    usual_classes: tuple[str, ...] = ()
    masks: dict[str, Path] = field(default_factory=dict)
    saliency: dict[str, Path] = field(default_factory=dict)
    splits: dict[str, Path] = field(default_factory=dict)
    photo_folders: tuple[Path, ...] = ()
    map_folders: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def find_layout(path: Path) -> Layout:
    """Recognise the layout of a data set.

    Args:
        path: A folder, a COCO instances file, or a YAML file that names the parts.

    Raises:
        DataError: If the layout is unknown; the message lists what was looked for.
    """
    if path.is_file():
        return _layout_of_file(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; check the path")
    if (path / "JPEGImages").is_dir():
        return _voc(path)
    if (path / "images").is_dir():
        return _tag_file(path)
    folders = _class_folders(path)
    if any(photos_in(folder) for folder in folders):
        _refuse_described(path)
        return _folders(path)
    inner = [x for x in folders if any(photos_in(folder) for folder in _class_folders(x))]
    hint = f"give {inner[0]}, whose subfolders contain photos; " if inner else ""
    raise DataError(
        f"{path}: no known layout. Looked for JPEGImages/ (VOC), for images/ with tags.csv, .json "
        f"or .jsonl, and for one subfolder of photos per class; {hint}or give a YAML file that "
        f"names the parts ({', '.join(YAML_KEYS)})"
    )


def is_photo(path: Path) -> bool:
    """Whether a path is a photo by its ending, and not hidden."""
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


def photos_in(folder: Path) -> dict[str, Path]:
    """Photos of a folder by id (file name without ending), without subfolders.

    Raises:
        DataError: If there is no such folder, or two photos share an id.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder of photos")
    return photos_by_id((path.stem, path) for path in sorted(folder.iterdir()) if is_photo(path))


def pngs_in(folder: Path) -> dict[str, Path]:
    """PNGs of a folder by id; empty if there is no such folder."""
    return {path.stem: path for path in files_ending(folder, ".png")}


def match_id(name: str, photos: Collection[str]) -> str | None:
    """Find the image id for a name, with or without file ending or folder; None if absent.

    ``cat/a.jpg`` is the photo ``cat__a``.
    """
    name = join_id(*name.split("/"))
    if (image_id := same_id(name, photos)) is not None:
        return image_id
    stem, _, ending = name.rpartition(".")
    return same_id(stem, photos) if f".{ending.lower()}" in IMAGE_SUFFIXES else None


def same_id(name: str, known: Collection[str]) -> str | None:
    """Find a name among known ones in any Unicode normal form; None if absent."""
    return next((form for form in written_forms(name) if form in known), None)


def listed_ids(path: Path, known: Collection[str]) -> list[str]:
    """Image ids in a list file, one per line, with or without file ending.

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


def _layout_of_file(path: Path) -> Layout:
    if path.suffix.lower() in (".yaml", ".yml"):
        return _yaml(path)
    if path.suffix.lower() == ".json":
        return _coco(path)
    raise DataError(
        f"{path}: not a data set; give a VOC folder, images/ with a tag file, one subfolder per "
        "class, a COCO instances file (.json) or a YAML file"
    )


def _voc(root: Path) -> Layout:
    tag_file = _find_tag_file(root / "ImageSets", root)
    annotations = root / "Annotations"
    if tag_file is not None:
        read_tags: Callable[[Collection[str]], list[TagEntry]] = partial(read_tag_file, tag_file)
    elif files_ending(annotations, ".xml"):

        def read_tags(known: Collection[str]) -> list[TagEntry]:
            return read_annotations(annotations)
    else:
        raise DataError(
            f"{root}: no tags. Looked for tags.csv, tags.json and tags.jsonl in ImageSets/ and in "
            "the folder itself, and for Annotations/*.xml; write ImageSets/tags.csv with the "
            "header 'image_id,labels' and one line per photo"
        )
    return Layout(
        name=root.resolve().name,
        photos=photos_in(root / "JPEGImages"),
        read_tags=read_tags,
        classes=_classes_of(root),
        usual_classes=VOC_CLASSES if tag_file is None else (),
        masks=pngs_in(root / "SegmentationClassAug") | pngs_in(root / "SegmentationClass"),
        saliency=pngs_in(root / "saliency"),
        splits=voc_split_files(root / "ImageSets"),
        photo_folders=(root / "JPEGImages",),
        map_folders=tuple(
            root / name for name in ("SegmentationClass", "SegmentationClassAug", "saliency")
        ),
    )


def _tag_file(root: Path) -> Layout:
    tag_file = _find_tag_file(root)
    if tag_file is None:
        raise DataError(
            f"{root}: has images/ but no tags.csv, tags.json or tags.jsonl beside it; write "
            "tags.csv with the header 'image_id,labels' and one line per photo"
        )
    return Layout(
        name=root.resolve().name,
        photos=photos_in(root / "images"),
        read_tags=partial(read_tag_file, tag_file),
        classes=_classes_of(root),
        masks=pngs_in(root / "masks"),
        saliency=pngs_in(root / "saliency"),
        splits=split_files(root / "splits"),
        photo_folders=(root / "images",),
        map_folders=(root / "masks", root / "saliency"),
    )


def _refuse_described(root: Path) -> None:
    """Reject class folders next to a file that describes the data set."""
    yamls = [*files_ending(root, ".yaml"), *files_ending(root, ".yml")]
    if beside := next(filter(None, [*yamls, _find_tag_file(root)]), None):
        raise DataError(
            f"{root}: its subfolders contain photos, and {beside.name} lies next to them: give"
            f" {beside} if it describes the data set, or put the photos into images/ if it contains"
            " their tags; move it away if each subfolder is a class"
        )


def _folders(root: Path) -> Layout:
    photos: list[tuple[str, Path]] = []
    entries: list[TagEntry] = []
    file_names: Counter[str] = Counter()
    listed = _classes_of(root)
    folders = _class_folders(root)
    found = {folder: photos_in(folder) for folder in folders}
    refuse_other_meaning(
        root,
        {folder.name: [join_id(folder.name, stem) for stem in found[folder]] for folder in folders},
        {name: _picture_stems(root / name) for name in MAP_FOLDERS},
    )
    for folder in folders:
        names = without_none([folder.name], listed or ())
        for stem, path in found[folder].items():
            image_id = join_id(folder.name, stem)
            photos.append((image_id, path))
            entries.append(TagEntry(image_id, names, str(path)))
            file_names[path.name] += 1
    classes = {name for entry in entries for name in entry.names}
    empty = [x.name for x in folders if not found[x] and x.name != "splits"]
    shared = sorted(name for name, count in file_names.items() if count > 1)
    notes = []
    if shared:
        notes.append(
            f"{len(shared)} file names occur in more than one class folder and count as separate "
            f"photos with one tag each ({first_few(shared)}); for photos with several tags use "
            "images/ and tags.csv"
        )
    if empty:
        notes.append(
            f"{len(empty)} folders contain no photo and are not classes: {first_few(empty)}"
        )
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
    return Layout(
        name=root.resolve().name,
        photos=photos_by_id(photos),
        read_tags=lambda known: entries,
        classes=listed or clean_classes(ordered_classes(classes), str(root)),
        masks=pngs_in(root / "masks"),
        saliency=pngs_in(root / "saliency"),
        splits=split_files(root / "splits"),
        photo_folders=tuple(folders),
        map_folders=(root / "masks", root / "saliency"),
        notes=tuple(notes),
    )


def _coco(path: Path) -> Layout:
    content = read_coco(path, classes=_classes_of(path.parent))
    homes = (path.parent / "images", path.parent)
    found = find_photos(path, homes, [(x.image_id, x.file_name) for x in content.photos])
    photos = photos_by_id(found)
    if not photos:
        raise DataError(
            f"{path}: none of its {len(content.photos)} photos is in {homes[0]} or {homes[1]}; "
            "put them there"
        )
    return Layout(
        name=path.stem,
        photos=photos,
        read_tags=lambda known: content.tags(),
        classes=content.classes,
        masks=pngs_in(path.parent / "masks"),
        saliency=pngs_in(path.parent / "saliency"),
        splits=split_files(path.parent / "splits"),
        map_folders=(path.parent / "masks", path.parent / "saliency"),
        notes=content.notes,
    )


def _yaml(path: Path) -> Layout:
    parts = read_parts(path)
    values, part = parts.values, parts.place
    splits = values.get("splits", {})
    if not isinstance(splits, dict):
        raise DataError(f"{path}: splits must map names to files, got {splits!r}")
    named = values["images"] if isinstance(values["images"], list) else [values["images"]]
    folders = tuple(part("images", name) for name in named)
    photos = (item for folder in folders for item in photos_in(folder).items())
    maps = {key: part(key, values[key]) for key in ("masks", "saliency") if key in values}
    return Layout(
        name=str(values.get("name", path.stem)),
        photos=photos_by_id(photos),
        read_tags=partial(read_tag_file, part("tags", values["tags"])),
        classes=parts.classes(),
        masks=pngs_in(maps["masks"]) if "masks" in maps else {},
        saliency=pngs_in(maps["saliency"]) if "saliency" in maps else {},
        splits={str(name): part(f"splits.{name}", file) for name, file in splits.items()},
        photo_folders=folders,
        map_folders=tuple(maps.values()),
    )


def _class_folders(root: Path) -> list[Path]:
    folders = (path for path in root.iterdir() if path.is_dir() and path.name not in MAP_FOLDERS)
    return sorted(path for path in folders if not is_system(path.name))


def _picture_stems(folder: Path) -> list[str]:
    return [path.stem for path in folder.iterdir() if is_photo(path)] if folder.is_dir() else []


def _classes_of(root: Path) -> tuple[str, ...] | None:
    path = root / "classes.txt"
    return read_classes(path) if path.exists() else None


def _find_tag_file(*folders: Path) -> Path | None:
    paths = [folder / f"tags{suffix}" for folder in folders for suffix in TAG_SUFFIXES]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1]} both contain tags; keep one of them")
    return found[0] if found else None
