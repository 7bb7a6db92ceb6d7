"""The whole pipeline on generated scenes: what `dscnet demo` runs."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from dscnet.config import Config, from_dict
from dscnet.data.scenes import write_scenes
from dscnet.pipeline import run
from dscnet.recipes import find_recipe
from dscnet.run_folder import RunFolder

NUM_TRAIN, NUM_VAL, SIZE = 160, 48, 192


def demo(
    out: str | Path, *, force: bool = False, seed: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Generate scenes beside the run folder, run every stage on them, and measure.

    Args:
        out: Run folder; the scenes lie in ``OUT/../NAME-scenes``.
        force: Delete what both folders hold.
        seed: Seed of scenes and training.
        progress: Show progress bars.

    Returns:
        What ``metrics.json`` holds.
    """
    root = Path(out)
    scenes = root.with_name(f"{root.name}-scenes")
    RunFolder(root).create(force=force)
    if force and scenes.exists():
        shutil.rmtree(scenes)
    logging.getLogger("dscnet").info("drawing %d scenes into %s", NUM_TRAIN + NUM_VAL, scenes)
    write_scenes(scenes, num_train=NUM_TRAIN, num_val=NUM_VAL, size=SIZE, seed=seed)
    config = from_dict(Config, yaml.safe_load(find_recipe("demo").read_text()))
    config.data, config.seed = os.fspath(scenes), seed
    return run(config, root, resume=True, progress=progress)
