"""The whole pipeline on generated scenes: what `dscnet demo` runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from dscnet.data.scenes import write_scenes
from dscnet.pipeline import run
from dscnet.recipes import find_recipe, read_config
from dscnet.run_folder import RunFolder

log = logging.getLogger("dscnet")

NUM_TRAIN, NUM_VAL, SIZE = 160, 48, 192


def demo(
    out: str | Path, *, force: bool = False, seed: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Generate scenes, run every stage on them, and measure.

    Args:
        out: Run folder; the scenes lie in its folder ``scenes``.
        force: Delete the run that the folder holds.
        seed: Seed of scenes and training.
        progress: Show progress bars.

    Returns:
        What ``metrics.json`` holds.
    """
    folder = RunFolder(Path(out))
    scenes = folder.root / "scenes"
    config = read_config(find_recipe("demo"))
    config.data, config.seed = os.fspath(scenes), seed
    folder.create(force=force)
    # Before the scenes, so that --force knows a demo that was interrupted for a run.
    folder.write_config(config)
    log.info("drawing %d scenes into %s", NUM_TRAIN + NUM_VAL, scenes)
    write_scenes(scenes, num_train=NUM_TRAIN, num_val=NUM_VAL, size=SIZE, seed=seed)
    return run(config, folder.root, resume=True, progress=progress)
