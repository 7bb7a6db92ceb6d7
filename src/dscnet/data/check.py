"""What is wrong with a data set, before hours are spent on it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dscnet.data.agreement import compare_masks
from dscnet.data.check_report import CheckReport, PhotoFacts
from dscnet.data.datasets import PhotoSet, Sample, available_splits, open_dataset, place_of
from dscnet.data.formats import split_home
from dscnet.data.io import (
    LOSSES,
    image_size,
    photo_losses,
    photo_traits,
    read_image,
    read_mask,
    read_saliency,
)
from dscnet.data.overlap import compare_splits
from dscnet.data.split_lists import missing_split_notes
from dscnet.data.tag_files import first_few
from dscnet.data.tag_text import is_background, name_warnings
from dscnet.types import IGNORE_INDEX, DataError, check_class_count

# Values of 12 bits reach no more than this where 16 bits are scaled to 8.
_DARK = 16
# What a run trains on and measures unless it is told otherwise.
_USUAL_SPLITS = ("train", "val")


def check_path(path: str | Path, split: str | None = None) -> CheckReport:
    """Open a data set and every file of it, and say what cannot be used.

    Args:
        path: Folder, COCO instances file or YAML file.
        split: Name of a split, or None for all photos; then the lists of the splits ``train`` and
            ``val``, where there are any, are checked too.

    Raises:
        DataError: If the data set as a whole cannot be opened.
    """
    photo_set = open_dataset(path, split)
    report = _check_files(photo_set)
    splits = available_splits(path) if split is None and photo_set.samples else ()
    if parts := _open_splits(path, splits, photo_set, report):
        for part in parts.values():
            compare_masks(part, report)
    else:
        compare_masks(photo_set, report)
    if len(parts) == len(_USUAL_SPLITS):
        compare_splits(parts["train"], parts["val"], report)
    return report


def check_dataset(
    photo_set: PhotoSet, *, min_size: int = 16, need_saliency: bool = False
) -> CheckReport:
    """Open every file of a data set and say what cannot be used.

    Whatever is wrong with the folder as a whole (unknown class, tag without photo, ...) was
    already raised by ``open_dataset``.

    Args:
        photo_set: The data set; the tags of photos whose tags are unknown are not checked.
        min_size: Least height and width of a photo, pixels: the stride of the network's last map.
        need_saliency: Whether a photo without saliency map is an error.
    """
    report = _check_files(photo_set, min_size=min_size, need_saliency=need_saliency)
    compare_masks(photo_set, report)
    return report


def _check_files(
    photo_set: PhotoSet, *, min_size: int = 16, need_saliency: bool = False
) -> CheckReport:
    """Open every file, and look at classes and tags; masks are not compared with tags."""
    report = CheckReport()
    if not photo_set.samples:
        report.errors.append(f"{photo_set.name}: there is no photo; add some")
        return report
    report.errors += _class_errors(photo_set)
    sizes = []
    traits: dict[str, list[str]] = defaultdict(list)
    losses: dict[str, list[str]] = defaultdict(list)
    dark = []
    black = []
    brightest: list[float] = []
    for sample in photo_set.samples:
        try:
            size = image_size(sample.image_path)
            image = read_image(sample.image_path)
            found = photo_traits(sample.image_path)
            lost = photo_losses(sample.image_path)
        except DataError as error:
            report.errors.append(str(error))
            continue
        sizes.append(size)
        for kind, names in ((traits, found), (losses, lost)):
            for name in names:
                kind[name].append(sample.image_id)
        if "16-bit" in found and image.max() <= _DARK:
            dark.append(sample.image_id)
        report.errors += _size_errors(sample, size, min_size)
        errors, labels = _check_mask(sample, size, photo_set.num_classes)
        report.errors += errors
        report.facts[sample.image_id] = PhotoFacts(_digest(image), labels)
        errors, peak = _check_saliency(sample, size, need_saliency)
        report.errors += errors
        if peak is not None:
            brightest.append(peak)
        if peak == 0 and sample.tags:
            black.append(sample.image_id)
    report.warnings += _reading_warnings(losses, dark)
    report.warnings += _value_warnings(photo_set.name, brightest)
    if black:
        report.warnings.append(
            f"{len(black)} tagged photos have an all-black saliency map, which says that nothing "
            f"stands out: {first_few(black)}; make those maps again if that is wrong"
        )
    report.info += _summary(photo_set, sizes)
    _check_tags(photo_set, report)
    report.info += photo_set.notes
    for trait, ids in traits.items():
        report.info.append(f"{len(ids)} photos are {trait} and will be converted: {first_few(ids)}")
    return report


def _open_splits(
    path: str | Path, splits: Sequence[str], whole: PhotoSet, report: CheckReport
) -> dict[str, PhotoSet]:
    """Open the usual splits, and add what is wrong with them alone."""
    if splits and "train" not in splits:
        report.warnings.append(
            f"{whole.name}: there is no split 'train' (its splits are {', '.join(splits)}); add "
            f"train.txt with one image id a line to {split_home(Path(path))}, or name another by "
            "--train_split"
        )
    report.info += missing_split_notes(whole.name, "val", splits)
    parts = {}
    for split in (name for name in _USUAL_SPLITS if name in splits):
        try:
            parts[split] = open_dataset(path, split)
        except DataError as error:
            report.errors.append(str(error))
    if train := parts.get("train"):
        told = _carried_by_none(whole)
        absent = [name for name in _carried_by_none(train) if name not in told]
        _check_absent(train, absent, report)
    return parts


def _class_errors(photo_set: PhotoSet) -> list[str]:
    """What is wrong with classes that no reader of ours has listed."""
    errors = []
    try:
        check_class_count(photo_set.num_classes, photo_set.name)
    except DataError as error:
        errors.append(str(error))
    if names := [name for name in photo_set.classes if is_background(name)]:
        errors.append(f"{photo_set.name}: {names[0]!r} is no class but the background; remove it")
    return errors


def _digest(image: Tensor) -> bytes | None:
    """The same for photos of the same pixels, however they are stored; None for a single colour."""
    if (image == image[:, :1, :1]).all():
        return None
    digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.numpy().tobytes())
    return digest.digest()


def _size_errors(sample: Sample, size: tuple[int, int], min_size: int) -> list[str]:
    if min(size) >= min_size:
        return []
    return [
        f"{sample.image_path}: is {size[1]} x {size[0]} pixels, less than {min_size} on one side; "
        "replace it by a larger version or remove it"
    ]


def _check_mask(
    sample: Sample, size: tuple[int, int], num_classes: int
) -> tuple[list[str], frozenset[int] | None]:
    """What is wrong with a photo's mask, and its labels."""
    if sample.mask_path is None:
        return [], None
    try:
        mask = read_mask(sample.mask_path)
    except DataError as error:
        return [str(error)], None
    errors = _shape_errors(sample, str(sample.mask_path), tuple(mask.shape), size)
    labels = torch.unique(mask).tolist()
    strange = [str(label) for label in labels if num_classes < label != IGNORE_INDEX]
    if strange:
        errors.append(
            f"{sample.mask_path}: has labels {first_few(strange)}, but {num_classes} classes have "
            f"labels up to {num_classes} ({IGNORE_INDEX} = ignore); correct the mask or the classes"
        )
    return errors, frozenset(labels)


