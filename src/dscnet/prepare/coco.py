"""Prepares MS COCO 2014, and masks from custom COCO instances files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dscnet.data import open_dataset
from dscnet.data.formats import photos_in
from dscnet.data.formats.coco_json import CocoFile, CocoPhoto, read_coco
from dscnet.data.tag_files import read_text
from dscnet.metrics.confusion import Labels
from dscnet.prepare.download import (
    Archive,
    checked_line,
    fetch,
    provide,
    unpack,
    until_complete,
    where_to_get,
)
from dscnet.prepare.masks import write_masks
from dscnet.prepare.outcome import (
    Outcome,
    list_text,
    refuse_missing,
    refuse_other,
    tags_text,
    write_missing,
)
from dscnet.prepare.outlines import check_outlines, coco_mask, coco_tools
from dscnet.types import DataError

ANNOTATIONS = Archive(
    "annotations_trainval2014.zip",
    "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    "0a379cfc70b0e71301e0f377548639bd",
)


@dataclass(frozen=True)
class Part:
    """A published split.

    Attributes:
        folder: Folder of its photos.
        archive: Archive of its photos.
        json: Its instances file.
        photos: Number of photos.
        tagged: Number of photos with annotations.
    """

    folder: str
    archive: Archive
    json: str
    photos: int
    tagged: int


PARTS = {
    "train": Part(
        "train2014",
        Archive(
            "train2014.zip",
            "http://images.cocodataset.org/zips/train2014.zip",
            "0da8c0bd3d6becc4dcb32757491aca88",
        ),
        "annotations/instances_train2014.json",
        photos=82783,
        tagged=82081,
    ),
    "val": Part(
        "val2014",
        Archive(
            "val2014.zip",
            "http://images.cocodataset.org/zips/val2014.zip",
            "a3d79f5ed8d289b7a7554ce06a5782b3",
        ),
        "annotations/instances_val2014.json",
        photos=40504,
        tagged=40137,
    ),
}
NUM_CLASSES = 80
YAML = """\
name: coco2014
images: [train2014, val2014]
tags: tags.csv
classes: classes.txt
masks: masks
splits: {train: splits/train.txt, val: splits/val.txt}
"""
SALIENCY = "saliency: saliency\n"


def prepare_coco2014(root: Path, *, download: bool = False, verify: bool = False) -> Outcome:
    """Write the files needed for training next to the photos; existing files are kept.

    The one exception: a line for saliency maps is added to ``coco2014.yaml`` once ``saliency/``
    exists.

    Writes ``coco2014.yaml`` (the data set), ``tags.csv``, ``classes.txt``, ``splits/`` and
    ``masks/``. Photos without annotations are in no split. [Reading: as is common; the paper's
    82,081 and 40,137 are the photos with annotations, crowds included.]

    Args:
        root: Folder with ``train2014/``, ``val2014/`` and ``annotations/``.
        download: Download and unpack the archives of missing files.
        verify: Check the checksums of archives in ``root``, and all existing masks.

    Returns:
        The findings. If a part is missing, nothing has been written.

    Raises:
        DataError: If a part is incomplete or damaged, or an existing file has other content.
        DscnetError: If pycocotools is missing, or a download fails.
    """
    if download:
        there = all((root / part.json).exists() for part in PARTS.values())
        provide(ANNOTATIONS, root, there=there)
        for part in PARTS.values():
            provide(part.archive, root, there=(root / part.folder).is_dir())
    outcome = Outcome()
    for part in PARTS.values():
        for path, archive in ((part.folder, part.archive), (part.json, ANNOTATIONS)):
            if not (root / path).exists():
                outcome.missing.append(f"{root / path}: {where_to_get(archive, root)}")
    if outcome.missing:
        return outcome
    coco_tools()  # fails early if pycocotools is missing
    read = partial(_read_splits, root)
    again = partial(_provide_again, root)
    splits = until_complete(read, again) if download else read()
    classes = splits[0].file.classes
    for split in splits:
        if split.file.classes != classes:
            raise DataError(
                f"{split.file.path}: expected the categories of {splits[0].file.path}, found "
                "others; use both files from the same archive"
            )
    texts, outdated = _texts(root, splits), {root / "coco2014.yaml": YAML}
    refuse_other(texts, outdated)
    for split in splits:
        _check_file(split.file, split.photos, root / "masks", outcome)
    for split in splits:
        written = write_masks(
            root / "masks", split.paths, split.mask, num_labels=len(classes) + 1, verify=verify
        )
        outcome.lines.append(f"{root / 'masks'}: {written} masks of {split.name} written")
    write_missing(texts, outcome, outdated)
    outcome.count("classes", len(classes), NUM_CLASSES)
    for split in splits:
        part, photos = PARTS[split.name], split.file.photos
        outcome.count(f"{split.name}, photos in the JSON", len(photos), part.photos)
        outcome.count(f"{split.name}, photos with an annotation", len(split.paths), part.tagged)
    if verify:
        archives = (ANNOTATIONS, *(part.archive for part in PARTS.values()))
        outcome.lines += [checked_line(archive, root) for archive in archives]
    return outcome


def prepare_coco(path: Path, *, verify: bool = False) -> Outcome:
    """Write evaluation masks ``masks/ID.png`` for the photos of an instances file, next to it.

    Without them a run on the file has only tags. Existing masks are kept.

    Args:
        path: The instances file, with its photos where a run looks for them.
        verify: Also check existing masks.

    Returns:
        Number of masks written.

    Raises:
        DataError: If photos are missing, an outline is missing or invalid, or a class has only
            crowds.
        DscnetError: If pycocotools is missing.
    """
    coco_tools()
    photos, outcome, folder = open_dataset(path), Outcome(), path.parent / "masks"
    paths = {sample.image_id: sample.image_path for sample in photos.samples}
    file = read_coco(path, outlines=True, classes=photos.classes)
    drawn = {photo.image_id: photo for photo in file.photos if photo.image_id in paths}
    _check_file(file, drawn, folder, outcome)
    written = write_masks(
        folder,
        paths,
        lambda image_id: (coco_mask(drawn[image_id]), drawn[image_id].where),
        num_labels=photos.num_labels,
        verify=verify,
    )
    outcome.lines.append(f"{folder}: {written} masks written")
    return outcome


def _check_file(
    file: CocoFile, photos: Mapping[str, CocoPhoto], masks: Path, outcome: Outcome
) -> None:
    """Check the outlines of photos without masks, and report what will be skipped."""
    outcome.lines += [f"{file.path}: {note}" for note in file.notes]
    for name, crowd in file.only_crowds().items():
        raise DataError(
            f"{crowd.where}: class {name!r} has only crowds (iscrowd 1), which masks exclude from"
            " evaluation; set iscrowd to 0 where these are objects, or remove the class and its"
            " annotations"
        )
    drawn = (photo for name, photo in photos.items() if not (masks / f"{name}.png").exists())
    if skipped := check_outlines(drawn):
        outcome.lines.append(f"{file.path}: {skipped} polygons of fewer than three points skipped")


@dataclass(frozen=True)
class _Split:
    """A complete split.

    Attributes:
        name: ``train`` or ``val``.
        file: Its instances file.
        photos: Photos with annotations, by image id.
        paths: Their paths.
    """

    name: str
    file: CocoFile
    photos: dict[str, CocoPhoto]
    paths: dict[str, Path]

    def mask(self, image_id: str) -> tuple[Labels, str]:
        """Labels of a photo, and their origin."""
        photo = self.photos[image_id]
        return coco_mask(photo), photo.where


def _provide_again(root: Path, archive: Archive) -> None:
    unpack(fetch(archive, root), root)


def _read_splits(root: Path) -> list[_Split]:
    return [_read_split(root, name) for name in PARTS]


def _read_split(root: Path, name: str) -> _Split:
    part = PARTS[name]
    file = read_coco(root / part.json, outlines=True)
    photos = {photo.image_id: photo for photo in file.photos if photo.instances}
    there = photos_in(root / part.folder)
    refuse_missing(
        root / part.folder,
        "photos",
        str(file.path),
        tuple(photos),
        there,
        archive=part.archive,
        home=root,
    )
    return _Split(name, file, photos, {image_id: there[image_id] for image_id in photos})


def _texts(root: Path, splits: Sequence[_Split]) -> dict[Path, str]:
    entries = [entry for split in splits for entry in split.file.tags() if entry.names]
    return {
        root / "classes.txt": list_text(("background", *splits[0].file.classes)),
        root / "tags.csv": tags_text({entry.image_id: entry.names for entry in entries}),
        root / "coco2014.yaml": _yaml(root),
        **{
            root / "splits" / f"{split.name}.txt": list_text(tuple(split.photos))
            for split in splits
        },
    }


def _yaml(root: Path) -> str:
    """Content of ``coco2014.yaml``; an existing line for saliency maps is kept."""
    path = root / "coco2014.yaml"
    found = read_text(path) if path.exists() else ""
    rest = [line for line in found.splitlines() if not line.startswith("saliency:")]
    if rest == YAML.splitlines() and len(rest) < len(found.splitlines()):
        return found
    return YAML + SALIENCY if (root / "saliency").is_dir() else YAML
