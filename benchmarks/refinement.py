"""Evaluate labels of a finished run before and after each refinement, without retraining.

python benchmarks/refinement.py --run runs/x --json benchmarks/results/labels/NAME.json
    [--refinements none pamr crf walk walk+crf] [--every 4] [--certainty null] [--bg_power 4]
    [--set affinity.log_steps=3]

Uses masks. Refinements that are already in the JSON are not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from dscnet.config.settings import replace_settings
from dscnet.data import open_dataset, read_image, read_mask
from dscnet.metrics.evaluation import evaluate_pairs
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import background_score, load_map, map_folder
from dscnet.pipeline.refine import photo_steps, refinement_start
from dscnet.refine.probabilities import probable_label
from dscnet.refine.steps import refine_labels
from dscnet.run_folder import RunFolder, environment, write_text


def main() -> None:
    """One row per refinement; the file is written after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--refinements", nargs="+", default=["none", "pamr", "crf", "walk"])
    parser.add_argument("--every", type=int, default=1, help="measure every n-th photo only")
    parser.add_argument("--certainty", default="0.7", help="as refine.certainty; null = scores")
    parser.add_argument("--bg_power", type=float, default=None, help="as refine.bg_power")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings")
    options = parser.parse_args()
    certainty = None if options.certainty == "null" else float(options.certainty)
    start = {"refine.certainty": certainty, "refine.bg_power": options.bg_power}
    folder = RunFolder(options.run)
    changed = {name: yaml.safe_load(value) for name, value in (s.split("=") for s in options.set)}
    config = replace_settings(folder.read_config(), start | changed)
    photos = open_dataset(config.data, config.train_split)
    rows = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    for name in options.refinements:
        measured = {"run": options.run.name, "refinement": name, "every": options.every, **start}
        measured["settings"] = changed
        if any(measured.items() <= row.items() for row in rows):
            print(f"{name}: already measured")
            continue
        steps = [] if name == "none" else name.split("+")
        job = Job(replace_settings(config, {"refine.steps": steps}), folder, photos, None)
        rows.append(measured | measure(job, options.every))
        content = {
            "data": Path(config.data).name,
            "environment": environment(config.seed),
            "rows": rows,
        }
        write_text(options.json, json.dumps(content, indent=1) + "\n")
        print(f"{name:12} {100 * rows[-1]['miou']:.1f}  {rows[-1]['cpu_seconds_per_photo']}")


def measure(job: Job, every: int) -> dict[str, Any]:
    """The mIoU of the refined labels, and the CPU time of each step."""
    # Networks that the run has trained are reused, others are trained.
    steps_of = photo_steps(job)
    settings = job.config.refine
    bg_score = background_score(job)
    seconds = dict.fromkeys(settings.steps, 0.0)
    pairs = []
    for sample in job.train.samples[::every]:
        if sample.mask_path is None:
            continue
        cam, classes = load_map(map_folder(job), sample.image_id)
        labels = refinement_start(job.config, cam, bg_score)
        photo = read_image(sample.image_path)
        steps = steps_of(sample)
        started = time.process_time()
        for name, refined in refine_labels(labels, photo, steps):
            labels = refined
            seconds[name] += time.process_time() - started
            started = time.process_time()
        predicted = probable_label(labels[1:].numpy(), classes)
        pairs.append((predicted, read_mask(sample.mask_path).numpy()))
    section = evaluate_pairs(pairs, job.train.classes, split=job.config.train_split)
    return {
        "bg_score": bg_score,
        "num_images": section["num_images"],
        "miou": section["miou"],
        "cpu_seconds_per_photo": {
            name: round(spent / max(len(pairs), 1), 4) for name, spent in seconds.items()
        },
        "cpu_threads": torch.get_num_threads(),
        "iou": section["iou"],
    }


if __name__ == "__main__":
    main()
