"""Data sets of photos with image-level tags, independent of the file format."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dscnet.data.formats import (
    IMAGE_SUFFIXES,
    MAP_FOLDERS,
    Layout,
    find_layout,
    is_photo,
    join_id,
    match_id,
    photos_by_id,
    split_home,
)
from dscnet.data.formats.webdataset import photos_in_shards, shards_at
from dscnet.data.ignored_files import ending_notes, unread_notes
from dscnet.data.samples import Sample as Sample
from dscnet.data.samples import SampleTable
from dscnet.data.split_lists import unread_list_notes
from dscnet.data.tag_files import (
    class_indices,
    clean_classes,
    first_few,
    ordered_classes,
    read_text,
)
from dscnet.data.tag_table import ClassLists, TagTable
from dscnet.files.archives import is_archive, is_file
from dscnet.files.file_search import find_files, left_out_notes
from dscnet.files.similar_names import similar_path
from dscnet.types import DataError

MOST_RECORDS = 200_000
"""Of more photos than this, records are made on demand: slower, but in less memory."""


@dataclass(frozen=True)
class PhotoSet:
    """A set of photos and their class names.

    Attributes:
        name: Name of the data set.
        classes: Foreground class names; class ``c`` has label ``c + 1``.
        samples: The photos, in the order of the split file, else sorted by id.
        notes: Notes for the user, such as which photos are negatives.
        split: Name of the split, or None for all photos.
    """

    name: str
    classes: tuple[str, ...]
    samples: Sequence[Sample]
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
    """Open a data set; photos are not read.

    Supported layouts: VOC folders; ``images/`` with ``tags.csv`` (``.json``, ``.jsonl``); one
    subfolder per class (``background``, ``negatives`` or ``none`` for photos without a class); a
    COCO instances file with its photos; tar archives of photos and tags (WebDataset); a YAML file
    naming the parts; formats registered by ``register_format``. Without a class list, the sorted
    tags are the classes. Photos without a tag entry count as negatives, with a note.

    Args:
        path: Folder, COCO instances file, YAML file, archive or pattern of archives.
        split: Name of a split, or None for all photos. For a data set without splits,
            ``"train"`` means all photos.

    Raises:
        DataError: If the layout is unknown, the set is empty, a tag has no photo or is not a class,
            ids are not unique, or the split or one of its photos is missing.
    """
    layout = find_layout(Path(path))
    if not layout.photos:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"{path}: no photo found; photos are files ending in {endings}")
    table = TagTable.of(layout.read_tags(layout.classes or ()))
    classes = layout.classes or _classes_from(table, layout)
    by_photo = _rows_by_photo(table, layout)
    ids = _ids_of_split(layout, split, Path(path))
    rows = np.array([by_photo.get(image_id, -1) for image_id in ids])
    del by_photo  # a million take 75 MB
    tags = _class_lists(table, classes).take(rows)
    photos = SampleTable(ids, tags, layout.photos, layout.masks, layout.saliency)
    samples = tuple(photos) if len(ids) <= MOST_RECORDS else photos
    untagged = [ids[index] for index in np.flatnonzero(rows < 0).tolist()]
    unread = (*unread_notes(layout), *unread_list_notes(Path(path), layout.splits.values()))
    notes = (*layout.notes, *unread, *_notes(photos, classes, untagged))
    if layout.classes is None and classes != layout.usual_classes and layout.masks:
        notes += ("classes.txt is missing: mask labels are taken to follow the sorted tags",)
    return PhotoSet(layout.name, classes, samples, notes, split if layout.split_names else None)


def place_of(photo_set: PhotoSet) -> str:
    """Name of a data set and its split, if any, for messages."""
    return photo_set.name + (f", split {photo_set.split}" if photo_set.split else "")


def available_splits(path: str | Path) -> tuple[str, ...]:
    """Names of a data set's splits, sorted; empty if there are none.

    Raises:
        DataError: If the layout is unknown.
    """
    return find_layout(Path(path)).split_names


def open_photos(*places: str | Path, apart_from: Sequence[Path] = ()) -> PhotoSet:
    """Collect untagged photos from folders, including subfolders, or single files.

    The id of a photo in a subfolder includes the folder: ``trip/a.jpg`` is ``trip__a``. Masks and
    saliency maps of a data set are excluded. Linked folders are searched once each; notes list what
    was skipped.

    Args:
        places: Folders or photos.
        apart_from: Folders to exclude, such as masks made of these photos; no effect on places
            inside one.

    Raises:
        DataError: If a place contains no photo or is none, or two photos have the same id.
    """
    roots = [Path(place) for place in places]
    own = {folder.resolve() for folder in apart_from}
    beside = [root / name for root in roots for name in MAP_FOLDERS if (root / name).is_dir()]
    maps = [folder for folder in beside if folder.resolve() not in own]
    left_out = (*apart_from, *maps)
    notes = [f"{folder} is skipped: maps, not photos, because of its name" for folder in maps]
    photos = photos_by_id(pair for root in roots for pair in _photos_at(root, left_out, notes))
    samples = tuple(Sample(image_id, path) for image_id, path in photos.items())
    return PhotoSet(roots[0].resolve().stem, (), samples, tuple(notes))


def some_samples(samples: Sequence[Sample], count: int = 200) -> Sequence[Sample]:
    """At most ``count`` evenly spaced photos, where using all would be slow."""
    return samples[:: math.ceil(len(samples) / count)]


def refuse_overwriting_photos(samples: Sequence[Sample], targets: Iterable[Path]) -> None:
    """Reject output files that would overwrite photos.

    Args:
        samples: The photos.
        targets: Files to write.

    Raises:
        DataError: If a target is one of the photos.
    """
    # Unlike Path.resolve, realpath tolerates cyclic links.
    photos = {os.path.realpath(sample.image_path) for sample in samples}
    lost = [target for target in targets if os.path.realpath(target) in photos]
    if lost:
        raise DataError(
            f"{lost[0]}: expected a file to write, found one of the photos, which would be"
            f" overwritten ({len(lost)} in total); choose another --out"
        )


def write_failure(sample: Sample, error: OSError) -> str:
    """Error message for output of a photo that could not be written.

    Raises:
        OSError: The error itself if the disk is the cause, as it would affect all photos.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        raise error
    return (
        f"{sample.image_path}: its output cannot be written ({error.strerror or error}); shorten"
        " its name and those of its folders, or choose another --out"
    )


