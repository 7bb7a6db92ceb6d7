"""Time one training step (forward, losses, backward) of the baseline and DSCNet; write one JSON.

python benchmarks/step_time.py --json benchmarks/results/step_time.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from dscnet.build import build_model, build_objective
from dscnet.config import Config
from dscnet.experiments import VARIANTS
from dscnet.recipes import find_recipe
from dscnet.run_folder import environment, write_text
from dscnet.settings import from_dict, replace_settings
from dscnet.types import Batch

PIXELS = {"M1, pixel contrast": {"method.variant": "M1", "method.contrast": "pixels"}}


def main() -> None:
    """Median of the counted steps of each variant, in turn, on random photos with 1 to 4 tags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--config", default="msrc_seam_dscnet")
    parser.add_argument("--num-classes", type=int, default=17)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    recipe = from_dict(Config, yaml.safe_load(find_recipe(options.config).read_text()))
    batch = random_batch(recipe.train.batch_size, recipe.augment.crop_size, options.num_classes)
    steps = {
        name: make_step(replace_settings(recipe, settings), batch, options.num_classes)
        for name, settings in (VARIANTS | PIXELS).items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    # In turn, so that a change of the machine's speed meets all alike; the first round warms up.
    for turn in range(options.steps + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:20} {value:.2f} s  {value / medians['baseline']:.2f} of the baseline")
    content = {
        "photos": recipe.train.batch_size,
        "crop": recipe.augment.crop_size,
        "backbone": recipe.model.backbone,
        "environment": environment(recipe.seed),
        "median_seconds": medians,
        "seconds": seconds,
    }
    write_text(options.json, json.dumps(content, indent=1) + "\n")


def random_batch(size: int, crop: int, num_classes: int) -> Batch:
    """Noise photos; what is in them does not change the time."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 3, crop, crop, generator=generator)
    tags = torch.zeros(size, num_classes)
    for row in range(size):
        tags[row, torch.randperm(num_classes, generator=generator)[: 1 + row % 4]] = 1
    layout = image.contiguous(memory_format=torch.channels_last)
    return Batch(layout, tags, [str(row) for row in range(size)])


def make_step(config: Config, batch: Batch, num_classes: int) -> Callable[[], None]:
    """A training step of one variant, contrasts on."""
    torch.manual_seed(0)
    model = build_model(config, num_classes).train()
    objective = build_objective(config.method, num_classes + 1).train()

    def step() -> None:
        model.zero_grad()
        objective(model(batch.image, batch.tags), batch, 1.0).total.backward()

    return step


if __name__ == "__main__":
    main()
