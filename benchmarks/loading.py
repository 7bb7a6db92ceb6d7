"""Time and memory of reading and augmenting photos for training, without a network; Linux.

python benchmarks/loading.py --photos FOLDER --workers 2

The last line is a JSON object, for ``benchmarks/versus.py``: ``epochs_cpu_seconds`` of all
processes, and ``pss_mib``, their memory, with what they share counted once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from dscnet.data.datasets import PhotoSet, open_photos
from dscnet.data.loader import PhotoDataset, make_loader
from dscnet.data.transforms import TrainTransform

_HALF = (0.5, 0.5, 0.5)


def main() -> None:
    """Read all photos of a folder for some epochs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--side", type=int, help="longer side that the photos are enlarged to")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        photos = open_photos(options.photos)
        photos = replace(photos, samples=photos.samples[: options.count])
        if options.side is not None:
            photos = enlarged(photos, Path(folder), options.side)
        print(json.dumps(measure(photos, options.workers, options.epochs)))


def enlarged(photos: PhotoSet, folder: Path, side: int) -> PhotoSet:
    """JPEGs of the photos at another longer side."""
    for sample in photos.samples:
        image = Image.open(sample.image_path).convert("RGB")
        factor = side / max(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)))
        image.save(folder / f"{sample.image_id}.jpg", quality=92)
    return open_photos(folder)


def measure(photos: PhotoSet, workers: int, epochs: int) -> dict[str, float]:
    """CPU seconds of the epochs, start of the workers included, and memory at their end."""
    transform = TrainTransform(224, long_side=(224, 448), jitter=0.3, mean=_HALF, std=_HALF)
    data = PhotoDataset(photos, transform, long_side=transform.read_side)
    before = cpu_seconds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more workers than cores
        loader = make_loader(data, batch_size=4, seed=0, shuffle=True, num_workers=workers)
        for epoch in range(epochs):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            for _ in loader:
                pass
    memory = sum(map(pss_mib, (os.getpid(), *children())))
    del loader  # its workers count once they have ended
    return {"epochs_cpu_seconds": round(cpu_seconds() - before, 3), "pss_mib": round(memory, 1)}


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def children() -> list[int]:
    """Ids of the processes that this one started."""
    pid = os.getpid()
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pss_mib(pid: int) -> float:
    """Memory of a process in MiB; shared pages are divided among those who share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