def _photos_at(
    root: Path, apart_from: Sequence[Path], notes: list[str]
) -> Iterator[tuple[str, Path]]:
    """Ids and photos of a place; skipped files are added to the notes."""
    endings = ", ".join(IMAGE_SUFFIXES)
    if is_archive(root):
        yield from photos_in_shards(shards_at(root)).items()
        return
    if is_file(root):
        if not is_photo(root):
            raise DataError(
                f"{root}: is not a photo; give a folder of photos or a file ending in {endings}"
            )
        yield root.stem, root
        return
    if not root.is_dir():
        raise DataError(f"{root}: no such folder or photo{similar_path(root)}; check the path")
    found = find_files(root, is_photo, apart_from)
    skipped = left_out_notes(found.left_out, root)
    if not found.files and (shards := shards_at(root)):
        yield from photos_in_shards(shards).items()
        return
    if not found.files:
        raise DataError(
            "; ".join([f"{root}: no photo found; photos are files ending in {endings}", *skipped])
        )
    notes += (*skipped, *ending_notes([root], apart_from))
    for path in found.files:
        yield join_id(*path.relative_to(root).with_suffix("").parts), path


def _classes_from(table: TagTable, layout: Layout) -> tuple[str, ...]:
    names = set(table.names)
    if not names:
        raise DataError(f"{layout.name}: no photo has a tag; tag the photos first")
    if names <= set(layout.usual_classes):
        return layout.usual_classes
    return clean_classes(ordered_classes(names), layout.name)


def _rows_by_photo(table: TagTable, layout: Layout) -> dict[str, int]:
    """Row of each tagged photo by its id."""
    found = dict(zip(table.ids, range(len(table)), strict=True))
    if len(found) == len(table) and all(name in layout.photos for name in found):
        return found
    found = {}
    missing = []
    for row, name in enumerate(table.ids):
        image_id = match_id(name, layout.photos)
        if image_id is None:
            missing.append(row)
        elif image_id in found:
            raise DataError(
                f"{table.where(row)}: photo {image_id!r} has tags already at "
                f"{table.where(found[image_id])}; merge the two"
            )
        else:
            found[image_id] = row
    if missing:
        raise DataError(
            f"{table.where(missing[0])}: tags without a photo for "
            f"{first_few([table.ids[row] for row in missing])}; add the photos to "
            f"{_photo_folder(layout)} (files ending in {', '.join(IMAGE_SUFFIXES)}; subfolders "
            "are not searched) or remove their tags"
        )
    return found


def _class_lists(table: TagTable, classes: Sequence[str]) -> ClassLists:
    """Tags of each row."""
    for row in table.rows_with(set(table.names).difference(classes)):
        class_indices(table[row], classes)  # raises
    return table.class_lists(classes)


def _ids_of_split(layout: Layout, split: str | None, data_set: Path) -> list[str]:
    if split is None or (not layout.split_names and split == "train"):
        return list(layout.photos)
    if split in layout.split_ids:
        return list(layout.split_ids[split])
    if split not in layout.splits:
        names = ", ".join(layout.split_names)
        has = f"its splits are {names}" if names else "no splits"
        raise DataError(
            f"{layout.name}: there is no split {split!r} ({has}); choose another or add it to "
            f"{split_home(data_set)}: {split}.txt with one image id per line"
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
                f"{path}, line {number}: photo {image_id!r} is already in line {lines[image_id]}; "
                "remove one"
            )
        lines[image_id] = number
    if not lines:
        raise DataError(f"{path}: lists no photo; write one image id per line")
    return list(lines)


def _photo_folder(layout: Layout) -> Path:
    return next(iter(layout.photos.values())).parent


def _notes(samples: SampleTable, classes: Sequence[str], untagged: Sequence[str]) -> list[str]:
    notes = []
    empty = [samples.ids[index] for index in np.flatnonzero(samples.tags.counts == 0).tolist()]
    without = set(untagged)
    negatives = [image_id for image_id in empty if image_id not in without]
    if negatives:
        notes.append(f"{len(negatives)} photos have no tag (negatives): {first_few(negatives)}")
    if untagged:
        notes.append(
            f"{len(untagged)} photos have no tag entry and count as negatives: "
            f"{first_few(untagged)}"
        )
    present = samples.tags.present()
    absent = [name for index, name in enumerate(classes) if index not in present]
    if absent:
        notes.append(f"no photo is tagged {first_few(absent, 10)}")
    return notes
