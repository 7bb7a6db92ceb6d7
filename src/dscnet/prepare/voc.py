"""PASCAL VOC 2012 with SBD's masks: tags, the 10,582 photos of ``train_aug`` and their masks."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dscnet.confusion import Labels
from dscnet.data.formats import VOC_CLASSES, photos_in, pngs_in
from dscnet.data.tag_files import class_indices, files_ending, read_annotations, read_text
from dscnet.labels.pseudo_label import read_label
from dscnet.prepare.download import Archive, checked_line, provide
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
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
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
        download: Fetch and unpack the two archives, as far as they are not there.
        verify: Compare the archives that lie in ``root`` with their checksums, and open every mask
            that was written before.

    Raises:
        DataError: If a part is incomplete, damaged, or a file says something else already.
        DscnetError: If scipy is needed and absent, or a download fails.
    """
    sbd_home = root if sbd is None else sbd
    if download:
        provide(DEVKIT, root, there=devkit_folder(root) is not None)
        provide(SBD, sbd_home, there=_sbd_folder(sbd_home) is not None)
    outcome = Outcome()
    devkit = _read_devkit(root, difficult)
    sbd_folder = _sbd_folder(sbd_home)
    if sbd is not None and sbd_folder is None:
        raise DataError(f"{sbd}: expected SBD's folder cls/ of .mat files there, found none")
    texts = {
        devkit.root / "classes.txt": list_text(("background", *VOC_CLASSES)),
        devkit.root / "ImageSets" / "tags.csv": tags_text(devkit.tags),
    }
    refuse_other(texts)
    counts = {"annotations": len(devkit.tags)}
    counts |= {name: len(ids) for name, ids in devkit.splits.items()}
    if sbd_folder is None:
        outcome.missing.append(f"SBD, for train_aug: {SBD.name} from {SBD.url}")
    else:
        extra = _read_sbd(sbd_folder, devkit)
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
        outcome.lines += [checked_line(DEVKIT, root), checked_line(SBD, sbd_home)]
    return outcome


def devkit_folder(root: Path) -> Path | None:
    """Find an unpacked development kit.

    Args:
        root: The folder VOC2012, or one that holds it or VOCdevkit/VOC2012.

    Returns:
        The folder VOC2012; None if there is no folder JPEGImages in any of the three.
    """
    homes = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    return next((home for home in homes if (home / "JPEGImages").is_dir()), None)


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


def _sbd_folder(root: Path) -> Path | None:
    homes = (root, root / "dataset", root / "benchmark_RELEASE" / "dataset")
    return next((home for home in homes if (home / "cls").is_dir()), None)


def _read_devkit(root: Path, difficult: bool) -> _Devkit:
    folder = devkit_folder(root)
    if folder is None:
        raise DataError(
            f"{root}: expected the folder JPEGImages there, in VOC2012 or in VOCdevkit/VOC2012, "
            f"found none; fetch and unpack {DEVKIT.url}, or let --download do so"
        )
    lists = folder / "ImageSets" / "Segmentation"
    splits = {
        path.stem: _read_ids(path)
        for path in files_ending(lists, ".txt")
        if path.stem in ("train", "val", "trainval", "test")
    }
    for name in ("train", "val"):
        if name not in splits:
            raise DataError(f"{lists / name}.txt: expected, found none; unpack {DEVKIT.name} again")
    photos = photos_in(folder / "JPEGImages")
    masks = pngs_in(folder / "SegmentationClass")
    for name, ids in splits.items():
        refuse_missing(folder / "JPEGImages", "photos", name, ids, photos)
        if name != "test":
            refuse_missing(folder / "SegmentationClass", "masks", name, ids, masks)
    entries = read_annotations(folder / "Annotations", difficult=difficult)
    tags = {
        entry.image_id: tuple(VOC_CLASSES[index] for index in class_indices(entry, VOC_CLASSES))
        for entry in entries
    }
    ids = (*splits["train"], *splits["val"])
    refuse_missing(folder / "Annotations", "annotations", "train and val", ids, tags)
    refuse_missing(folder / "JPEGImages", "photos", "Annotations", tuple(tags), photos)
    return _Devkit(folder, photos, masks, tags, splits)


def _read_sbd(folder: Path, devkit: _Devkit) -> _Sbd:
    splits = {name: _read_ids(folder / f"{name}.txt") for name in ("train", "val")}
    masks = {path.stem: path for path in files_ending(folder / "cls", ".mat")}
    for name, ids in splits.items():
        refuse_missing(folder / "cls", ".mat files", f"SBD's {name}", ids, masks)
        refuse_missing(devkit.root / "JPEGImages", "photos", f"SBD's {name}", ids, devkit.photos)
        refuse_missing(
            devkit.root / "Annotations", "annotations", f"SBD's {name}", ids, devkit.tags
        )
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
            return read_label(path), str(path)
        path = sbd.masks[image_id]
        return read_sbd_mask(path), str(path)

    photos = {image_id: devkit.photos[image_id] for image_id in ids}
    return write_masks(folder, photos, read, num_labels=NUM_LABELS, verify=verify)


def _read_ids(path: Path) -> tuple[str, ...]:
    ids = tuple(read_text(path).split())
    if not ids:
        raise DataError(f"{path}: expected image ids, one a line, found none; unpack it again")
    return ids
