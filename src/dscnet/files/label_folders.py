"""Folders of label PNGs."""

from __future__ import annotations

import sys
from pathlib import Path

from dscnet.files.file_search import Found, each_file, find_files, left_out_notes
from dscnet.files.folder_files import FolderFiles
from dscnet.types import DataError


def label_files(folder: Path) -> FolderFiles:
    """Label PNGs of a folder and its subfolders by id, links included, without hidden files.

    Raises:
        DataError: If two files have the same id.
    """
    endings: dict[str, str] = {}
    for path, hidden in each_file(folder, _is_label) if folder.is_dir() else ():
        if hidden:
            continue
        image_id = path.relative_to(folder).with_suffix("").as_posix()
        if image_id in endings:
            other, path = sorted((folder / f"{image_id}{endings[image_id]}", path))
            raise DataError(f"{other} and {path} are both masks of {image_id}; remove one")
        endings[image_id] = sys.intern(path.suffix)
    return FolderFiles(folder, endings)


def left_out(folder: Path) -> list[str]:
    """Notes on PNGs that :func:`label_files` skips; usually none."""
    return left_out_notes(_find_labels(folder).left_out, folder)


def _find_labels(folder: Path) -> Found:
    if not folder.is_dir():
        return Found((), ())
    return find_files(folder, _is_label)


def _is_label(path: Path) -> bool:
    return path.suffix.lower() == ".png"


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
