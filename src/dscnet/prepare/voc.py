"""Prepares PASCAL VOC 2012 with SBD: tags, the 10,582 photos of ``train_aug``, and masks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dscnet.data.formats import VOC_CLASSES, photos_in, pngs_in
from dscnet.data.tag_files import class_indices, files_ending, read_annotations, read_text
from dscnet.files.label_images import read_labels
from dscnet.metrics.confusion import Labels
from dscnet.prepare.download import (
    Archive,
    Incomplete,
    checked_line,
    provide,
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
from dscnet.types import DataError, DscnetError

DEVKIT = Archive(
    "VOCtrainval_11-May-2012.tar",
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "6cd6e144f989b92b3379bac3b3de84fd",
)
SBD = Archive(
    "benchmark.tgz",
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz",
    "82b4d87ceb2ed10f6038a1cba92111cb",
)
TEST = "VOC2012test.tar, from http://host.robots.ox.ac.uk:8080 (needs an account there)"

PUBLISHED = {
    "annotations": 17125,
    "train": 1464,
    "val": 1449,
    "trainval": 2913,
    "SBD train": 8498,
    "SBD val": 2857,
    "train_aug": 10582,
    "test": 1456,
}
"""Counts as published."""

NUM_LABELS = len(VOC_CLASSES) + 1


@dataclass(frozen=True)
class _Place:
    """Location of an unpacked archive, with all, some or none of its outer folders.

    Attributes:
        outer: The archive's outer folders.
        inner: The folder inside them that identifies it.
    """

    outer: tuple[str, str]
    inner: str

    def skipped(self, root: Path) -> int | None:
        """Number of outer folders missing below ``root``; None if the files are not there."""
        skips = (2, 1, 0)
        return next((n for n in skips if (self._home(root, n) / self.inner).is_dir()), None)

    def find(self, root: Path) -> Path | None:
        """The folder that contains ``inner``."""
        skip = self.skipped(root)
        return None if skip is None else self._home(root, skip)

    def _home(self, root: Path, skip: int) -> Path:
        return root.joinpath(*self.outer[skip:])


_PLACES = {
    DEVKIT: _Place(("VOCdevkit", "VOC2012"), "JPEGImages"),
    SBD: _Place(("benchmark_RELEASE", "dataset"), "cls"),
}


@dataclass(frozen=True)
class _Devkit:
    """An unpacked devkit with all files of its lists."""

    root: Path
    photos: Mapping[str, Path]
    masks: dict[str, Path]
    tags: dict[str, tuple[str, ...]]
    splits: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Sbd:
    """SBD's unpacked masks, with all files of its lists."""

    masks: dict[str, Path]
    splits: dict[str, tuple[str, ...]]


def prepare_voc2012(
    root: Path,
    *,
    sbd: Path | None = None,
    difficult: bool = True,
    download: bool = False,
    verify: bool = False,
) -> Outcome:
    """Write the files needed for training into the devkit; existing files are kept.

    Writes ``ImageSets/tags.csv`` from the annotations, ``classes.txt``, and with SBD
    ``SegmentationClassAug/`` and ``ImageSets/Segmentation/train_aug.txt``: VOC's training photos
    and all of SBD except VOC's val. [Reading: photos of VOC's own train and val keep VOC's mask,
    the others get SBD's, which has no 255.]

    Args:
        root: The folder VOC2012, or one that contains it or VOCdevkit/VOC2012.
        sbd: SBD's folder, with ``cls/``, or one that contains it; None = look in ``root``.
        difficult: Whether objects marked difficult give tags.
        download: Download and unpack the archives of missing files.
        verify: Check the checksums of archives in ``root``, and all existing masks.

    Raises:
        DataError: If a part is incomplete (`Incomplete`) or damaged, or an existing file has other
            content.
        DscnetError: If scipy is needed but missing, or a download fails.
    """
    homes = {DEVKIT: root, SBD: root if sbd is None else sbd}
    if download:
        for archive in homes:
            _provide(archive, homes, there=_PLACES[archive].find(homes[archive]) is not None)
    read = partial(_read, homes, difficult, need_sbd=sbd is not None)
    again = partial(_provide, homes=homes, there=False)
    devkit, extra = until_complete(read, again) if download else read()
    outcome = Outcome()
    texts = {
        devkit.root / "classes.txt": list_text(("background", *VOC_CLASSES)),
        devkit.root / "ImageSets" / "tags.csv": tags_text(devkit.tags),
    }
    refuse_other(texts)
    counts = {"annotations": len(devkit.tags)}
    counts |= {name: len(ids) for name, ids in devkit.splits.items()}
    if extra is None:
        outcome.missing.append(f"SBD, for train_aug: {where_to_get(SBD, homes[SBD])}")
    else:
        counts |= {f"SBD {name}": len(ids) for name, ids in extra.splits.items()}
        train_aug = _train_aug(devkit, extra)
        counts["train_aug"] = len(train_aug)
        texts[devkit.root / "ImageSets" / "Segmentation" / "train_aug.txt"] = list_text(train_aug)
        refuse_other(texts)
        written = _write_masks(devkit, extra, verify)
        outcome.lines.append(f"{devkit.root / 'SegmentationClassAug'}: {written} masks written")
    write_missing(texts, outcome)
    for name, count in counts.items():
        if name in PUBLISHED:
            outcome.count(name, count, PUBLISHED[name])
    if "test" not in devkit.splits:
        outcome.lines.append(f"test: not found, and not needed for training: {TEST}")
    if verify:
        outcome.lines += [checked_line(archive, home) for archive, home in homes.items()]
    return outcome


