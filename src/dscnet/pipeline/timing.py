"""How long the stages of a run took."""

from __future__ import annotations

import os
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from dscnet.config.stages import STAGES
from dscnet.pipeline.job import Job
from dscnet.pipeline.stage import Stage
from dscnet.run_folder import RunFolder

COLUMNS = ("seconds", "cpu_seconds", "photos_per_second")
"""What is known of a stage's time; None = not recorded, or the stage does not go over photos."""


class StageClock:
    """Measures a stage from its construction on."""

    def __init__(self, stage: Stage, job: Job) -> None:
        self.stage, self.job = stage, job
        self.started, self.cpu_before = time.monotonic(), cpu_seconds()
        self.trained_before = job.trained_photos.total()

    @property
    def seconds(self) -> float:
        """Wall seconds so far."""
        return time.monotonic() - self.started

    def measured(self) -> dict[str, float | None]:
        """CPU seconds, all threads and finished workers together, and photos per second.

        A photo counts once, in a training each time that it is in a batch.
        """
        trained = self.job.trained_photos.total() - self.trained_before
        every = self.stage.every_photo(self.job.config)
        photos = len(self.job.train.samples) if every else trained
        rate = photos / max(self.seconds, 1e-9)
        return {
            "cpu_seconds": round(cpu_seconds() - self.cpu_before, 1),
            "photos_per_second": float(f"{rate:.3g}") if photos else None,
        }


class PhotoCount(Callback):
    """Counts the photos in the batches of a training."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Add the photos of a batch, on all devices."""
        self.job.trained_photos["photos"] += len(batch.ids) * trainer.world_size


def cpu_seconds() -> float:
    """CPU seconds of this process and of its finished children."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def stage_times(folder: RunFolder) -> dict[str, dict[str, float | None]]:
    """The ``COLUMNS`` of each finished stage, measured when it last ran."""
    records = {name: folder.record_of(name) for name in folder.seconds()}
    return {
        name: {column: record.get(column) for column in COLUMNS}
        for name, record in records.items()
        # Networks trained within a stage have records of their own, without CPU seconds.
        if name in STAGES or "cpu_seconds" in record
    }
