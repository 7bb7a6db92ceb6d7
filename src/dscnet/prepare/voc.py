"""PASCAL VOC 2012 with SBD's masks: tags, the 10,582 photos of ``train_aug`` and their masks."""

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
    """Where the files of an archive lie: in its outer folders, or in some of them, or in none.

    Attributes:
        outer: The archive's outer folders.
        inner: The folder inside them that tells it.
    """

    outer: tuple[str, str]
    inner: str

    def skipped(self, root: Path) -> int | None:
        """How many outer folders are not below ``root``; None if the files are not there."""
        skips = (2, 1, 0)
        return next((n for n in skips if (self._home(root, n) / self.inner).is_dir()), None)

    def find(self, root: Path) -> Path | None:
        """The folder that holds ``inner``."""
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
    """An unpacked development kit, complete for its own lists."""

    root: Path
    photos: dict[str, Path]
    masks: dict[str, Path]
    tags: dict[str, tuple[str, ...]]
    splits: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Sbd:
    """SBD's unpacked masks, complete for its lists."""

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
    """Write what a run needs beside the development kit; what is there is never written again.

    ``ImageSets/tags.csv`` from the annotations, ``classes.txt``, and with SBD
    ``SegmentationClassAug/`` and ``ImageSets/Segmentation/train_aug.txt``: VOC's training photos
    and all of SBD that are not of VOC's val. [Reading: photos of VOC's own train and val keep
    VOC's mask, the others get SBD's, which has no 255.]

    Args:
        root: The folder VOC2012, or one that holds it or VOCdevkit/VOC2012.
        sbd: SBD's folder, with ``cls/``, or one that holds it; None = look in ``root``.
        difficult: Whether objects marked difficult give tags.
        download: Fetch and unpack the two archives, as far as their files are not there.
        verify: Compare the archives that lie in ``root`` with their checksums, and open every mask
            that was written before.

    Raises:
        DataError: If a part is incomplete, damaged, or a file says something else already.
            (`Incomplete` is one.)
        DscnetError: If scipy is needed and absent, or a download fails.
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
        outcome.lines.append(f"test: not here, and not needed to train: {TEST}")
    if verify:
        outcome.lines += [checked_line(archive, home) for archive, home in homes.items()]
    return outcome


def devkit_folder(root: Path) -> Path | None:
    """Find an unpacked development kit.

    Args:
        root: The folder VOC2012, or one that holds it or VOCdevkit/VOC2012.

    Returns:
        The folder VOC2012; None if there is no folder JPEGImages in any of the three.
    """
    return _PLACES[DEVKIT].find(root)


def read_sbd_mask(path: Path) -> Labels:
    """Read the labels of one of SBD's ``cls/*.mat`` files.

    Returns:
        ``(H, W)``, 0 = background.

    Raises:
        DscnetError: If scipy is absent.
        DataError: If the file is missing, damaged or has no labels.
    """
    loadmat, errors = _mat_reader()
    try:
        labels = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except errors as error:
        raise DataError(
            f"{path}: expected labels under GTcls.Segmentation, found none ({error}); fetch it anew"
        ) from error
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected GTcls.Segmentation to be whole numbers (H, W), found "
            f"{labels.dtype} {labels.shape}; fetch it anew"
        )
    return labels


def _mat_reader() -> tuple[Any, tuple[type[Exception], ...]]:
    """Scipy's reader, and what it raises on files that are none."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise DscnetError("SBD's masks need scipy: pip install 'dscnet[voc]'") from error
    known = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, NotImplementedError)
    return loadmat, (*known, MatReadError, zlib.error, struct.error)


def _provide(archive: Archive, homes: Mapping[Archive, Path], *, there: bool) -> None:
    """Fetch and unpack an archive where its files lie already, or would be looked for."""
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
    """Tags of the kit's own photos: the test set's archive brings annotations too."""
    test = {
        line.split()[0]  # Layout's and Action's lists have the number of a person behind the id
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
    """VOC's train in its order, then the rest of SBD by id, without VOC's val."""
    train, val = devkit.splits["train"], devkit.splits["val"]
    rest = {*sbd.splits["train"], *sbd.splits["val"]} - {*train, *val}
    return (*train, *sorted(rest))


def _write_masks(devkit: _Devkit, sbd: _Sbd, verify: bool) -> int:
    """Masks of train_aug and val; how many were written."""
    ids = (*_train_aug(devkit, sbd), *devkit.splits["val"])
    own = {*devkit.splits["train"], *devkit.splits["val"]}
    folder = devkit.root / "SegmentationClassAug"
    if any(i not in own and not (folder / f"{i}.png").exists() for i in ids):
        _mat_reader()  # says at once that scipy is absent

    def read(image_id: str) -> tuple[Labels, str]:
        if image_id in own:
            path = devkit.masks[image_id]
            return read_labels(path), str(path)
        path = sbd.masks[image_id]
        return read_sbd_mask(path), str(path)

    photos = {image_id: devkit.photos[image_id] for image_id in ids}
    return write_masks(folder, photos, read, num_labels=NUM_LABELS, verify=verify)


def _read_ids(path: Path, archive: Archive, home: Path) -> tuple[str, ...]:
    """Image ids, one a line, of a list that an archive holds."""
    if not path.exists():
        raise Incomplete(f"{path}: expected, found none; {where_to_get(archive, home)}", archive)
    ids = tuple(read_text(path).split())
    if not ids:
        raise DataError(f"{path}: expected image ids, one a line, found none; unpack it again")
    return ids
