"""Photos with image-level tags: one record per photo, whatever the files look like."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dscnet.data.formats import (
    IMAGE_SUFFIXES,
    MAP_FOLDERS,
    Layout,
    find_layout,
    is_photo,
    join_id,
    match_id,
    photos_by_id,
    same_id,
    split_home,
)
from dscnet.data.split_lists import unread_list_notes
from dscnet.data.tag_files import (
    TagEntry,
    class_indices,
    clean_classes,
    first_few,
    ordered_classes,
    read_text,
)
from dscnet.data.unread import ending_notes, unread_notes
from dscnet.files.walking import find_files, left_out_notes
from dscnet.types import DataError


@dataclass(frozen=True)
class Sample:
    """One photo and what is known of it.

    Attributes:
        image_id: Unique name that can be a file name.
        image_path: The photo.
        tags: Sorted 0-based foreground classes; ``()`` for a negative photo, None if unknown.
        mask_path: Pixel labels, for evaluation; None if there are none.
        saliency_path: Saliency map; None if there is none.
    """

    image_id: str
    image_path: Path
    tags: tuple[int, ...] | None = None
    mask_path: Path | None = None
    saliency_path: Path | None = None


@dataclass(frozen=True)
class PhotoSet:
    """Photos that belong together, and the names of their classes.

    Attributes:
        name: Name of the data set.
        classes: Foreground class names; class ``c`` has label ``c + 1``.
        samples: The photos, in the order of the split file or else sorted by id.
        notes: Things the user should know, such as which photos are negatives.
        split: Name of the split, or None for all photos, as of a data set without splits.
    """

    name: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    split: str | None = None

    @property
    def num_classes(self) -> int:
        """Number of foreground classes."""
        return len(self.classes)

    @property
    def num_labels(self) -> int:
        """Number of labels: the foreground classes and the background."""
        return len(self.classes) + 1


def open_dataset(path: str | Path, split: str | None = None) -> PhotoSet:
    """Read what a data set holds; no photo is opened.

    Known layouts: the VOC folders; ``images/`` beside ``tags.csv`` (``.json``, ``.jsonl``); one
    sub-folder per class (``background``, ``negatives`` or ``none`` for photos of none); a COCO
    instances file beside its photos; a YAML file naming the parts; those of ``register_format``.
    Without a list of classes, the sorted tags are the classes. A photo that no tag entry names is a
    negative, which a note says.

    Args:
        path: Folder, COCO instances file or YAML file.
        split: Name of a split, or None for all photos. A data set without splits gives all its
            photos for ``"train"``.

    Raises:
        DataError: If the layout is unknown, the set is empty, a tag has no photo or is no class,
            ids are repeated, or the split or one of its photos is missing.
    """
    layout = find_layout(Path(path))
    if not layout.photos:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"{path}: no photo found; photos are files ending in {endings}")
    entries = layout.read_tags(layout.classes or ())
    classes = layout.classes or _classes_from(entries, layout)
    tags = {
        image_id: class_indices(entry, classes)
        for image_id, entry in _entries_by_photo(entries, layout).items()
    }
    samples = tuple(
        Sample(
            image_id=image_id,
            image_path=layout.photos[image_id],
            tags=tags.get(image_id, ()),
            mask_path=_map_of(image_id, layout.masks),
            saliency_path=_map_of(image_id, layout.saliency),
        )
        for image_id in _ids_of_split(layout, split, Path(path))
    )
    untagged = [sample.image_id for sample in samples if sample.image_id not in tags]
    unread = (*unread_notes(layout), *unread_list_notes(Path(path), layout.splits.values()))
    notes = (*layout.notes, *unread, *_notes(samples, classes, untagged))
    if layout.classes is None and classes != layout.usual_classes and layout.masks:
        notes += ("classes.txt is missing: mask labels are taken to follow the sorted tags",)
    return PhotoSet(layout.name, classes, samples, notes, split if layout.splits else None)


def place_of(photo_set: PhotoSet) -> str:
    """Name a data set and, if it is one, the split of it, for messages."""
    return photo_set.name + (f", split {photo_set.split}" if photo_set.split else "")


def available_splits(path: str | Path) -> tuple[str, ...]:
    """Give the names of a data set's splits, sorted; empty if it has none.

    Raises:
        DataError: If the layout is unknown.
    """
    return tuple(sorted(find_layout(Path(path)).splits))


def open_photos(*places: str | Path, apart_from: Sequence[Path] = ()) -> PhotoSet:
    """Collect photos whose tags are unknown, from folders and their sub-folders or single files.

    A photo in a sub-folder has the folder's name in its id: ``trip/a.jpg`` is ``trip__a``. Of a
    data set, its masks and saliency maps are none of them. Linked folders are searched too, each
    once; notes say what was left out.

    Args:
        places: Folders or photos.
        apart_from: Folders whose pictures are none of these photos, such as masks made of them;
            of no effect on a place that lies in one.

    Raises:
        DataError: If a place holds no photo or is none, or two photos have the same id.
    """
    roots = [Path(place) for place in places]
    own = {folder.resolve() for folder in apart_from}
    beside = [root / name for root in roots for name in MAP_FOLDERS if (root / name).is_dir()]
    maps = [folder for folder in beside if folder.resolve() not in own]
    left_out = (*apart_from, *maps)
    notes = [f"{folder} is left out: maps, by its name, not photos" for folder in maps]
    photos = photos_by_id(pair for root in roots for pair in _photos_at(root, left_out, notes))
    samples = tuple(Sample(image_id, path) for image_id, path in photos.items())
    notes += ending_notes([root for root in roots if root.is_dir()], left_out)
    return PhotoSet(roots[0].resolve().stem, (), samples, tuple(notes))


def some_samples(samples: Sequence[Sample], count: int = 200) -> Sequence[Sample]:
    """At most ``count`` of the photos, evenly spread, where all would take long to look at."""
    return samples[:: math.ceil(len(samples) / count)]


def keep_photos(samples: Sequence[Sample], targets: Iterable[Path]) -> None:
    """Refuse to write files that would replace photos.

    Args:
        samples: The photos.
        targets: Files that are going to be written.

    Raises:
        DataError: If a target is one of the photos.
    """
    # Unlike Path.resolve, it bears links that lead to themselves.
    photos = {os.path.realpath(sample.image_path) for sample in samples}
    lost = [target for target in targets if os.path.realpath(target) in photos]
    if lost:
        raise DataError(
            f"{lost[0]}: expected a file to write, found one of the photos, which it would"
            f" replace ({len(lost)} such); name another --out"
        )


def unwritten(sample: Sample, error: OSError) -> str:
    """Say of a photo that what was made of it could not be written.

    Raises:
        OSError: The error, if the disk is the trouble, which no other photo would escape.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        raise error
    return (
        f"{sample.image_path}: what was made of it cannot be written ({error.strerror or error});"
        " shorten its name and those of its folders, or name another --out"
    )


