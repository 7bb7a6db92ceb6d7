"""Stage ``report``: collects the results in a run folder for ``report/page.py``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dscnet.config import Config
from dscnet.data import PhotoSet, Sample, read_image, read_mask
from dscnet.data.transforms import resize_labels
from dscnet.distributed.ranks import on_first
from dscnet.files.label_images import read_labels
from dscnet.labels.cam_files import read_cam
from dscnet.labels.pseudo_label import resize_map
from dscnet.labels.thresholds import CRITERIA
from dscnet.metrics.evaluation import read_metrics
from dscnet.pipeline.job import Job
from dscnet.pipeline.stage import Stage
from dscnet.pipeline.timing import stage_times
from dscnet.predictor import Predictor
from dscnet.report.page import ReportRow, write_report
from dscnet.run_folder import RunFolder, read_record

NUM_TRAIN_ROWS, NUM_VAL_ROWS = 12, 12

SHOWN_SIDE = 640
"""Maximum longer side of the pictures, pixels."""


@on_first
def report(job: Job, resume: bool) -> None:
    """Write ``report.html``."""
    write_run_report(job.config, job.folder, job.train, job.val)


def write_run_report(
    config: Config, folder: RunFolder, train: PhotoSet, val: PhotoSet | None
) -> None:
    """Write ``report.html`` of a run: metrics, results of each stage on some photos, losses."""
    predictor = Predictor.from_run(folder.root) if folder.fingerprint_of("segment") else None
    shown = [(sample, train) for sample in spread(train.samples, NUM_TRAIN_ROWS)]
    if val is not None and predictor is not None:
        shown += [(sample, val) for sample in spread(val.samples, NUM_VAL_ROWS)]
    rounds = config.segment.rounds
    rows = [_row(sample, photos, folder, predictor, rounds) for sample, photos in shown]
    curves = loss_curves(folder.losses) | loss_curves(folder.segmenter / "metrics.csv")
    write_report(
        folder.report,
        title=f"{train.name}: {config.model.name} with DSCNet {config.method.variant}",
        metrics=read_metrics(folder.metrics),
        rows=rows,
        classes=train.classes,
        curves=curves,
        settings=folder.config.read_text(encoding="utf-8"),
        notes=_notes(config, folder, train),
        timing=stage_times(folder),
    )


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most ``count`` samples, evenly spaced over the set; deterministic."""
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[index] for index in chosen]


def loss_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Every loss term of a ``metrics.csv``: (step, value) pairs; empty without the file."""
    if not path.exists():
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name not in ("step", "epoch", "lr") and value:
                    curves.setdefault(name, []).append((float(row["step"]), float(value)))
    if "seg" in curves:
        curves.pop("total", None)
    return curves


def _row(
    sample: Sample, photos: PhotoSet, folder: RunFolder, predictor: Predictor | None, rounds: int
) -> ReportRow:
    image = read_image(sample.image_path, SHOWN_SIDE)
    size = (image.shape[-2], image.shape[-1])
    maps = _best_maps(folder.cams / f"{sample.image_id}.npz", size)
    label = folder.labels / f"{sample.image_id}.png"
    unrefined = folder.unrefined / f"{sample.image_id}.png"
    last = folder.self_training(rounds).labels / f"{sample.image_id}.png"
    return ReportRow(
        image_id=sample.image_id,
        tags=", ".join(photos.classes[index] for index in sample.tags or ()) or "no tag",
        photo=image.permute(1, 2, 0).numpy(),
        cam=maps.get("cam"),
        refined=maps.get("refined"),
        unrefined_label=_labels_at(unrefined, size),
        pseudo_label=_labels_at(label, size),
        self_training_label=_labels_at(last, size),
        prediction=None if predictor is None else predictor(image),
        truth=None
        if sample.mask_path is None
        else resize_labels(read_mask(sample.mask_path), size).numpy(),
    )


def _labels_at(path: Path, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Labels at the given size; None if there is no such file."""
    if not path.exists():
        return None
    labels: NDArray[np.uint8] = resize_labels(torch.from_numpy(read_labels(path)), size).numpy()
    return labels


def _best_maps(path: Path, size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Maximum class score of each pixel, by kind of CAM; empty if there are no CAMs."""
    if not path.exists():
        return {}
    maps, classes = read_cam(path)
    if not len(classes):
        return {}
    return {name: resize_map(value.max(0), size) for name, value in maps.items()}


def _notes(config: Config, folder: RunFolder, train: PhotoSet) -> list[str]:
    full = config.segment.supervision == "full" and not config.own_branch
    return [
        *train.notes,
        f"Supervision of CAMs and pseudo labels: {config.supervision}.",
        f"Supervision of the segmentation network:"
        f" {'ground-truth masks' if full else config.supervision}.",
        *_epoch_note(folder),
        *_threshold_note(config, folder),
    ]


def _epoch_note(folder: RunFolder) -> list[str]:
    """The epoch whose weights were kept, for ``train.keep: best``."""
    scores = read_record(folder.tag_scores) if folder.tag_scores.exists() else {}
    if "kept_epoch" not in scores:
        return []
    epochs, kept, criterion = len(scores["scores"]), scores["kept_epoch"], scores["criterion"]
    return [f"Kept the weights of epoch {kept} of {epochs}, chosen by {criterion}, without masks."]


def _threshold_note(config: Config, folder: RunFolder) -> list[str]:
    """How the background threshold was estimated, and what other criteria give."""
    criterion = config.criterion
    if criterion is None or not folder.threshold.exists():
        return []
    record = read_record(folder.threshold)
    others = ", ".join(
        f"{name} {record[name]:g}"
        for name in CRITERIA
        if name != criterion and record.get(name) is not None
    )
    note = f"Background threshold {record['used']:g} by criterion '{criterion}', without masks"
    return [f"{note}; other criteria: {others}." if others else f"{note}."]


STAGE = Stage(
    "report",
    report,
    makes=lambda job: (job.folder.report,),
    needs=lambda config: ("evaluate",),
    masks=lambda config: True,
)