def _check_saliency(
    sample: Sample, size: tuple[int, int], needed: bool
) -> tuple[list[str], float | None]:
    """What is wrong with a photo's saliency map, and its largest value in [0, 1]."""
    if sample.saliency_path is None:
        missing = (
            f"{sample.image_path}: has no saliency map; add {sample.image_id}.png to the folder "
            "saliency/ of the data set, or do without maps (saliency: from_cam)"
        )
        return [missing] if needed else [], None
    try:
        saliency = read_saliency(sample.saliency_path)
    except DataError as error:
        return [str(error)], None
    shape = tuple(saliency.shape[1:])
    return _shape_errors(sample, str(sample.saliency_path), shape, size), saliency.max().item()


def _reading_warnings(losses: Mapping[str, list[str]], dark: Sequence[str]) -> list[str]:
    """Warnings of what is not read of photos, by its kind, and of photos that come out black."""
    warnings = [
        f"{len(ids)} photos hold {loss}, which are not read: {first_few(ids)}; {LOSSES[loss]}"
        for loss, ids in losses.items()
    ]
    if dark:
        warnings.append(
            f"{len(dark)} 16-bit photos are nearly black, for their values use 12 bits or fewer: "
            f"{first_few(dark)}; save them with 8 bits, the brightest value at 255"
        )
    return warnings


