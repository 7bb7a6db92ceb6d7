"""The file that keeps the statistics of a run's CAMs, so that every CAM is counted once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from dscnet.data import PhotoSet
from dscnet.labels.thresholds import ScoreCounts
from dscnet.pipeline.code_marks import code_marks
from dscnet.run_folder import RunFolder, fingerprint, write_text

_MARK = "fingerprint"


def counts_file(folder: RunFolder) -> Path:
    """Where the statistics of a run or of a round are kept."""
    return folder.root / "score_counts.json"


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
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get(_MARK) != mark:
        return None
    counts = ScoreCounts()
    for name, value in vars(counts).items():
        stored = record[name]
        # An empty array keeps its shape.
        setattr(counts, name, stored if isinstance(value, bool) else np.array(stored or value))
    return counts


def write_counts(path: Path, mark: str, counts: ScoreCounts) -> None:
    """Write statistics and their fingerprint."""
    values = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(counts).items()
    }
    write_text(path, json.dumps({_MARK: mark, **values}) + "\n")
