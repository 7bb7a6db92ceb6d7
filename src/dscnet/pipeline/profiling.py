"""Profiles of training steps."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile, schedule

from dscnet.run_folder import write_text

log = logging.getLogger("dscnet")

WAIT, WARMUP, STEPS = 1, 1, 3
"""Steps that are skipped, run with the profiler but not kept, and kept."""

ROWS = 40
"""Operators in the table."""


class StepProfile(Callback):
    """Profiles the first steps of a training.

    Writes ``NAME.json.gz``, a trace for chrome://tracing or Perfetto, and ``NAME.txt``, the
    operators with the most time of their own. A training of few steps gives fewer, or no profile.

    Args:
        folder: Folder of the profiles.
        training: Folder of the training, which names them.
    """

    def __init__(self, folder: Path, training: Path) -> None:
        self.folder, self.name = folder, profile_name(folder, training)
        self.profiler: profile | None = None
        self.own_time = "self_cpu_time_total"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the profiler."""
        activities = [ProfilerActivity.CPU]
        if pl_module.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            self.own_time = "self_device_time_total"
        if not torch.cuda.is_available():
            # The library behind it reports its start, and an error that there is no GPU.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self.profiler = profile(
            activities=activities,
            schedule=schedule(wait=WAIT, warmup=WARMUP, active=STEPS, repeat=1),
            on_trace_ready=self.write,
        )
        self.profiler.start()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Tell the profiler that a step has ended, and stop it after the last one."""
        if self.profiler is not None:
            self.profiler.step()
            if self.profiler.step_num == WAIT + WARMUP + STEPS:
                self.stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the profiler if the training was too short."""
        self.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: Any) -> None:
        """Stop the profiler."""
        self.stop()

    def stop(self) -> None:
        """Stop the profiler, once."""
        profiler, self.profiler = self.profiler, None
        if profiler is not None:
            profiler.stop()

    def write(self, profiler: profile) -> None:
        """Write the trace and the table of operators."""
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / f"{self.name}.json.gz"))
        averages = profiler.key_averages()
        table = averages.table(sort_by=self.own_time, row_limit=ROWS, max_name_column_width=80)
        write_text(self.folder / f"{self.name}.txt", f"{table}\n")
        log.info(
            "profile: %s: %s",
            self.folder / f"{self.name}.txt",
            top_operators({row.key: getattr(row, self.own_time) for row in averages}),
        )


def top_operators(seconds: Mapping[str, float], count: int = 5) -> str:
    """The operators with the most time of their own, and their part of all operators' time.

    Example:
        >>> top_operators({"aten::add": 1.0, "aten::mul": 3.0, "ProfilerStep*": 9.0}, 1)
        'aten::mul 75 %'
    """
    operators = {name: time for name, time in seconds.items() if name.startswith("aten::")}
    whole = sum(operators.values()) or 1.0
    top = sorted(operators, key=operators.__getitem__, reverse=True)[:count]
    return ", ".join(f"{name} {100 * operators[name] / whole:.0f} %" for name in top)


def profile_name(folder: Path, training: Path) -> str:
    """Name of a training's profile: its folder in the run, e.g. ``rounds-1-checkpoints``.

    Example:
        >>> profile_name(Path("run/profile"), Path("run/rounds/1/checkpoints"))
        'rounds-1-checkpoints'
    """
    return "-".join(training.relative_to(folder.parent).parts)
