"""The file that keeps the statistics of a run's CAMs, so that every CAM is counted once."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from dscnet.data import PhotoSet
from dscnet.files.atomic import whole_file
from dscnet.labels.thresholds import ScoreCounts
from dscnet.pipeline.code_marks import code_marks
from dscnet.run_folder import RunFolder, fingerprint

_MARK = "fingerprint"


def counts_file(folder: RunFolder) -> Path:
    """Where the statistics of a run or of a round are kept."""
    return folder.root / "score_counts.npz"


def counts_mark(photos: PhotoSet, cams: Path, *, saliency: bool) -> str | None:
    """Fingerprint of the files and of the code that the statistics depend on.

    Args:
        photos: The photos.
        cams: Folder of their CAMs.
        saliency: Whether their saliency maps are counted.

    Returns:
        None if a file is missing.
    """
    maps = [sample.saliency_path for sample in photos.samples] if saliency else []
    try:
        files = [_file_state(cams / f"{sample.image_id}.npz") for sample in photos.samples]
        salient = [None if path is None else _file_state(path) for path in maps]
    except FileNotFoundError:
        return None
    names = [sample.image_id for sample in photos.samples]
    return fingerprint(names, files, salient, code_marks([ScoreCounts.__module__]))


def _file_state(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or changed, without reading it."""
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns


def read_counts(path: Path, mark: str) -> ScoreCounts | None:
    """Statistics from a file; None if it is missing, damaged or has another fingerprint."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored[_MARK]) != mark:
                return None
            counts = ScoreCounts()
            for name, value in vars(counts).items():
                setattr(counts, name, bool(stored[name]) if value is True else stored[name])
            return counts
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write_counts(path: Path, mark: str, counts: ScoreCounts) -> None:
    """Write statistics and their fingerprint."""
    arrays: dict[str, Any] = {_MARK: np.array(mark), **vars(counts)}
    with whole_file(path) as file:
        np.savez(file, **arrays)
