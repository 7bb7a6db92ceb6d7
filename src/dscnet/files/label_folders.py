"""Folders of label PNGs: which photos they hold labels of."""

from __future__ import annotations

from pathlib import Path

from dscnet.files.walking import Found, find_files, left_out_notes
from dscnet.types import DataError


def label_files(folder: Path) -> dict[str, Path]:
    """PNGs of a folder and its sub-folders, linked ones too, by id; hidden files are none.

    Raises:
        DataError: If two files have one id.
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
    """Notes on the PNGs of a folder that :func:`label_files` leaves out; mostly none."""
    return left_out_notes(_find_labels(folder).left_out, folder)


def _find_labels(folder: Path) -> Found:
    if not folder.is_dir():
        return Found((), ())
    return find_files(folder, lambda path: path.suffix.lower() == ".png")


def shared_ids(pred_dir: Path, gt_dir: Path) -> tuple[list[str], int]:
    """Ids of the photos that have both a prediction and ground truth.

    Returns:
        The ids, sorted, and how many true masks have no prediction.

    Raises:
        DataError: If both folders hold masks, but none of one name.
    """
    truths, predictions = label_files(Path(gt_dir)).keys(), label_files(Path(pred_dir)).keys()
    if truths and predictions and not truths & predictions:
        raise DataError(
            f"{pred_dir} and {gt_dir} hold no masks of one name, but {min(predictions)}.png and"
            f" {min(truths)}.png: predict the folder of the photos itself, or rename the masks"
        )
    return sorted(truths & predictions), len(truths - predictions)
