"""Dense CRF: agreement with pydensecrf2 on a run's photos, error of the fast filter, CPU time.

python benchmarks/crf.py --run runs/x --json benchmarks/results/labels/NAME.json
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

from dscnet.data import open_dataset, read_image
from dscnet.job import Job
from dscnet.labelling import background_score, load_map
from dscnet.labels.affinity import random_walk
from dscnet.labels.crf import dense_crf
from dscnet.labels.pamr import pamr
from dscnet.labels.refine import label_probabilities
from dscnet.run_folder import RunFolder, environment, write_text

KERNELS: dict[str, dict[str, float]] = {
    "50 pixels, 5 grey values": {"bilateral_std": 50.0, "color_std": 5.0},
    "80 pixels, 13 grey values": {"bilateral_std": 80.0, "color_std": 13.0},
}
BACKENDS = ["lattice", *(["pydensecrf"] if importlib.util.find_spec("pydensecrf") else [])]


def main() -> None:
    """Write what was measured; without the package, its part is empty."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    starts = read_starts(RunFolder(options.run), options.photos)
    content = {
        "environment": environment(0),
        "agreement": {name: agreement(starts, kernel) for name, kernel in KERNELS.items()},
        "exact": {name: exact_error(starts, kernel) for name, kernel in KERNELS.items()},
        "cpu_seconds_375x500": times(),
    }
    write_text(options.json, json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def read_starts(folder: RunFolder, count: int) -> list[tuple[Tensor, Tensor]]:
    """Label probabilities and photo of tagged photos spread over the run's training photos."""
    config = folder.read_config()
    photos = open_dataset(config.data, config.train_split)
    bg_score = background_score(Job(config, folder, photos, None))
    tagged = [sample for sample in photos.samples if sample.tags]
    chosen = tagged[:: max(1, len(tagged) // count)][:count]
    return [
        (
            label_probabilities(load_map(folder.cams, s.image_id)[0], bg_score=bg_score)[None],
            read_image(s.image_path)[None],
        )
        for s in chosen
    ]


def agreement(starts: list[tuple[Tensor, Tensor]], kernel: dict[str, float]) -> dict[str, Any]:
    """Share of the pixels that both label alike: all pixels, and the worst photo."""
    if "pydensecrf" not in BACKENDS:
        return {}
    shares, difference = [], 0.0
    for start, photo in starts:
        ours, theirs = (dense_crf(start, photo, backend=name, **kernel) for name in BACKENDS)
        shares.append(float((ours.argmax(1) == theirs.argmax(1)).float().mean()))
        difference = max(difference, float((ours - theirs).abs().max()))
    return {
        "photos": len(shares),
        "mean": sum(shares) / len(shares),
        "worst_photo": min(shares),
        "largest_difference_of_marginals": difference,
    }


def exact_error(starts: list[tuple[Tensor, Tensor]], kernel: dict[str, float]) -> dict[str, Any]:
    """Fast filters against exact kernels on photos of 40 x 50 pixels."""
    result = {}
    small = [[F.interpolate(x.float(), (40, 50), mode="area") for x in pair] for pair in starts]
    exact = [dense_crf(*pair, backend="exact", **kernel) for pair in small]
    for name in BACKENDS:
        errors = [
            (dense_crf(*pair, backend=name, **kernel) - right).abs()
            for pair, right in zip(small, exact, strict=True)
        ]
        result[name] = {
            "largest": max(float(error.max()) for error in errors),
            "mean": sum(float(error.mean()) for error in errors) / len(errors),
        }
    return result


def times() -> dict[str, float]:
    """Best of five, one thread, 21 labels on a photo of smooth colours with a little noise."""
    made = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 24, 12, 16, generator=made)
    smooth = F.interpolate(coarse, (375, 500), mode="bicubic").clamp(0, 1)
    photo = 255 * smooth[:, :3] + 3 * torch.randn(1, 3, 375, 500, generator=made)
    photo = photo.clamp(0, 255).to(torch.uint8)
    start = (3 * smooth[:, 3:]).softmax(1)
    features = torch.rand(1, 112, 47, 63, generator=made)
    works: dict[str, Callable[[], Any]] = {
        f"{backend}, {name}": lambda b=backend, k=kernel: dense_crf(start, photo, backend=b, **k)
        for name, kernel in KERNELS.items()
        for backend in BACKENDS
    }
    works["pamr"] = lambda: pamr(start, photo)
    works["walk, 47 x 63 cells, 112 channels"] = lambda: random_walk(start, features)
    return {name: min(cpu_seconds(work) for _ in range(5)) for name, work in works.items()}


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    work()
    return round(time.process_time() - started, 3)


if __name__ == "__main__":
    main()
