"""Dense CRF: agreement with pydensecrf2 on real photos, error of the fast filter, time.

python benchmarks/crf.py --data ../shared/data/msrc --json benchmarks/results/labels/crf.json

Filters start from the ground-truth masks at the resolution of a network, with the certainty of
pseudo labels. Masks provide only shapes for the start; no score is computed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dscnet.data import open_dataset, read_image, read_mask
from dscnet.refine.crf import dense_crf
from dscnet.refine.pamr import pamr
from dscnet.refine.probabilities import label_probabilities
from dscnet.refine.random_walk import random_walk
from dscnet.run_folder import environment, write_text

STRIDE = 16
"""Stride of the imitated CAMs."""

KERNELS: dict[str, dict[str, float]] = {
    "50 pixels, 5 grey values": {"bilateral_std": 50.0, "color_std": 5.0},
    "80 pixels, 13 grey values": {"bilateral_std": 80.0, "color_std": 13.0},
}
BACKENDS = ["lattice", *(["pydensecrf"] if importlib.util.find_spec("pydensecrf") else [])]
Work = Callable[[], Any]
ITERATIONS = 10
LABELS = 21


def main() -> None:
    """Write the measurements; empty where the package is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    starts = read_starts(options.data, options.photos)
    content = {
        "data": options.data.name,
        "iterations": ITERATIONS,
        "start": f"true masks in cells of {STRIDE} pixels, trusted with 0.7",
        "environment": environment(0),
        "agreement": {name: agreement(starts, kernel) for name, kernel in KERNELS.items()},
        "exact": {name: exact_error(starts, kernel) for name, kernel in KERNELS.items()},
        "cpu_seconds_375x500": times(torch.device("cpu"), cpu_seconds),
        "gpu_seconds_375x500": {},
    }
    if torch.cuda.is_available():
        gpu = torch.device("cuda")
        content["gpu_seconds_375x500"] = times(gpu, gpu_seconds)
        content["gpu_against_cpu"] = {
            name: device_difference(starts, kernel, gpu) for name, kernel in KERNELS.items()
        }
    write_text(options.json, json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def read_starts(data: Path, count: int) -> list[tuple[Tensor, Tensor]]:
    """Label probabilities and photos for evenly spaced training photos with objects."""
    samples = [s for s in open_dataset(data, "train").samples if s.tags and s.mask_path]
    chosen = samples[:: max(1, len(samples) // count)][:count]
    starts = []
    for sample in chosen:
        assert sample.mask_path is not None
        mask = read_mask(sample.mask_path)
        maps = torch.stack([mask == label + 1 for label in sample.tags or ()]).float()
        coarse = label_probabilities(coarsened(maps).numpy(), bg_score=0.5)
        starts.append((coarse[None], read_image(sample.image_path)[None]))
    return starts


def coarsened(maps: Tensor) -> Tensor:
    """Average-pool maps ``(C, H, W)`` and resize them back, without sharp edges."""
    height, width = maps.shape[-2:]
    cells = (max(1, height // STRIDE), max(1, width // STRIDE))
    coarse = F.interpolate(maps[None], cells, mode="area")
    return F.interpolate(coarse, (height, width), mode="bilinear")[0]


def agreement(starts: list[tuple[Tensor, Tensor]], kernel: dict[str, float]) -> dict[str, Any]:
    """Fraction of equally labelled pixels: mean, worst photo, and changes from the start."""
    if "pydensecrf" not in BACKENDS:
        return {}
    shares, changed, difference = [], [], 0.0
    for start, photo in starts:
        ours, theirs = (run(start, photo, name, kernel) for name in BACKENDS)
        shares.append(share_alike(ours, theirs))
        changed.append(1 - share_alike(start, theirs))
        difference = max(difference, float((ours - theirs).abs().max()))
    return {
        "photos": len(shares),
        "mean": sum(shares) / len(shares),
        "worst_photo": min(shares),
        "changed_by_pydensecrf": sum(changed) / len(changed),
        "largest_difference_of_marginals": difference,
    }


def exact_error(starts: list[tuple[Tensor, Tensor]], kernel: dict[str, float]) -> dict[str, Any]:
    """Fast filters against exact kernels on photos of 40 x 50 pixels."""
    result = {}
    small = [[F.interpolate(x.float(), (40, 50), mode="area") for x in pair] for pair in starts]
    exact = [run(*pair, "exact", kernel) for pair in small]
    for name in BACKENDS:
        errors = [
            (run(*pair, name, kernel) - right).abs()
            for pair, right in zip(small, exact, strict=True)
        ]
        result[name] = {
            "largest": max(float(error.max()) for error in errors),
            "mean": sum(float(error.mean()) for error in errors) / len(errors),
        }
    return result


def run(start: Tensor, photo: Tensor, backend: Any, kernel: dict[str, float]) -> Tensor:
    """Marginals after the published number of iterations."""
    return dense_crf(start, photo, iterations=ITERATIONS, backend=backend, **kernel)


def share_alike(one: Tensor, other: Tensor) -> float:
    """Fraction of pixels with the same label in both."""
    return float((one.argmax(1) == other.argmax(1)).float().mean())


def device_difference(
    starts: list[tuple[Tensor, Tensor]], kernel: dict[str, float], device: torch.device
) -> dict[str, float]:
    """Difference of the marginals on a device from those on the CPU."""
    shares, difference = [], 0.0
    for start, photo in starts:
        here = run(start, photo, "lattice", kernel)
        there = run(start.to(device), photo.to(device), "lattice", kernel).cpu()
        shares.append(share_alike(here, there))
        difference = max(difference, float((here - there).abs().max()))
    return {
        "photos": len(shares),
        "mean": sum(shares) / len(shares),
        "worst_photo": min(shares),
        "largest_difference_of_marginals": difference,
    }


def times(device: torch.device, seconds: Callable[[Work], float]) -> dict[str, float]:
    """Best of five, 21 labels on a photo of smooth colours with a little noise."""
    made = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3 + LABELS, 12, 16, generator=made)
    smooth = F.interpolate(coarse, (375, 500), mode="bicubic").clamp(0, 1)
    photo = 255 * smooth[:, :3] + 3 * torch.randn(1, 3, 375, 500, generator=made)
    photo = photo.clamp(0, 255).to(torch.uint8).to(device)
    start = (3 * smooth[:, 3:]).softmax(1).to(device)
    features = torch.rand(1, 112, 47, 63, generator=made).to(device)
    works: dict[str, Work] = {
        f"{backend}, {name}": lambda b=backend, k=kernel: run(start, photo, b, k)
        for name, kernel in KERNELS.items()
        for backend in (BACKENDS if device.type == "cpu" else BACKENDS[:1])
    }
    works["pamr"] = lambda: pamr(start, photo)
    works["walk, 47 x 63 cells, 112 channels"] = lambda: random_walk(start, features)
    return {name: min(seconds(work) for _ in range(5)) for name, work in works.items()}


def cpu_seconds(work: Work) -> float:
    """CPU time of one call."""
    started = time.process_time()
    work()
    return round(time.process_time() - started, 3)


def gpu_seconds(work: Work) -> float:
    """Time from the call until the GPU has finished."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return round(time.perf_counter() - started, 5)


if __name__ == "__main__":
    main()
