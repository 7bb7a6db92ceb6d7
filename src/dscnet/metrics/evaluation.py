"""Honest measuring: one confusion matrix a data set, IoU, and the background sweep.

What is counted and what is left out is told in ``dscnet.metrics.confusion``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscnet.files.atomic import whole_file
from dscnet.files.label_folders import label_files, left_out, shared_ids
from dscnet.files.label_images import read_labels
from dscnet.labels.pseudo_label import best_label
from dscnet.metrics.confusion import (
    ConfusionMatrix,
    Labels,
    confusion_matrix,
    invalid_labels,
    pixel_blocks,
)
from dscnet.types import BACKGROUND, IGNORE_INDEX, DataError, check_class_count

SCHEMA = 1
"""Version of ``metrics.json``."""

STAGES = ("cam", "pseudo_label", "segmenter")
"""Stages that ``metrics.json`` has an IoU section for."""

EXTRA = ("supervision", "rounds", "refine")
"""What further sections ``metrics.json`` may have."""

SWEEP = tuple(i / 100 for i in range(100))
"""Background scores that the sweep tries; SEAM's are the first 60, too few for small objects."""

__all__ = [
    "ConfusionMatrix",
    "confusion_matrix",
    "evaluate_cams",
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
    """Measure predicted against true labels.

    Args:
        pairs: Prediction and ground truth of each photo, each ``(H, W)``.
        classes: Foreground class names; class c has label c + 1.
        split: Name of the photos that were measured.
        bg_score: Background score that the predictions were made with; None if there is none.

    Returns:
        A section of ``metrics.json``: ``split``, ``num_images``, ``miou``, ``bg_score``,
        ``miou_best_bg``, ``best_bg_score``, ``iou`` by class name with ``background`` first, and
        ``pixel_accuracy``. Numbers in [0, 1]; None where nothing was measured.

    Raises:
        ValueError: If labels or shapes do not fit, or a class name occurs twice.
    """
    names = label_names(classes)
    matrix = ConfusionMatrix(len(names))
    num_images = 0
    for pred, gt in pairs:
        matrix.update(pred, gt)
        num_images += 1
    return _section(matrix, names, split=split, num_images=num_images, bg_score=bg_score)


def evaluate_cams(
    items: Iterable[tuple[NDArray[np.floating], Sequence[int] | NDArray[np.integer], Labels]],
    class_names: Sequence[str],
    *,
    split: str | None,
    bg_score: float,
    sweep: Sequence[float] = SWEEP,
) -> dict[str, Any]:
    """Measure maps at a fixed background score, and at the best one of a sweep.

    The sweep chooses on the ground truth: its number tells what a perfect choice would give and is
    no result by itself. It costs one pass: how many of the background scores a pixel's class beats
    is counted for each pair of labels.

    Args:
        items: For each photo, maps ``(C', h, w)`` in [0, 1], their 0-based classes ``(C',)`` and
            the ground truth ``(H, W)``; maps of another size are resized to it.
        class_names: Foreground class names.
        split: Name of the photos that were measured.
        bg_score: The fixed background score; labels as ``labels.pseudo_label`` makes them.
        sweep: Background scores to try; the lowest of the best is reported.

    Returns:
        A section as of :func:`evaluate_pairs`, with ``miou_best_bg`` and ``best_bg_score``.

    Raises:
        ValueError: If shapes, classes or labels do not fit, or ``sweep`` is empty.
    """
    if not sweep:
        raise ValueError("sweep must hold at least one background score")
    names = label_names(class_names)
    scores = sorted(sweep)
    fixed = ConfusionMatrix(len(names))
    beaten = np.zeros((len(names), len(names), len(scores) + 1), dtype=np.int64)
    num_images = 0
    for cam, classes, gt in items:
        best, winner = best_label(cam, classes, (gt.shape[0], gt.shape[1]))
        fixed.update(np.where(best > bg_score, winner, BACKGROUND), gt)
        beaten += _beaten_scores(best, winner, gt, scores, len(names))
        num_images += 1
    section = _section(fixed, names, split=split, num_images=num_images, bg_score=bg_score)
    mious = [matrix.miou() for matrix in _matrices_of_sweep(beaten)]
    if not math.isnan(mious[0]):  # the same pixels count at every score
        best_at = int(np.argmax(mious))
        section |= {"miou_best_bg": mious[best_at], "best_bg_score": scores[best_at]}
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
    """Measure a folder of label PNGs against another.

    A file's path below its folder without ``.png`` is its photo's id.

    Args:
        pred_dir: Predictions; files that have no counterpart in ``gt_dir`` are left alone.
        gt_dir: Ground truth, searched with its sub-folders.
        classes: Foreground class names.
        split: Name of the photos, for the section.
        ids: Photos to measure; None = all that have ground truth.
        failures: Takes a line for each photo whose masks cannot be read or differ in size; the
            others are measured. None = the first such photo is an error.

    Returns:
        A section as of :func:`evaluate_pairs`.

    Raises:
        DataError: If a folder or file is missing, no photo can be measured, a label is out of
            range, or the ground truth shows no class but 255, as masks of the values 0 and 255 do.
        ValueError: If ``ids`` is empty.
    """
    gt_dir, pred_dir = Path(gt_dir), Path(pred_dir)
    for folder in (pred_dir, gt_dir):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; name one that holds label PNGs")
    truths, predictions = label_files(gt_dir), label_files(pred_dir)
    for folder, files, what in (
        (gt_dir, truths, "ground truth"),
        (pred_dir, predictions, "prediction"),
    ):
        if not files:
            raise DataError(f"{folder}: no {what} to measure; it must hold label PNGs, one a photo")
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
    num_labels = len(classes) + 1
    seen = np.zeros(256, dtype=bool)
    paths = ((predictions[i], truths[i]) for i in ids)
    pairs = (_noted(pair, seen) for pair in _readable_pairs(paths, num_labels, failures))
    section = evaluate_pairs(pairs, classes, split=split)
    if failures and not section["num_images"]:
        raise DataError(f"no photo can be measured, the first because: {failures[0]}")
    if seen[IGNORE_INDEX] and not seen[BACKGROUND + 1 : IGNORE_INDEX].any():
        raise DataError(
            f"{gt_dir}: its masks show no class; expected labels 1 to {len(classes)}, found only "
            f"{' and '.join(str(label) for label in np.flatnonzero(seen))}, and {IGNORE_INDEX} "
            "(ignore) is not measured; recode 0/255 masks to label indices: 1 for the first class"
        )
    return section


def write_metrics(path: Path, sections: Mapping[str, Any]) -> None:
    """Write ``metrics.json``.

    Args:
        path: File to write; replaced if it exists.
        sections: Of ``cam``, ``pseudo_label``, ``segmenter`` and ``tags`` (``{"map": x}`` and what
            ``tag_agreement`` gives), what was measured. The others, and numbers that are not
            finite, become null. Further, where there are any: ``supervision``, what the labels are
            made from, ``rounds``, the first three sections of each round of training, and
            ``refine``, what refinement did.

    Raises:
        ValueError: If there is another section.
    """
    if unknown := set(sections) - {*STAGES, "tags", *EXTRA}:
        raise ValueError(f"sections must be of {(*STAGES, 'tags', *EXTRA)}, got {sorted(unknown)}")
    complete = {"schema": SCHEMA} | {name: sections.get(name) for name in STAGES}
    complete |= {"tags": sections.get("tags") or {"map": None}}
    _write_json(path, complete | {name: sections[name] for name in EXTRA if name in sections})


def read_metrics(path: Path) -> dict[str, Any]:
    """Read what :func:`write_metrics` wrote.

    Raises:
        DataError: If the file is missing, no JSON, or of another schema.
    """
    try:
        metrics = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable metrics; make them by `dscnet evaluate`") from error
    if not isinstance(metrics, dict) or metrics.get("schema") != SCHEMA:
        raise DataError(f"{path}: not metrics of schema {SCHEMA}; make them by this version")
    return metrics


def write_section(path: Path, section: Mapping[str, Any]) -> None:
    """Write one section alone, as :func:`evaluate_folders` gives it, with the schema."""
    _write_json(path, {"schema": SCHEMA, **section})


def section_text(section: Mapping[str, Any]) -> str:
    """A section for people: percent, a class a line; ``-`` where nothing was measured."""
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
        ValueError: If a name occurs twice, ``background`` included.
        DataError: If there are more classes than masks have room for.
    """
    check_class_count(len(classes), "classes")
    names = ["background", *classes]
    if len(set(names)) != len(names):
        raise ValueError(f"classes must be different foreground names, got {list(classes)}")
    return names


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
    """The value with None for each number in it that is not finite."""
    if isinstance(value, Mapping):
        return {key: _measured(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_measured(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(_measured(values), indent=2, allow_nan=False, ensure_ascii=False)
    with whole_file(Path(path)) as file:
        file.write(text.encode() + b"\n")


def _beaten_scores(
    best: NDArray[np.floating],
    winner: NDArray[np.uint8],
    gt: Labels,
    scores: Sequence[float],
    num_labels: int,
) -> NDArray[np.int64]:
    """Pixels by true label, strongest class and how many of the ascending scores it beats."""
    # Rounded as a comparison with a number would round it, so that ties fall as they do there.
    bounds = np.asarray(scores, dtype=best.dtype)
    bins = len(scores) + 1
    cells = np.zeros((num_labels, num_labels, bins), dtype=np.int64)
    for block in pixel_blocks(gt.size):
        score, label, true = (values.ravel()[block] for values in (best, winner, gt))
        counted = true != IGNORE_INDEX
        wins = np.searchsorted(bounds, score[counted], side="left")
        pair = true[counted].astype(np.int64) * num_labels + label[counted]
        cells += np.bincount(pair * bins + wins, minlength=cells.size).reshape(cells.shape)
    return cells


def _matrices_of_sweep(beaten: NDArray[np.int64]) -> Iterable[ConfusionMatrix]:
    """The confusion matrix at each score, from what :func:`_beaten_scores` counted."""
    num_labels, _, bins = beaten.shape
    for at in range(bins - 1):
        counts = np.zeros((num_labels, num_labels + 1), dtype=np.int64)
        counts[:, :-1] = beaten[:, :, at + 1 :].sum(axis=2)
        counts[:, BACKGROUND] += beaten[:, :, : at + 1].sum(axis=(1, 2))
        yield ConfusionMatrix(num_labels, counts)


def _missing(folder: Path, missing: Sequence[str], total: int, what: str, remedy: str) -> str:
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return f"{folder}: {len(missing)} of {total} photos have no {what} there ({shown}); {remedy}"


def _noted(pair: tuple[Labels, Labels], seen: NDArray[np.bool_]) -> tuple[Labels, Labels]:
    """The pair itself, with the labels of its ground truth marked as seen."""
    seen[pair[1]] = True
    return pair


def _readable_pairs(
    paths: Iterable[tuple[Path, Path]], num_labels: int, failures: list[str] | None
) -> Iterable[tuple[Labels, Labels]]:
    """Prediction and ground truth of each photo; what cannot be read is added to the failures."""
    for pred_path, gt_path in paths:
        try:
            pred, gt = _read_pair(pred_path, gt_path)
        except DataError as error:
            if failures is None:
                raise
            failures.append(str(error))
            continue
        # Labels that are none speak of the list of classes: leaving photos out would hide it.
        _refuse_invalid(pred_path, pred, num_labels)
        _refuse_invalid(gt_path, gt, num_labels)
        yield pred, gt


def _refuse_invalid(path: Path, labels: Labels, num_labels: int) -> None:
    if (strange := invalid_labels(labels, num_labels)).size:
        raise DataError(
            f"{path}: label {strange[0]} is none of the {num_labels} labels (0 = background, "
            f"{IGNORE_INDEX} = ignore); check the list of classes and what made the file"
        )


def _read_pair(pred_path: Path, gt_path: Path) -> tuple[Labels, Labels]:
    pred, gt = read_labels(pred_path), read_labels(gt_path)
    if pred.shape != gt.shape:
        sizes = [f"{width}x{height}" for height, width in (pred.shape, gt.shape)]
        raise DataError(
            f"{pred_path}: {sizes[0]} pixels, but {gt_path} has {sizes[1]}; predict at photo size"
        )
    return pred, gt