def _photos_at(
    root: Path, apart_from: Sequence[Path], notes: list[str]
) -> Iterator[tuple[str, Path]]:
    """Ids and photos of a place; what was left out of it is added to the notes."""
    endings = ", ".join(IMAGE_SUFFIXES)
    if root.is_file():
        if not is_photo(root):
            raise DataError(
                f"{root}: is no photo; name a folder of photos or a file ending in {endings}"
            )
        yield root.stem, root
        return
    if not root.is_dir():
        raise DataError(f"{root}: no such folder or photo; check the path")
    found = find_files(root, is_photo, apart_from)
    told = left_out_notes(found.left_out, root)
    if not found.files:
        raise DataError(
            "; ".join([f"{root}: no photo found; photos are files ending in {endings}", *told])
        )
    notes += told
    for path in found.files:
        yield join_id(*path.relative_to(root).with_suffix("").parts), path


def _classes_from(entries: Sequence[TagEntry], layout: Layout) -> tuple[str, ...]:
    names = {name for entry in entries for name in entry.names}
    if not names:
        raise DataError(f"{layout.name}: no photo carries a tag; tag the photos first")
    if names <= set(layout.usual_classes):
        return layout.usual_classes
    return clean_classes(ordered_classes(names), layout.name)


def _entries_by_photo(entries: Sequence[TagEntry], layout: Layout) -> dict[str, TagEntry]:
    found: dict[str, TagEntry] = {}
    missing = []
    for entry in entries:
        image_id = match_id(entry.image_id, layout.photos)
        if image_id is None:
            missing.append(entry)
        elif image_id in found:
            raise DataError(
                f"{entry.where}: photo {image_id!r} has tags already at {found[image_id].where}; "
                "merge the two"
            )
        else:
            found[image_id] = entry
    if missing:
        raise DataError(
            f"{missing[0].where}: tags without a photo for "
            f"{first_few([entry.image_id for entry in missing])}; add the photos to "
            f"{_photo_folder(layout)} (files ending in {', '.join(IMAGE_SUFFIXES)}; sub-folders "
            "are not searched) or remove their tags"
        )
    return found


def _map_of(image_id: str, maps: Mapping[str, Path]) -> Path | None:
    name = same_id(image_id, maps)
    return None if name is None else maps[name]


def _ids_of_split(layout: Layout, split: str | None, data_set: Path) -> list[str]:
    if split is None or (not layout.splits and split == "train"):
        return list(layout.photos)
    if split not in layout.splits:
        has = f"its splits are {', '.join(sorted(layout.splits))}" if layout.splits else "no splits"
        raise DataError(
            f"{layout.name}: there is no split {split!r} ({has}); name another or add it to "
            f"{split_home(data_set)}: {split}.txt with one image id a line"
        )
    path = layout.splits[split]
    lines: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        image_id = match_id(name, layout.photos)
        if image_id is None:
            raise DataError(
                f"{path}, line {number}: there is no photo {name!r} in {_photo_folder(layout)}; "
                "add it or remove the line"
            )
        if image_id in lines:
            raise DataError(
                f"{path}, line {number}: photo {image_id!r} is in line {lines[image_id]} already; "
                "remove one"
            )
        lines[image_id] = number
    if not lines:
        raise DataError(f"{path}: names no photo; write one image id a line")
    return list(lines)


def _photo_folder(layout: Layout) -> Path:
    return next(iter(layout.photos.values())).parent


def _notes(samples: Sequence[Sample], classes: Sequence[str], untagged: Sequence[str]) -> list[str]:
    notes = []
    without = set(untagged)
    negatives = [s.image_id for s in samples if not s.tags and s.image_id not in without]
    if negatives:
        notes.append(f"{len(negatives)} photos carry no tag (negatives): {first_few(negatives)}")
    if untagged:
        notes.append(
            f"{len(untagged)} photos have no tag entry and count as negatives: "
            f"{first_few(untagged)}"
        )
    present = {index for sample in samples for index in sample.tags or ()}
    absent = [name for index, name in enumerate(classes) if index not in present]
    if absent:
        notes.append(f"no photo carries {first_few(absent, 10)}")
    return notes
