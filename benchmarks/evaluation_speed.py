"""Photos a second of the evaluation of label folders, and its memory.

python benchmarks/evaluation_speed.py --json benchmarks/results/evaluation_speed.json

Against another checkout, and with more photos for the memory:

python benchmarks/evaluation_speed.py --old ../before --photos 100 1000 10000 100000 --json FILE

CPU time of one thread. Each round measures all of them in turn, in processes of their own:

- ``ours``: ``evaluate_folders`` on generated label PNGs, 375 x 500 pixels, 21 labels
- ``bare``: the same files read by Pillow, and one ``numpy.bincount`` a photo without any check
- ``old``: ``evaluate_folders`` of the other checkout

``in_memory`` has the photos already read. ``peak_mib`` is the memory of an evaluation beyond that
of the imported modules, by number of photos, each a link of its own to one of the generated files.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

SIZE = (375, 500)
CLASSES = [f"class {index}" for index in range(20)]
FILES = 64
ROUNDS, REPEATS = 7, 8
MIB = 2**20


def main() -> None:
    """Measure everything, or a single case in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--old", type=Path, help="another checkout of this repository")
    parser.add_argument("--photos", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--case", choices=sorted(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(CASES[options.case](options.folder)))
        return
    if options.json is None:
        parser.error("give --json")
    from dscnet.run_folder import environment, write_text

    with TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder)
        content = {
            "photos": {"height": SIZE[0], "width": SIZE[1], "labels": len(CLASSES) + 1},
            "environment": environment(0),
            **compare(folder, options.old),
            "peak_mib": {str(count): peak(folder, count) for count in options.photos},
        }
    write_text(options.json, json.dumps(content, indent=1) + "\n")
    print(json.dumps({key: content[key] for key in ("photos_per_second", "ratios", "peak_mib")}))


def write_photos(folder: Path) -> None:
    """Write smooth labels of up to four classes, and predictions that resemble them."""
    from dscnet.files.label_images import write_label

    generator = torch.Generator().manual_seed(0)
    for index in range(FILES):
        count = 2 + index % 4
        present = torch.randperm(len(CLASSES), generator=generator)[: count - 1] + 1
        labels = torch.cat([torch.zeros(1, dtype=torch.int64), present])
        scores = torch.randn(count, 6, 8, generator=generator)
        noise = torch.randn(count, 24, 32, generator=generator)
        truth = _labels_of(_at_size(scores), labels)
        guess = _labels_of(_at_size(scores) + 0.2 * _at_size(noise), labels)
        # As in VOC, pixels at outlines are ignored.
        spread = functional.max_pool2d(torch.from_numpy(truth)[None].float(), 5, 1, 2)[0].numpy()
        write_label(folder / "gt" / f"{index}.png", np.where(spread == truth, truth, np.uint8(255)))
        write_label(folder / "pred" / f"{index}.png", guess)


def _at_size(scores: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(scores[None], SIZE, mode="bilinear")[0]


def _labels_of(scores: torch.Tensor, labels: torch.Tensor) -> np.ndarray[Any, Any]:
    return labels[scores.argmax(0)].numpy().astype(np.uint8)


def compare(folder: Path, old: Path | None) -> dict[str, Any]:
    """Photos a second of each case in each round, medians, and medians of their ratios."""
    own = Path(__file__).parents[1]
    cases = {name: (name, own) for name in ("ours", "bare", "ours_in_memory", "bare_in_memory")}
    if old is not None:
        cases["old"] = ("ours", old)
    rounds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (case, checkout) in cases.items():
            rounds[name].append(run_case(case, folder, checkout))
    pairs = [("ours", "bare"), ("ours_in_memory", "bare_in_memory")]
    pairs += [("ours", "old")] if old is not None else []
    return {
        "old_revision": None if old is None else revision(old),
        "photos_per_second": {name: statistics.median(each) for name, each in rounds.items()},
        "ratios": {
            f"{one} / {other}": statistics.median(
                a / b for a, b in zip(rounds[one], rounds[other], strict=True)
            )
            for one, other in pairs
        },
        "rounds": rounds,
    }


def run_case(case: str, folder: Path, checkout: Path) -> float:
    """Result of a case with the package of a checkout."""
    paths = {"PYTHONPATH": str(checkout.resolve() / "src")}
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, __file__, "--case", case, "--folder", str(folder)]
    done = subprocess.run(
        command, env=os.environ | paths | threads, check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout))


def revision(checkout: Path) -> str:
    """Commit of a checkout."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def peak(folder: Path, count: int) -> float:
    """Peak memory of an evaluation of that many photos, MiB."""
    with TemporaryDirectory() as name:
        links = Path(name)
        for kind in ("pred", "gt"):
            (links / kind).mkdir()
            for index in range(count):
                (links / kind / f"{index:06}.png").symlink_to(
                    folder / kind / f"{index % FILES}.png"
                )
        return run_case("memory", links, Path(__file__).parents[1])


def measure_memory(folder: Path) -> float:
    """Peak memory of ``evaluate_folders`` beyond that of the imported modules, MiB."""
    evaluate = evaluator()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    evaluate(folder / "pred", folder / "gt", CLASSES)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return round((highest - before) / MIB, 1)


def evaluator() -> Callable[..., Any]:
    """``evaluate_folders`` of this or an earlier layout of the package."""
    try:
        from dscnet.metrics.evaluation import evaluate_folders
    except ImportError:
        from dscnet.evaluation import evaluate_folders  # type: ignore
    return evaluate_folders


def per_second(work: Callable[[], object]) -> float:
    """Photos a second of CPU time; ``work`` evaluates all files once, and is repeated."""
    work()
    started = time.process_time()
    for _ in range(REPEATS):
        work()
    return FILES * REPEATS / (time.process_time() - started)


def measure_ours(folder: Path) -> float:
    """Evaluation of the two folders."""
    evaluate = evaluator()
    return per_second(lambda: evaluate(folder / "pred", folder / "gt", CLASSES))


def measure_bare(folder: Path) -> float:
    """Reading by Pillow, and a bare bincount."""
    return per_second(lambda: [bare_counts(*pair) for pair in read_pairs(folder)])


def measure_ours_in_memory(folder: Path) -> float:
    """Evaluation of arrays."""
    from dscnet.metrics.evaluation import evaluate_pairs

    pairs = list(read_pairs(folder))
    return per_second(lambda: evaluate_pairs(pairs, CLASSES, split=None))


def measure_bare_in_memory(folder: Path) -> float:
    """A bare bincount of arrays."""
    pairs = list(read_pairs(folder))
    return per_second(lambda: [bare_counts(*pair) for pair in pairs])


def read_pairs(folder: Path) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Prediction and ground truth of each photo, read by Pillow."""
    for index in range(FILES):
        with (
            Image.open(folder / "pred" / f"{index}.png") as pred,
            Image.open(folder / "gt" / f"{index}.png") as gt,
        ):
            yield np.asarray(pred), np.asarray(gt)


def bare_counts(
    pred: np.ndarray[Any, Any], gt: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """What every evaluation must do at least: a histogram of the pairs of labels that count."""
    counted = gt != 255
    num_labels = len(CLASSES) + 1
    return np.bincount(
        gt[counted].astype(np.int64) * num_labels + pred[counted], minlength=num_labels**2
    )


CASES = {
    "ours": measure_ours,
    "bare": measure_bare,
    "ours_in_memory": measure_ours_in_memory,
    "bare_in_memory": measure_bare_in_memory,
    "memory": measure_memory,
}

if __name__ == "__main__":
    main()
