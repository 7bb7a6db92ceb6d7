"""mIoU lost by each criterion for the background threshold against the best threshold.

python benchmarks/thresholds.py --runs runs/a runs/b \\
    --json benchmarks/results/labels/thresholds.json

With few photos, drawn at random with at least one tag (the network was trained on all):

python benchmarks/thresholds.py --runs runs/a --few 10 30 --draws 12 \\
    --json benchmarks/results/labels/few_photos.json

Uses masks. Rows that are already in the JSON are not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dscnet.data import PhotoSet, open_dataset, read_mask
from dscnet.labels.thresholds import CRITERIA, suggested_score
from dscnet.metrics.evaluation import SWEEP, evaluate_cams
from dscnet.pipeline.maps import load_map, score_counts
from dscnet.pipeline.measuring import ground_truth_masks
from dscnet.run_folder import RunFolder, environment, write_text


def main() -> None:
    """One row per finished run or draw of photos: chosen by CAMs only, evaluated with masks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--few", type=int, nargs="+", default=[], help="how many photos to draw")
    parser.add_argument("--draws", type=int, default=12)
    options = parser.parse_args()
    rows = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    for path in options.runs:
        folder = RunFolder(path)
        config = folder.read_config()
        photos = open_dataset(config.data, config.train_split)
        run = {"data": Path(config.data).name, "run": path.name}
        sets = few_photos(photos, options.few, options.draws) if options.few else [({}, photos)]
        for part, chosen in sets:
            name = run | part
            if any(name.items() <= row.items() for row in rows):
                print(f"{name}: already measured")
                continue
            made_by = {"variant": config.method.variant, "seed": config.seed}
            rows.append(name | made_by | measure(folder, chosen))
            content = {"environment": environment(0), "rows": rows}
            write_text(options.json, json.dumps(content, indent=1) + "\n")
            lost = ", ".join(f"{key} {100 * value:.2f}" for key, value in rows[-1]["lost"].items())
            print(f"{name}: points lost by {lost}", flush=True)


def few_photos(
    photos: PhotoSet, sizes: Sequence[int], draws: int
) -> Iterator[tuple[dict[str, int], PhotoSet]]:
    """Random subsets of a data set, each with an identifier."""
    tagged = [sample for sample in photos.samples if sample.tags]
    for size in sizes:
        for draw in range(draws):
            chosen = np.random.default_rng(draw).choice(len(tagged), size, replace=False)
            part = replace(photos, samples=tuple(tagged[index] for index in chosen))
            yield {"photos": size, "draw": draw}, part


def measure(folder: RunFolder, photos: PhotoSet) -> dict[str, Any]:
    """Background threshold of each criterion, and the mIoU that it loses."""
    with_saliency = all(sample.saliency_path is not None for sample in photos.samples)
    counts = score_counts(photos, folder.cams, saliency=with_saliency)
    found = {name: suggested_score(counts, name) for name in CRITERIA}
    scores = {name: score for name, score in found.items() if score is not None}
    best = evaluate(folder, photos, SWEEP)
    miou = {score: evaluate(folder, photos, [score])[0] for score in set(scores.values())}
    return {
        "miou_best_bg": best[0],
        "best_bg_score": best[1],
        "bg_score": found,
        "lost": {name: best[0] - miou[score] for name, score in scores.items()},
    }


def evaluate(folder: RunFolder, photos: PhotoSet, scores: Sequence[float]) -> tuple[float, float]:
    """Best mIoU over thresholds, and its threshold."""
    items = (
        (*load_map(folder.cams, image_id), read_mask(mask).numpy())
        for image_id, mask in ground_truth_masks(photos)
    )
    section = evaluate_cams(items, photos.classes, split=None, bg_score=0.0, sweep=scores)
    return section["miou_best_bg"], section["best_bg_score"]


if __name__ == "__main__":
    main()