def devkit_folder(root: Path) -> Path | None:
    """Find an unpacked devkit.

    Args:
        root: The folder VOC2012, or one that contains it or VOCdevkit/VOC2012.

    Returns:
        The folder VOC2012; None if none of the three contains JPEGImages.
    """
    return _PLACES[DEVKIT].find(root)


def read_sbd_mask(path: Path) -> Labels:
    """Read the labels of one of SBD's ``cls/*.mat`` files.

    Returns:
        ``(H, W)``, 0 = background.

    Raises:
        DscnetError: If scipy is missing.
        DataError: If the file is missing, damaged or has no labels.
    """
    loadmat, errors = _mat_reader()
    try:
        labels = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except errors as error:
        raise DataError(
            f"{path}: expected labels in GTcls.Segmentation, found none ({error}); download it"
            " again"
        ) from error
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected GTcls.Segmentation to be integers (H, W), found "
            f"{labels.dtype} {labels.shape}; download it again"
        )
    return labels


def _mat_reader() -> tuple[Any, tuple[type[Exception], ...]]:
    """Scipy's reader, and its exceptions for invalid files."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise DscnetError("SBD's masks need scipy: pip install 'dscnet[voc]'") from error
    known = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, NotImplementedError)
    return loadmat, (*known, MatReadError, zlib.error, struct.error)


def _provide(archive: Archive, homes: Mapping[Archive, Path], *, there: bool) -> None:
    """Download and unpack an archive to the location of its files."""
    skip = _PLACES[archive].skipped(homes[archive])
    provide(archive, homes[archive], there=there, skip=skip or 0)


def _read(
    homes: Mapping[Archive, Path], difficult: bool, *, need_sbd: bool
) -> tuple[_Devkit, _Sbd | None]:
    root = homes[DEVKIT]
    folder, sbd_folder = (_PLACES[archive].find(home) for archive, home in homes.items())
    if folder is None:
        besides = "" if sbd_folder else f"; for train_aug also {where_to_get(SBD, homes[SBD])}"
        raise Incomplete(
            f"{root}: expected the folder JPEGImages there, in VOC2012 or in VOCdevkit/VOC2012, "
            f"found none; {where_to_get(DEVKIT, root)}{besides}",
            DEVKIT,
        )
    if need_sbd and sbd_folder is None:
        raise Incomplete(
            f"{homes[SBD]}: expected SBD's folder cls/ of .mat files there, found none; "
            f"{where_to_get(SBD, homes[SBD])}",
            SBD,
        )
    devkit = _read_devkit(folder, root, difficult)
    return devkit, None if sbd_folder is None else _read_sbd(sbd_folder, devkit, homes)


def _read_devkit(folder: Path, root: Path, difficult: bool) -> _Devkit:
    lists = folder / "ImageSets" / "Segmentation"
    own = {path.stem for path in files_ending(lists, ".txt")} & {"trainval", "test"}
    splits = {
        name: _read_ids(lists / f"{name}.txt", DEVKIT, root)
        for name in sorted(own | {"train", "val"})
    }
    photos = photos_in(folder / "JPEGImages")
    masks = pngs_in(folder / "SegmentationClass")
    for name, ids in splits.items():
        archive = None if name == "test" else DEVKIT
        check = partial(refuse_missing, archive=archive, home=root)
        check(folder / "JPEGImages", "photos", name, ids, photos)
        if name != "test":
            check(folder / "SegmentationClass", "masks", name, ids, masks)
    tags = _read_tags(folder, difficult)
    ids = (*splits["train"], *splits["val"])
    check = partial(refuse_missing, archive=DEVKIT, home=root)
    check(folder / "Annotations", "annotations", "train and val", ids, tags)
    check(folder / "JPEGImages", "photos", "Annotations", tuple(tags), photos)
    return _Devkit(folder, photos, masks, tags, splits)


def _read_tags(folder: Path, difficult: bool) -> dict[str, tuple[str, ...]]:
    """Tags of the devkit's photos, without those of the test set's archive."""
    test = {
        line.split()[0]  # Layout's and Action's lists have a person's number after the id
        for path in sorted((folder / "ImageSets").glob("*/test.txt"))
        for line in read_text(path).splitlines()
        if line.strip()
    }
    return {
        entry.image_id: tuple(VOC_CLASSES[index] for index in class_indices(entry, VOC_CLASSES))
        for entry in read_annotations(folder / "Annotations", difficult=difficult)
        if entry.image_id not in test
    }


def _read_sbd(folder: Path, devkit: _Devkit, homes: Mapping[Archive, Path]) -> _Sbd:
    splits = {name: _read_ids(folder / f"{name}.txt", SBD, homes[SBD]) for name in ("train", "val")}
    masks = {path.stem: path for path in files_ending(folder / "cls", ".mat")}
    kit = partial(refuse_missing, archive=DEVKIT, home=homes[DEVKIT])
    for name, ids in splits.items():
        who = f"SBD's {name}"
        refuse_missing(folder / "cls", ".mat files", who, ids, masks, archive=SBD, home=homes[SBD])
        kit(devkit.root / "JPEGImages", "photos", who, ids, devkit.photos)
        kit(devkit.root / "Annotations", "annotations", who, ids, devkit.tags)
    return _Sbd(masks, splits)


def _train_aug(devkit: _Devkit, sbd: _Sbd) -> tuple[str, ...]:
    """VOC's train in order, then the rest of SBD by id, without VOC's val."""
    train, val = devkit.splits["train"], devkit.splits["val"]
    rest = {*sbd.splits["train"], *sbd.splits["val"]} - {*train, *val}
    return (*train, *sorted(rest))


def _write_masks(devkit: _Devkit, sbd: _Sbd, verify: bool) -> int:
    """Write the masks of train_aug and val; returns the number written."""
    ids = (*_train_aug(devkit, sbd), *devkit.splits["val"])
    own = {*devkit.splits["train"], *devkit.splits["val"]}
    folder = devkit.root / "SegmentationClassAug"
    if any(i not in own and not (folder / f"{i}.png").exists() for i in ids):
        _mat_reader()  # fails early if scipy is missing

    def read(image_id: str) -> tuple[Labels, str]:
        if image_id in own:
            path = devkit.masks[image_id]
            return read_labels(path), str(path)
        path = sbd.masks[image_id]
        return read_sbd_mask(path), str(path)

    photos = {image_id: devkit.photos[image_id] for image_id in ids}
    return write_masks(folder, photos, read, num_labels=NUM_LABELS, verify=verify)


def _read_ids(path: Path, archive: Archive, home: Path) -> tuple[str, ...]:
    """Image ids, one per line, in a list of an archive."""
    if not path.exists():
        raise Incomplete(f"{path}: expected, found none; {where_to_get(archive, home)}", archive)
    ids = tuple(read_text(path).split())
    if not ids:
        raise DataError(f"{path}: expected image ids, one per line, found none; unpack it again")
    return ids