def _value_warnings(name: str, brightest: Sequence[float]) -> list[str]:
    """A warning of saliency maps whose values seem to be scaled otherwise."""
    warnings = []
    # A map of 8 bits has steps of 1/255.
    if brightest and 0 < max(brightest) < 1.5 / 255:
        warnings.append(
            f"{name}: no saliency map has a value above 1; expected 0..255, 255 for what stands "
            "out most; multiply 0/1 maps by 255"
        )
    return warnings


def _shape_errors(
    sample: Sample, file: str, shape: Sequence[int], size: tuple[int, int]
) -> list[str]:
    if tuple(shape) == size:
        return []
    return [
        f"{file}: is {shape[1]} x {shape[0]} pixels, but its photo {sample.image_path} is "
        f"{size[1]} x {size[0]}; re-export it at the photo's size"
    ]


def _check_tags(photo_set: PhotoSet, report: CheckReport) -> None:
    tagged = [sample.tags for sample in photo_set.samples if sample.tags is not None]
    if not tagged:
        return
    counts = [sum(index in tags for tags in tagged) for index in range(photo_set.num_classes)]
    trains = photo_set.split is None or photo_set.split.startswith("train")
    if trains:
        _check_absent(photo_set, _carried_by_none(photo_set), report)
    for name, count in zip(photo_set.classes, counts, strict=True):
        if count == len(tagged) and trains:
            report.warnings.append(
                f"every photo carries {name!r}, so nothing tells it from the rest; add photos "
                "without it"
            )
    report.warnings += name_warnings(photo_set.classes)
    if trains:
        report.warnings += _never_alone(photo_set.classes, tagged)
    pairs = zip(photo_set.classes, counts, strict=True)
    report.info.append("photos per class: " + ", ".join(f"{name} {count}" for name, count in pairs))


def _carried_by_none(photo_set: PhotoSet) -> list[str]:
    present = {index for sample in photo_set.samples for index in sample.tags or ()}
    return [name for index, name in enumerate(photo_set.classes) if index not in present]


def _check_absent(photo_set: PhotoSet, names: Sequence[str], report: CheckReport) -> None:
    """Add that classes are carried by no photo to train on; they keep their labels in masks."""
    place = place_of(photo_set)
    if names and len(names) == photo_set.num_classes:
        report.errors.append(f"{place}: no photo carries a class; tag some")
    elif names and photo_set.split is not None:
        report.warnings.append(
            f"{place}: no photo carries {first_few([repr(name) for name in names])}, so nothing is"
            " learned of it; tag some, or leave it out of the classes: in classes.txt, which may"
            " be added, or where the data set lists them"
        )


def _never_alone(classes: Sequence[str], tagged: Sequence[tuple[int, ...]]) -> list[str]:
    """A warning for each class whose photos all show another class too, which not all photos do."""
    warnings = []
    for index, name in enumerate(classes):
        photos = [set(tags) for tags in tagged if index in tags]
        shared = set.intersection(*photos) - {index} if photos else set()
        others = [other for other in sorted(shared) if not all(other in tags for tags in tagged)]
        if others:
            listed = " and ".join(repr(classes[other]) for other in others)
            warnings.append(
                f"every photo of {name!r} shows {listed} too, so tags do not tell where one ends "
                f"and the other begins; add photos of {name!r} without, or make them one class"
            )
    return warnings


def _summary(photo_set: PhotoSet, sizes: Sequence[tuple[int, int]]) -> list[str]:
    samples = photo_set.samples
    masks = sum(sample.mask_path is not None for sample in samples)
    saliency = sum(sample.saliency_path is not None for sample in samples)
    lines = [
        f"{photo_set.name}: {len(samples)} photos, {photo_set.num_classes} classes, "
        f"{masks} masks, {saliency} saliency maps"
    ]
    if sizes:
        heights, widths = zip(*sizes, strict=True)
        lines.append(
            f"heights {min(heights)} to {max(heights)} pixels, "
            f"widths {min(widths)} to {max(widths)} pixels"
        )
    return lines
