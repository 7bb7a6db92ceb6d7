"""Time a training step (forward, losses, backward) of the baseline and of DSCNet.

python benchmarks/step_time.py --json benchmarks/results/step_time.json

On a GPU, the paper's network at its size from random weights:

python benchmarks/step_time.py --config voc12_seam_dscnet --num-classes 20 \\
    --set '{model.weights: none, train.precision: bf16-mixed}' --json FILE
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
import yaml

from dscnet.config import Config
from dscnet.config.recipes import find_recipe
from dscnet.config.settings import from_dict, replace_settings
from dscnet.experiments.grid import VARIANTS
from dscnet.run_folder import environment, write_text
from dscnet.tables.step_time import contrast_step, random_batch, take_turns, training_step

PIXELS = {"M1, pixel contrast": {"method.variant": "M1", "method.contrast": "pixels"}}
CONTRASTS = {"M1": VARIANTS["M1"], **PIXELS}


def main() -> None:
    """Median step time of each variant, interleaved, on random photos with 1 to 4 tags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--config", default="msrc_seam_dscnet")
    parser.add_argument("--num-classes", type=int, default=17)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--set", type=yaml.safe_load, default={}, help="{dotted.setting: value}")
    parser.add_argument("--deterministic", action="store_true", help="torch's exact repeatability")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(options.deterministic, warn_only=True)
    recipe = from_dict(Config, yaml.safe_load(find_recipe(options.config).read_text()))
    recipe = replace_settings(recipe, options.set)
    batch = random_batch(recipe, options.num_classes)
    steps, memory = {}, {}
    for name, settings in (VARIANTS | PIXELS).items():
        config = replace_settings(recipe, settings)
        in_use = start_gpu_peak()
        steps[name] = training_step(config, batch, options.num_classes)
        steps[name]()
        if torch.cuda.is_available():
            memory[name] = round((torch.cuda.max_memory_allocated() - in_use) / 2**30, 2)
    contrasts = {
        name: contrast_step(replace_settings(recipe, settings), batch, options.num_classes)
        for name, settings in CONTRASTS.items()
    }
    seconds = take_turns(steps, options.steps)
    medians = medians_of(seconds)
    alone = take_turns(contrasts, options.steps)
    for name, value in medians.items():
        print(f"{name:20} {value:.2f} s  {value / medians['baseline']:.2f} of the baseline")
    for name, value in medians_of(alone).items():
        print(f"{name:20} {value:.3f} s  contrastive loss only")
    content = {
        "photos": recipe.train.batch_size,
        "crop": recipe.augment.crop_size,
        "backbone": recipe.model.backbone,
        "precision": recipe.train.precision,
        "deterministic": options.deterministic,
        "environment": environment(recipe.seed),
        "gpu_peak_gib": memory,
        "median_seconds": medians,
        "seconds": seconds,
        "contrast_median_seconds": medians_of(alone),
        "contrast_seconds": alone,
    }
    write_text(options.json, json.dumps(content, indent=1) + "\n")


def start_gpu_peak() -> int:
    """Reset the peak memory; returns bytes in use."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def medians_of(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median of each name's values."""
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
