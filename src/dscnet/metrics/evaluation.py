"""Evaluation: IoU from one confusion matrix per data set, and the background threshold sweep.

See ``dscnet.metrics.confusion`` for which pixels and labels count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscnet.distributed.ranks import sum_over_ranks
from dscnet.files.atomic import whole_file
from dscnet.files.label_folders import label_files, left_out, shared_ids
from dscnet.files.label_images import read_labels
from dscnet.files.similar_names import similar_path
from dscnet.metrics.confusion import ConfusionMatrix, Labels, confusion_matrix, invalid_labels
from dscnet.metrics.sweep import SweepCounts
from dscnet.types import BACKGROUND, IGNORE_INDEX, DataError, check_class_count

SCHEMA = 1
"""Version of ``metrics.json``."""

STAGES = ("cam", "pseudo_label", "segmenter")
"""Sections of ``metrics.json`` with IoU."""

EXTRA = ("supervision", "rounds", "refine", "timing")
"""Optional sections of ``metrics.json``."""

SWEEP = tuple(i / 100 for i in range(100))
"""Background thresholds of the sweep; SEAM uses the first 60, too few for small objects."""

__all__ = [
    "ConfusionMatrix",
    "confusion_matrix",
    "evaluate_cams",
    "evaluate_each",
    "evaluate_folders",
    "evaluate_pairs",
    "label_files",
    "label_names",
    "left_out",
    "read_metrics",
    "section_text",
    "shared_ids",
    "write_metrics",
    "write_section",
]


def evaluate_pairs(
    pairs: Iterable[tuple[Labels, Labels]],
    classes: Sequence[str],
    *,
    split: str | None,
    bg_score: float | None = None,
) -> dict[str, Any]:
    """Compare predicted with ground-truth labels.

    Args:
        pairs: Prediction and ground truth of each photo, each ``(H, W)``; of several ranks, each
            gives those of its own photos.
        classes: Foreground class names; class c has label c + 1.
        split: Name of the split.
        bg_score: Background threshold of the predictions; None if there is none.

    Returns:
        A section of ``metrics.json``: ``split``, ``num_images``, ``miou``, ``bg_score``,
        ``miou_best_bg``, ``best_bg_score``, ``iou`` by class name with ``background`` first, and
        ``pixel_accuracy``. Numbers in [0, 1]; None where nothing was measured.

    Raises:
        ValueError: If labels or shapes do not fit, or a class name occurs twice.
    """
    items = (([pred], gt) for pred, gt in pairs)
    (section,) = evaluate_each(items, classes, count=1, split=split, bg_score=bg_score)
    return section


def evaluate_each(
    items: Iterable[tuple[Sequence[Labels], Labels]],
    classes: Sequence[str],
    *,
    count: int,
    split: str | None,
    bg_score: float | None = None,
) -> list[dict[str, Any]]:
    """Compare several predictions of each photo with its ground truth, in one pass.

    Args:
        items: For each photo, ``count`` predictions and the ground truth, each ``(H, W)``; of
            several ranks, each gives those of its own photos.
        classes: Foreground class names.
        count: Number of predictions of a photo.
        split: Name of the split.
        bg_score: Background threshold of the predictions; None if there is none.

    Returns:
        A section as of :func:`evaluate_pairs` for each prediction.

    Raises:
        ValueError: If labels, shapes or numbers do not fit, or a class name occurs twice.
    """
    names = label_names(classes)
    matrices = [ConfusionMatrix(len(names)) for _ in range(count)]
    num_images = 0
    for predictions, gt in items:
        for matrix, pred in zip(matrices, predictions, strict=True):
            matrix.update(pred, gt)
        num_images += 1
    num_images = _over_ranks(num_images, *(matrix.counts for matrix in matrices))
    numbers: dict[str, Any] = {"split": split, "num_images": num_images, "bg_score": bg_score}
    return [_section(matrix, names, **numbers) for matrix in matrices]


def evaluate_cams(
    items: Iterable[tuple[NDArray[np.floating], Sequence[int] | NDArray[np.integer], Labels]],
    class_names: Sequence[str],
    *,
    split: str | None,
    bg_score: float,
    sweep: Sequence[float] = SWEEP,
) -> dict[str, Any]:
    """Evaluate CAMs at a fixed background threshold, and at the best one of a sweep.

    The sweep chooses on ground truth, so its mIoU is an upper bound, not a result. It takes one
    pass: for each pair of labels, pixels are counted by how many thresholds their score exceeds.

    Args:
        items: For each photo, CAMs ``(C', h, w)`` in [0, 1], their 0-based classes ``(C',)`` and
            the ground truth ``(H, W)``; CAMs are resized to it. Of several ranks, each gives those
            of its own photos.
        class_names: Foreground class names.
        split: Name of the split.
        bg_score: The fixed background threshold; labels as by ``labels.pseudo_label``.
        sweep: Background thresholds to try; on ties the lowest is reported.

    Returns:
        A section as of :func:`evaluate_pairs`, with ``miou_best_bg`` and ``best_bg_score``.

    Raises:
        ValueError: If shapes, classes or labels do not fit, or ``sweep`` is empty.
    """
    if not sweep:
        raise ValueError("sweep must contain at least one threshold")
    names = label_names(class_names)
    counts = SweepCounts(len(names), {*sweep, bg_score})
    num_images = 0
    for cam, classes, gt in items:
        counts.add(cam, classes, gt)
        num_images += 1
    num_images = _over_ranks(num_images, counts.counts)
    matrices = counts.matrices()
    fixed = matrices[bg_score]
    section = _section(fixed, names, split=split, num_images=num_images, bg_score=bg_score)
    mious = {score: matrices[score].miou() for score in sorted(sweep)}
    if not math.isnan(fixed.miou()):  # the same pixels count at every threshold
        best_score = max(mious, key=mious.__getitem__)
        section |= {"miou_best_bg": mious[best_score], "best_bg_score": best_score}
    return section


def evaluate_folders(
    pred_dir: Path,
    gt_dir: Path,
    classes: Sequence[str],
    *,
    split: str | None = None,
    ids: Sequence[str] | None = None,
    failures: list[str] | None = None,
) -> dict[str, Any]:
    """Compare two folders of label PNGs.

    The image id is the path relative to the folder, without ``.png``.

    Args:
        pred_dir: Predictions; files without ground truth are ignored.
        gt_dir: Ground truth, searched recursively.
        classes: Foreground class names.
        split: Name of the split, for the section.
        ids: Photos to evaluate; None = all with ground truth.
        failures: Receives a line for each photo whose masks cannot be read or differ in size,
            and which is skipped. None = the first such photo raises an error.

    Returns:
        A section as of :func:`evaluate_pairs`.

    Raises:
        DataError: If a folder or file is missing, no photo can be evaluated, a label is out of
            range, or the ground truth has no classes besides 255, as in 0/255 masks.
        ValueError: If ``ids`` is empty.
    """
    gt_dir, pred_dir = Path(gt_dir), Path(pred_dir)
    for folder in (pred_dir, gt_dir):
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder{similar_path(folder)}; give one of label PNGs"
            )
    truths, predictions = label_files(gt_dir), label_files(pred_dir)
    for folder, files, what in (
        (gt_dir, truths, "ground truth"),
        (pred_dir, predictions, "prediction"),
    ):
        if not files:
            raise DataError(f"{folder}: contains no {what}; expected label PNGs, one per photo")
    if ids is None:
        ids = sorted(truths)
    if not ids:
        raise ValueError("ids must name at least one photo, got none")
    if missing := [i for i in ids if i not in truths]:
        remedy = "correct the list of photos or add the files"
        raise DataError(_missing(gt_dir, missing, len(ids), "ground truth", remedy))
    if missing := [i for i in ids if i not in predictions]:
        remedy = "predict those photos, or measure only the ones that have one"
        raise DataError(_missing(pred_dir, missing, len(ids), "prediction", remedy))
    names = label_names(classes)
    matrix = ConfusionMatrix(len(names))
    num_images = num_pixels = 0
    for paths in ((predictions[i], truths[i]) for i in ids):
        try:
            pred, gt = _read_pair(*paths)
        except DataError as error:
            if failures is None:
                raise
            failures.append(str(error))
            continue
        _count_files(matrix, paths, pred, gt)
        num_images += 1
        num_pixels += gt.size
    if failures and not num_images:
        raise DataError(f"no photo can be evaluated; the first error: {failures[0]}")
    _refuse_binary(matrix, num_pixels, gt_dir)
    return _section(matrix, names, split=split, num_images=num_images, bg_score=None)


def write_metrics(path: Path, sections: Mapping[str, Any]) -> None:
    """Write ``metrics.json``.

    Args:
        path: File to write; replaced if it exists.
        sections: ``cam``, ``pseudo_label``, ``segmenter`` and ``tags`` (``{"map": x}`` and the
            result of ``tag_agreement``); missing sections and non-finite numbers become null.
            Optional: ``supervision``, ``rounds`` (the first three sections of each training
            round), ``refine`` (mIoU and seconds of each refinement step), and ``timing``
            (``seconds``, ``cpu_seconds`` and ``photos_per_second`` of the stages before).

    Raises:
        ValueError: If a section is unknown.
    """
    if unknown := set(sections) - {*STAGES, "tags", *EXTRA}:
        raise ValueError(f"sections must be of {(*STAGES, 'tags', *EXTRA)}, got {sorted(unknown)}")
    complete = {"schema": SCHEMA} | {name: sections.get(name) for name in STAGES}
    complete |= {"tags": sections.get("tags") or {"map": None}}
    _write_json(path, complete | {name: sections[name] for name in EXTRA if name in sections})


def read_metrics(path: Path) -> dict[str, Any]:
    """Read ``metrics.json``.

    Raises:
        DataError: If the file is missing, not JSON, or has another schema.
    """
    try:
        metrics = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable; run `dscnet evaluate` again") from error
    if not isinstance(metrics, dict) or metrics.get("schema") != SCHEMA:
        raise DataError(
            f"{path}: not metrics of schema {SCHEMA}; run `dscnet evaluate` with this version"
        )
    return metrics


def write_section(path: Path, section: Mapping[str, Any]) -> None:
    """Write a single section, as from :func:`evaluate_folders`, with the schema."""
    _write_json(path, {"schema": SCHEMA, **section})


def section_text(section: Mapping[str, Any]) -> str:
    """A section as text in percent, one class per line; ``-`` = not measured."""
    rows = [("mIoU", section["miou"]), ("pixel accuracy", section["pixel_accuracy"])]
    rows += section["iou"].items()
    width = max(len(name) for name, _ in rows)
    lines = [f"{section['num_images']} photos, percent"]
    for name, value in rows:
        lines.append(f"{name:{width}}  " + ("    -" if value is None else f"{100 * value:5.1f}"))
    return "\n".join(lines)


def label_names(classes: Sequence[str]) -> list[str]:
    """Names of all labels: ``background``, then the foreground classes.

    Raises:
        ValueError: If a name occurs twice, including ``background``.
        DataError: If there are too many classes for 8-bit masks.
    """
    check_class_count(len(classes), "classes")
    names = ["background", *classes]
    if len(set(names)) != len(names):
        raise ValueError(f"classes must be unique foreground names, got {list(classes)}")
    return names


def _over_ranks(num_images: int, *counts: NDArray[np.int64]) -> int:
    """Add the counts of all ranks, in place; returns the number of photos."""
    total = np.array(num_images)
    sum_over_ranks(total, *counts)
    return int(total)


def _section(
    matrix: ConfusionMatrix,
    names: Sequence[str],
    *,
    split: str | None,
    num_images: int,
    bg_score: float | None,
) -> dict[str, Any]:
    return {
        "split": split,
        "num_images": num_images,
        "miou": _measured(matrix.miou()),
        "bg_score": bg_score,
        "miou_best_bg": None,
        "best_bg_score": None,
        "iou": _measured(dict(zip(names, matrix.iou().tolist(), strict=True))),
        "pixel_accuracy": _measured(matrix.pixel_accuracy()),
    }


def _measured(value: Any) -> Any:
    """Replace numbers that are not finite by None, recursively."""
    if isinstance(value, Mapping):
        return {key: _measured(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_measured(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(_measured(values), indent=2, allow_nan=False, ensure_ascii=False)
    with whole_file(Path(path)) as file:
        file.write(text.encode() + b"\n")


def _missing(folder: Path, missing: Sequence[str], total: int, what: str, remedy: str) -> str:
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return f"{folder}: has no {what} for {len(missing)} of {total} photos ({shown}); {remedy}"


def _count_files(
    matrix: ConfusionMatrix, paths: tuple[Path, Path], pred: Labels, gt: Labels
) -> None:
    """Count the labels of two files; an invalid label is an error that names its file."""
    try:
        matrix.update(pred, gt)
    except ValueError:
        # It points to a wrong class list: skipping the photo would hide that.
        for path, labels in zip(paths, (pred, gt), strict=True):
            if (invalid := invalid_labels(labels, matrix.num_labels)).size:
                raise DataError(
                    f"{path}: label {invalid[0]} is not among the {matrix.num_labels} labels"
                    f" (0 = background, {IGNORE_INDEX} = ignore); check the list of classes, and"
                    " how the file was made"
                ) from None
        raise


def _refuse_binary(matrix: ConfusionMatrix, num_pixels: int, gt_dir: Path) -> None:
    """Refuse ground truth whose only labels are 255 and perhaps 0."""
    background, *classes = matrix.counts.sum(axis=1).tolist()
    if background + sum(classes) < num_pixels and not any(classes):
        found = f"{BACKGROUND} and {IGNORE_INDEX}" if background else f"{IGNORE_INDEX}"
        raise DataError(
            f"{gt_dir}: no class in the masks; expected labels 1 to {len(classes)}, found only "
            f"{found}, and {IGNORE_INDEX} "
            "means ignore; recode 0/255 masks to label indices: 1 for the first class"
        )


def _read_pair(pred_path: Path, gt_path: Path) -> tuple[Labels, Labels]:
    pred, gt = read_labels(pred_path), read_labels(gt_path)
    if pred.shape != gt.shape:
        sizes = [f"{width}x{height}" for height, width in (pred.shape, gt.shape)]
        raise DataError(
            f"{pred_path}: {sizes[0]} pixels, but {gt_path} has {sizes[1]}; predict at photo size"
        )
    return pred, gt
