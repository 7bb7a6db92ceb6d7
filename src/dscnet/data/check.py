"""Validation of a data set before training."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from dscnet.data.check_report import CheckReport, PhotoFacts
from dscnet.data.datasets import (
    PhotoSet,
    Sample,
    available_splits,
    open_dataset,
    place_of,
    some_samples,
)
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
from dscnet.data.mask_consistency import compare_masks
from dscnet.data.overlap import compare_splits
from dscnet.data.split_lists import missing_split_notes
from dscnet.data.tag_files import first_few
from dscnet.data.tag_text import is_background, name_warnings
from dscnet.types import IGNORE_INDEX, DataError, check_class_count

# Maximum of 12-bit values after scaling 16 bits to 8.
_DARK = 16
# The default splits for training and evaluation.
_USUAL_SPLITS = ("train", "val")


def check_path(path: str | Path, split: str | None = None) -> CheckReport:
    """Open a data set with all its files, and report what cannot be used.

    Args:
        path: Folder, COCO instances file or YAML file.
        split: Name of a split, or None for all photos; then the splits ``train`` and ``val``, if
            they exist, are checked too.

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
    photo_set: PhotoSet,
    *,
    min_size: int = 16,
    need_saliency: bool = False,
    opened: int | None = None,
) -> CheckReport:
    """Open all files of a data set, and report what cannot be used.

    Errors of the data set as a whole (unknown class, tag without photo, ...) are raised by
    ``open_dataset``.

    Args:
        photo_set: The data set; unknown tags are not checked.
        min_size: Minimum height and width of photos, pixels: the stride of the network.
        need_saliency: Whether a missing saliency map is an error.
        opened: Maximum number of photos to open, evenly spaced; None = all.
    """
    report = _check_files(photo_set, min_size, need_saliency, opened)
    compare_masks(photo_set, report)
    return report


def _check_files(
    photo_set: PhotoSet,
    min_size: int = 16,
    need_saliency: bool = False,
    opened: int | None = None,
) -> CheckReport:
    """Check all files, classes and tags, without comparing masks with tags."""
    report = CheckReport()
    if not photo_set.samples:
        report.errors.append(f"{photo_set.name}: there are no photos; add some")
        return report
    report.errors += _class_errors(photo_set)
    sizes = []
    traits: dict[str, list[str]] = defaultdict(list)
    losses: dict[str, list[str]] = defaultdict(list)
    dark = []
    black = []
    brightest: list[float] = []
    samples = photo_set.samples if opened is None else some_samples(photo_set.samples, opened)
    for sample in samples:
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
            f"{len(black)} tagged photos have an all-black saliency map, without any salient "
            f"object: {first_few(black)}; recompute those maps if that is wrong"
        )
    report.info += _summary(photo_set, sizes)
    if len(samples) < len(photo_set.samples):
        report.info.append(
            f"{len(samples)} of {len(photo_set.samples)} photos were opened, evenly spaced;"
            " `dscnet check` opens all"
        )
    _check_tags(photo_set, report)
    report.info += photo_set.notes
    for trait, ids in traits.items():
        report.info.append(f"{len(ids)} photos are {trait} and will be converted: {first_few(ids)}")
    return report


def _open_splits(
    path: str | Path, splits: Sequence[str], whole: PhotoSet, report: CheckReport
) -> dict[str, PhotoSet]:
    """Open the default splits, and report what is wrong with them."""
    if splits and "train" not in splits:
        report.warnings.append(
            f"{whole.name}: there is no split 'train' (its splits are {', '.join(splits)}); add "
            f"train.txt with one image id per line to {split_home(Path(path))}, or choose another "
            "with --train_split"
        )
    report.info += missing_split_notes(whole.name, "val", splits)
    parts = {}
    for split in (name for name in _USUAL_SPLITS if name in splits):
        try:
            parts[split] = open_dataset(path, split)
        except DataError as error:
            report.errors.append(str(error))
    if train := parts.get("train"):
        reported = _untagged_classes(whole)
        absent = [name for name in _untagged_classes(train) if name not in reported]
        _check_absent(train, absent, report)
    return parts


def _class_errors(photo_set: PhotoSet) -> list[str]:
    """Errors in class names of data sets that were not read by ``open_dataset``."""
    errors = []
    try:
        check_class_count(photo_set.num_classes, photo_set.name)
    except DataError as error:
        errors.append(str(error))
    if names := [name for name in photo_set.classes if is_background(name)]:
        errors.append(f"{photo_set.name}: {names[0]!r} is the background, not a class; remove it")
    return errors


