"""Measure the memory of each step of inference and labelling by photo size; writes one JSON.

Each row is a separate process: peak resident memory while the step runs once, minus the memory in
use before (the inputs). The result of the step is included. Linux only. Existing rows of other
pieces are kept.

python benchmarks/memory.py --json benchmarks/results/memory.json [--pieces pcm crf]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dscnet.build import build_model
from dscnet.config import Config, ModelConfig
from dscnet.context import DualStreamContext
from dscnet.labels.pseudo_label import pseudo_label
from dscnet.labels.thresholds import ScoreCounts
from dscnet.labels.upsampled_argmax import label_at
from dscnet.metrics.confusion import confusion_matrix
from dscnet.models.cross_task import CrossTaskAffinity, NonLocal
from dscnet.models.pcm import propagate
from dscnet.refine.crf import dense_crf
from dscnet.refine.mask_proposals import merge_masks
from dscnet.refine.pair_walk import affinity_walk, boundary_walk
from dscnet.refine.pairs import pair_affinity
from dscnet.refine.pamr import pamr
from dscnet.refine.random_walk import random_walk
from dscnet.run_folder import environment, write_text

SIZES = ((342, 456), (684, 912), (1368, 1824))
"""Height and width of photos, from the working size of labels to 2.5 megapixels."""

LABELS = 4
"""Background and three classes, more than in most photos."""

MIB = 1 << 20

Step = Callable[[], Any]


def main() -> None:
    """Measure one row per piece and size; ``--measure`` measures a single one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pieces", nargs="+", default=list(PIECES), choices=list(PIECES))
    parser.add_argument("--measure", nargs=3, metavar=("PIECE", "HEIGHT", "WIDTH"))
    options = parser.parse_args()
    if options.measure:
        name, *size = options.measure
        print(json.dumps(measure(name, int(size[0]), int(size[1]))))
        return
    kept = options.json and options.json.exists()
    rows = json.loads(options.json.read_text())["memory"] if kept else []
    rows = [row for row in rows if row["piece"] not in options.pieces]
    for name in options.pieces:
        for height, width in SIZES:
            command = [sys.executable, __file__, "--measure", name, str(height), str(width)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    content = {
        "command": "python benchmarks/memory.py",
        "environment": environment(0),
        "labels": LABELS,
        "memory": rows,
    }
    if options.json is not None:
        write_text(options.json, json.dumps(content, indent=1) + "\n")


def measure(name: str, height: int, width: int) -> dict[str, Any]:
    """Peak memory and time of a piece on a photo of a size."""
    make, stride = PIECES[name]
    with torch.inference_mode():
        torch.manual_seed(0)
        make(64, 64)()  # exclude what is loaded at the first call
        step = make(height, width)
        before = forget_peak()
        started = time.process_time()
        step()
    return {
        "piece": name,
        "height": height,
        "width": width,
        "stride": stride,
        "cells": -(-height // stride) * -(-width // stride),
        "peak_mib": round((peak() - before) / MIB, 1),
        "cpu_seconds": round(time.process_time() - started, 2),
        "git_revision": environment(0)["git_revision"],
    }


def forget_peak() -> int:
    """Release freed memory, reset the peak, and return the memory in use."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Peak resident bytes since the last reset."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def grid(height: int, width: int, stride: int) -> tuple[int, int]:
    """Cells of a photo."""
    return -(-height // stride), -(-width // stride)


def probabilities(*size: int) -> Tensor:
    """Label probabilities, smooth like those of networks."""
    coarse = torch.randn(1, LABELS, *(max(2, side // 32) for side in size))
    return torch.nn.functional.interpolate(3 * coarse, size, mode="bilinear").softmax(1)


def photo(*size: int) -> Tensor:
    """Shapes with some noise: pure noise would fill the lattice of the CRF."""
    coarse = torch.randint(0, 256, (1, 3, *(max(2, side // 64) for side in size))).float()
    shapes = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
    return (shapes + 4 * torch.randn(1, 3, *size)).clamp(0, 255).to(torch.uint8)


def cam_network(height: int, width: int) -> Step:
    """The default CAM network on one photo, context and pixel correlation included."""
    model = build_model(Config(model=ModelConfig(weights="none")), 20, pretrained=False).eval()
    image, tags = torch.randn(1, 3, height, width), torch.zeros(1, 20)
    tags[0, :3] = 1
    return lambda: model.score_maps(image, tags)


def pixel_correlation(height: int, width: int) -> Step:
    """SEAM's, at stride 16."""
    size = grid(height, width, 16)
    maps, features = torch.rand(1, 21, *size), torch.randn(1, 192, *size)
    return lambda: propagate(maps, features)


def cross_task(height: int, width: int) -> Step:
    """AuxSegNet's, at stride 16."""
    size = grid(height, width, 16)
    module = CrossTaskAffinity()
    queries, keys = torch.randn(2, 1, 2, size[0] * size[1], 128).unbind()
    maps = torch.rand(1, 43, *size)
    return lambda: module(queries, keys, maps)


def non_local(height: int, width: int) -> Step:
    """AuxSegNet's attention within a task, at stride 16."""
    module, features = NonLocal(128), torch.randn(1, 128, *grid(height, width, 16))
    return lambda: module(features)


def context(height: int, width: int) -> Step:
    """Groups, graph and fusion of DSCNet's M4, at stride 16."""
    module = DualStreamContext(320, 21, semantic=True, fuse=True).eval()
    size = grid(height, width, 16)
    features, cam, tags = torch.randn(1, 320, *size), torch.randn(1, 21, *size), torch.zeros(1, 20)
    tags[0, :3] = 1
    return lambda: module(features, cam, tags)


def walk(height: int, width: int) -> Step:
    """Step `walk`, on features of stride 16."""
    start, features = probabilities(height, width), torch.randn(1, 320, *grid(height, width, 16))
    return lambda: random_walk(start, features, steps=2)


def learned_walk(height: int, width: int) -> Step:
    """Step `affinity`, on features of stride 8."""
    size = grid(height, width, 8)
    start, features = probabilities(8 * size[0], 8 * size[1])[0], torch.randn(1, 448, *size)
    return lambda: affinity_walk(start, pair_affinity(features)[0], log_steps=1)


def walk_between_boundaries(height: int, width: int) -> Step:
    """Step `irn`, on cells of stride 4."""
    size = grid(height, width, 4)
    maps, boundary = probabilities(*size)[0, 1:], torch.rand(size)
    return lambda: boundary_walk(maps, boundary, log_steps=1)


def adaptive(height: int, width: int) -> Step:
    """Step `pamr`."""
    start, image = probabilities(height, width), photo(height, width)
    return lambda: pamr(start, image, iterations=2)


def crf(height: int, width: int) -> Step:
    """Step `crf`."""
    start, image = probabilities(height, width), photo(height, width)
    return lambda: dense_crf(start, image, iterations=1)


def masks(height: int, width: int) -> Step:
    """Step `masks`, with a hundred masks."""
    start = probabilities(height, width)[0]
    number = torch.nn.functional.interpolate(
        torch.arange(1, 101).view(1, 1, 10, 10).float(), (height, width), mode="nearest"
    )[0, 0].numpy()
    return lambda: merge_masks(start, (number == index for index in range(1, 101)))


def thresholds(height: int, width: int) -> Step:
    """Histograms of a photo for the background threshold, with a second CAM."""
    cam = probabilities(height, width)[0, 1:].numpy()
    return lambda: ScoreCounts().add(cam, [0, 1, 2], second=cam)


def labels(height: int, width: int) -> Step:
    """Labels from CAMs at the photo's own size."""
    cam = probabilities(height, width)[0, 1:].numpy()
    return lambda: pseudo_label(cam, [0, 1, 2])


def enlarged(height: int, width: int) -> Step:
    """Labels at the photo's own size from 21 scores at the smallest size."""
    scores = torch.randn(21, *SIZES[0])
    return lambda: label_at(scores, (height, width))


def confusion(height: int, width: int) -> Step:
    """Confusion matrix of a photo."""
    truth = np.random.default_rng(0).integers(0, 21, (height, width), dtype=np.uint8)
    return lambda: confusion_matrix(truth, truth, 21)


PIECES: dict[str, tuple[Callable[[int, int], Step], int]] = {
    "CAM network": (cam_network, 16),
    "pixel correlation": (pixel_correlation, 16),
    "cross-task affinity": (cross_task, 16),
    "attention": (non_local, 16),
    "context": (context, 16),
    "walk": (walk, 16),
    "affinity": (learned_walk, 8),
    "irn": (walk_between_boundaries, 4),
    "pamr": (adaptive, 1),
    "crf": (crf, 1),
    "masks": (masks, 1),
    "thresholds": (thresholds, 1),
    "labels": (labels, 1),
    "enlarged labels": (enlarged, 1),
    "confusion": (confusion, 1),
}
"""Pieces by name: a function that prepares one for a size, and its stride."""


if __name__ == "__main__":
    main()
