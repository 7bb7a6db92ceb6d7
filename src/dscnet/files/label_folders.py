"""Folders of label PNGs."""

from __future__ import annotations

from pathlib import Path

from dscnet.files.file_search import Found, find_files, left_out_notes
from dscnet.types import DataError


def label_files(folder: Path) -> dict[str, Path]:
    """Label PNGs of a folder and its subfolders by id, links included, without hidden files.

    Raises:
        DataError: If two files have the same id.
    """
    files: dict[str, Path] = {}
    for path in _find_labels(folder).files:
        image_id = path.relative_to(folder).with_suffix("").as_posix()
        if image_id in files:
            raise DataError(
                f"{files[image_id]} and {path} are both masks of {image_id}; remove one"
            )
        files[image_id] = path
    return files


def left_out(folder: Path) -> list[str]:
    """Notes on PNGs that :func:`label_files` skips; usually none."""
    return left_out_notes(_find_labels(folder).left_out, folder)


def _find_labels(folder: Path) -> Found:
    if not folder.is_dir():
        return Found((), ())
    return find_files(folder, lambda path: path.suffix.lower() == ".png")


def shared_ids(pred_dir: Path, gt_dir: Path) -> tuple[list[str], int]:
    """Ids of the photos that have both a prediction and ground truth.

    Returns:
        The ids, sorted, and the number of ground-truth masks without a prediction.

    Raises:
        DataError: If both folders contain masks, but no name in common.
    """
    truths, predictions = label_files(Path(gt_dir)).keys(), label_files(Path(pred_dir)).keys()
    if truths and predictions and not truths & predictions:
        raise DataError(
            f"{pred_dir} and {gt_dir} have no mask name in common, for example"
            f" {min(predictions)}.png and {min(truths)}.png: predict the folder of photos directly,"
            " or rename the masks"
        )
    return sorted(truths & predictions), len(truths - predictions)