def _digest(image: Tensor) -> bytes | None:
    """Digest of the pixels, independent of the file format; None for a single colour."""
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
    """Errors in a photo's mask, and its labels."""
    if sample.mask_path is None:
        return [], None
    try:
        mask = read_mask(sample.mask_path)
    except DataError as error:
        return [str(error)], None
    errors = _shape_errors(sample, str(sample.mask_path), tuple(mask.shape), size)
    labels = torch.unique(mask).tolist()
    invalid = [str(label) for label in labels if num_classes < label != IGNORE_INDEX]
    if invalid:
        errors.append(
            f"{sample.mask_path}: has labels {first_few(invalid)}, but {num_classes} classes have "
            f"labels up to {num_classes} ({IGNORE_INDEX} = ignore); correct the mask or the classes"
        )
    return errors, frozenset(labels)


def _check_saliency(
    sample: Sample, size: tuple[int, int], needed: bool
) -> tuple[list[str], float | None]:
    """Errors in a photo's saliency map, and its maximum in [0, 1]."""
    if sample.saliency_path is None:
        missing = (
            f"{sample.image_path}: has no saliency map; add {sample.image_id}.png to the folder "
            "saliency/ of the data set, or use none (saliency: from_cam)"
        )
        return [missing] if needed else [], None
    try:
        saliency = read_saliency(sample.saliency_path)
    except DataError as error:
        return [str(error)], None
    shape = tuple(saliency.shape[1:])
    return _shape_errors(sample, str(sample.saliency_path), shape, size), saliency.max().item()


def _reading_warnings(losses: Mapping[str, list[str]], dark: Sequence[str]) -> list[str]:
    """Warnings about ignored content of photos, by kind, and about nearly black photos."""
    warnings = [
        f"{len(ids)} photos have {loss}, which are ignored: {first_few(ids)}; {LOSSES[loss]}"
        for loss, ids in losses.items()
    ]
    if dark:
        warnings.append(
            f"{len(dark)} 16-bit photos are nearly black, as their values use 12 bits or fewer: "
            f"{first_few(dark)}; save them with 8 bits, the brightest value at 255"
        )
    return warnings


def _value_warnings(name: str, brightest: Sequence[float]) -> list[str]:
    """A warning if saliency maps do not seem to be scaled to 0..255."""
    warnings = []
    # A map of 8 bits has steps of 1/255.
    if brightest and 0 < max(brightest) < 1.5 / 255:
        warnings.append(
            f"{name}: no saliency map has a value above 1; expected 0..255, 255 = most salient; "
            "multiply 0/1 maps by 255"
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
    found = Counter(chain.from_iterable(map(set, tagged)))
    counts = [found[index] for index in range(photo_set.num_classes)]
    trains = photo_set.split is None or photo_set.split.startswith("train")
    if trains:
        _check_absent(photo_set, _untagged_classes(photo_set), report)
    for name, count in zip(photo_set.classes, counts, strict=True):
        if count == len(tagged) and trains:
            report.warnings.append(
                f"every photo is tagged {name!r}, so it cannot be told from the rest; add photos "
                "without it"
            )
    report.warnings += name_warnings(photo_set.classes)
    if trains:
        report.warnings += _cooccurrence_warnings(photo_set.classes, tagged)
    pairs = zip(photo_set.classes, counts, strict=True)
    report.info.append("photos per class: " + ", ".join(f"{name} {count}" for name, count in pairs))


def _untagged_classes(photo_set: PhotoSet) -> list[str]:
    present = {index for sample in photo_set.samples for index in sample.tags or ()}
    return [name for index, name in enumerate(photo_set.classes) if index not in present]


def _check_absent(photo_set: PhotoSet, names: Sequence[str], report: CheckReport) -> None:
    """Report classes without training photos; they keep their labels in masks."""
    place = place_of(photo_set)
    if names and len(names) == photo_set.num_classes:
        report.errors.append(f"{place}: no photo has a tag; tag some")
    elif names and photo_set.split is not None:
        report.warnings.append(
            f"{place}: no photo is tagged {first_few([repr(name) for name in names])}, so it cannot"
            " be learned; tag some, or remove it from the classes: in classes.txt, which may be"
            " added, or where the data set lists them"
        )


def _cooccurrence_warnings(classes: Sequence[str], tagged: Sequence[tuple[int, ...]]) -> list[str]:
    """A warning for each class that only occurs together with another one."""
    together: dict[int, set[int]] = {}
    everywhere = set(tagged[0]).intersection(*tagged)
    for tags in tagged:
        for index in tags:
            together.setdefault(index, set(tags)).intersection_update(tags)
    warnings = []
    for index, name in enumerate(classes):
        others = sorted(together.get(index, set()) - everywhere - {index})
        if others:
            listed = " and ".join(repr(classes[other]) for other in others)
            warnings.append(
                f"every photo of {name!r} is also tagged {listed}, so tags cannot separate them; "
                f"add photos of {name!r} only, or merge them into one class"
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
