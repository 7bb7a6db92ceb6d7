"""Photos per second of prediction in two checkouts, in turn, on the same network and photos.

python benchmarks/predict_speed.py --old CHECKOUT --model RUN --photos FOLDER \\
    --json benchmarks/results/predict_speed.json

A pair is one pass over the photos by each checkout, from file to file, after a warm-up. ``wall``
counts on a quiet machine with all its cores, ``cpu`` on any: time of all threads. RUN must be
readable by both checkouts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dscnet.data import Sample, image_size, open_photos
from dscnet.files.label_images import read_labels
from dscnet.run_folder import environment, write_text

REPOSITORY = Path(__file__).resolve().parents[1]
CLOCKS = ("wall", "cpu")
PASS = """
import json, sys, time
from pathlib import Path
from dscnet.data import open_photos
from dscnet.predictor import Predictor
model, out, crf, *photos = sys.argv[1:]
predictor = Predictor.from_run(model)
if crf != "as trained":
    predictor.crf = crf == "true"
predictor.write(open_photos(*photos[:2]), Path(out) / "warm_up")
started = time.perf_counter(), time.process_time()
failures = predictor.write(open_photos(*photos), Path(out) / "masks", overlays=Path(out) / "over")
ended = time.perf_counter(), time.process_time()
assert not failures, failures
print(json.dumps([after - before for before, after in zip(started, ended)]))
"""
"""One pass; uses only what both checkouts have."""


def main() -> None:
    """Write the rates, their ratios and the agreement of the masks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True, help="the other checkout")
    parser.add_argument("--model", type=Path, required=True, help="run folder")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos")
    parser.add_argument("--count", type=int, default=40, help="photos, evenly spaced")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--crf", choices=("as trained", "true", "false"), default="as trained")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    samples = open_photos(options.photos).samples
    samples = samples[:: max(1, len(samples) // options.count)][: options.count]
    trees = {"old": options.old.resolve(), "new": REPOSITORY}
    with TemporaryDirectory() as place:
        folders = {name: Path(place) / name for name in trees}
        pairs = []
        for turn in range(options.pairs):
            # Each goes first as often as the other.
            names = sorted(trees, reverse=turn % 2 == 1)
            seconds = {
                name: one_pass(trees[name], folders[name], samples, options) for name in names
            }
            pairs.append(seconds)
            print(json.dumps(seconds), flush=True)
        agreement = compare(folders["old"] / "masks", folders["new"] / "masks", samples)
    sizes = [image_size(sample.image_path) for sample in samples]
    content = {
        "photos": len(samples),
        "median_size": [statistics.median(side) for side in zip(*sizes, strict=True)],
        "crf": options.crf,
        "old_revision": revision(trees["old"]),
        "environment": environment(0),
        "photos_per_second": {
            name: summary([len(samples) / pair[name]["wall"] for pair in pairs]) for name in trees
        },
        "ratio": {
            clock: summary([pair["old"][clock] / pair["new"][clock] for pair in pairs])
            for clock in CLOCKS
        },
        "agreement": agreement,
        "seconds": pairs,
    }
    write_text(options.json, json.dumps(content, indent=1) + "\n")
    print(json.dumps({name: content[name] for name in ("photos_per_second", "ratio", "agreement")}))


def one_pass(
    tree: Path, out: Path, samples: Sequence[Sample], options: argparse.Namespace
) -> dict[str, float]:
    """Wall and CPU seconds of predicting the photos with a checkout."""
    photos = [str(sample.image_path.resolve()) for sample in samples]
    command = [sys.executable, "-c", PASS, str(options.model.resolve()), str(out), options.crf]
    done = subprocess.run(
        [*command, *photos],
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{tree}: prediction failed\n{done.stderr}")
    return dict(zip(CLOCKS, json.loads(done.stdout.splitlines()[-1]), strict=True))


def compare(old: Path, new: Path, samples: Sequence[Sample]) -> dict[str, float]:
    """Fraction of equally labelled pixels, over all photos and of the worst."""
    equal, count, worst = 0, 0, 1.0
    for sample in samples:
        same = read_labels(old / f"{sample.image_id}.png") == read_labels(
            new / f"{sample.image_id}.png"
        )
        equal, count, worst = equal + int(same.sum()), count + same.size, min(worst, same.mean())
    return {"pixels": equal / count, "worst_photo": float(worst)}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def revision(tree: Path) -> str | None:
    """Commit of a checkout; None outside a repository."""
    command = ["git", "-C", str(tree), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


if __name__ == "__main__":
    main()
