"""Compare the speed and the masks of `dscnet predict` in two checkouts, which take turns.

python benchmarks/predict_speed.py --old CHECKOUT --model RUN --photos FOLDER --pairs 5 \\
    --json benchmarks/results/predict_speed.json

Each run loads the network, predicts one photo to warm up, and is then timed on all photos. Pairs
alternate in their order. CPU seconds are those of all threads; on a busy machine they drift less
than the wall time. Masks are compared with those of the old checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDES = ("old", "new")

RUN = """
import json, sys, time
from pathlib import Path
from dscnet.data import open_photos
from dscnet.predictor import Predictor
from dscnet.run_folder import environment
folder, model, out, count = sys.argv[1:]
photos = open_photos(folder)
samples = photos.samples[:: max(1, len(photos.samples) // int(count))][: int(count)]
photos = type(photos)(photos.name, (), samples)
predictor = Predictor.from_run(model)
predictor.write(type(photos)(photos.name, (), samples[:1]), Path(out) / "masks")
wall, cpu = time.perf_counter(), time.process_time()
failures = predictor.write(photos, Path(out) / "masks", overlays=Path(out) / "overlays")
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
assert not failures, failures
print(json.dumps({"photos": len(samples), "wall_seconds": wall, "cpu_seconds": cpu,
                  "environment": environment(0)}))
"""
"""One timed run; both checkouts have these names."""


def main() -> None:
    """Run the pairs and print rates, ratios and the agreement of the masks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--new", type=Path, default=Path(__file__).parents[1], help="default: this")
    parser.add_argument("--model", type=Path, required=True, help="run folder that both can read")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos")
    parser.add_argument("--count", type=int, default=60, help="number of photos, evenly spaced")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    trees = {"old": options.old.resolve(), "new": options.new.resolve()}
    pairs: list[dict[str, Any]] = []
    for index in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append(run_pair(trees, options, Path(folder), reverse=index % 2 == 1))
        content = summary(pairs, {side: commit(tree) for side, tree in trees.items()})
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print({side: pairs[-1][side] for side in SIDES}, flush=True)
    print(json.dumps({key: content[key] for key in ("photos_per_second", "ratios", "agreement")}))


def run_pair(
    trees: dict[str, Path], options: argparse.Namespace, folder: Path, *, reverse: bool
) -> dict[str, Any]:
    """Numbers of both checkouts, by side, and the agreement of their masks."""
    pair: dict[str, Any] = {"first": SIDES[reverse]}
    for side in SIDES[::-1] if reverse else SIDES:
        words = (options.photos.resolve(), options.model.resolve(), folder / side, options.count)
        done = subprocess.run(
            [sys.executable, "-c", RUN, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(trees[side] / "src")},
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        pair[side] = json.loads(done.stdout.splitlines()[-1])
    pair["environment"] = pair["new"].pop("environment")
    del pair["old"]["environment"]
    return pair | {"agreement": agreement(folder / "old" / "masks", folder / "new" / "masks")}


def agreement(old: Path, new: Path) -> dict[str, float]:
    """Share of pixels with equal labels, of all photos and of the worst one."""
    equal = {}
    for path in sorted(old.glob("*.png")):
        labels, others = (np.asarray(Image.open(folder / path.name)) for folder in (old, new))
        equal[path.name] = (int((labels == others).sum()), labels.size)
    same, pixels = map(sum, zip(*equal.values(), strict=True))
    worst = min(count / size for count, size in equal.values())
    return {"pixels": same / pixels, "worst_photo": worst}


def summary(pairs: list[dict[str, Any]], commits: dict[str, str]) -> dict[str, Any]:
    """Rates, ratios new over old (median, minimum, maximum), and what was run where."""
    rates = {s: [pair[s]["photos"] / pair[s]["wall_seconds"] for pair in pairs] for s in SIDES}
    times = {s: [pair[s]["photos"] / pair[s]["cpu_seconds"] for pair in pairs] for s in SIDES}
    return {
        "commits": commits,
        "environment": pairs[-1]["environment"],
        "photos": pairs[0]["new"]["photos"],
        "photos_per_second": {side: statistics.median(values) for side, values in rates.items()},
        "ratios": {
            "photos_per_second": spread(rates),
            "photos_per_cpu_second": spread(times),
        },
        "agreement": {
            key: min(pair["agreement"][key] for pair in pairs) for key in pairs[0]["agreement"]
        },
        "pairs": [{key: value for key, value in p.items() if key != "environment"} for p in pairs],
    }


def spread(values: dict[str, list[float]]) -> dict[str, float]:
    """New over old, pair by pair."""
    each = [new / old for old, new in zip(values["old"], values["new"], strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def commit(tree: Path) -> str:
    """Commit of a checkout."""
    words = ["git", "-C", str(tree), "rev-parse", "HEAD"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
