"""The whole pipeline on generated scenes: what `dscnet demo` runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from dscnet.config import Config
from dscnet.config.recipes import find_recipe, read_config
from dscnet.config.settings import differences, dotted_settings, to_dict
from dscnet.data.scenes import write_scenes
from dscnet.pipeline.job import located
from dscnet.pipeline.runner import run
from dscnet.run_folder import RunFolder
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")

NUM_TRAIN, NUM_VAL, SIZE = 160, 48, 192


def demo(
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Generate scenes, run every stage on them, and measure.

    Args:
        out: Run folder; the scenes lie in its folder ``scenes``.
        resume: Go on in the folder of a demo.
        force: Delete the run that the folder holds.
        seed: Seed of scenes and training.
        progress: Show progress bars.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        DscnetError: If the folder is occupied and neither is said, or what is to go on is not this
            demo.
    """
    folder = RunFolder(Path(out))
    scenes = folder.root / "scenes"
    config = read_config(find_recipe("demo"))
    config.data, config.seed = os.fspath(scenes), seed
    config = located(config)
    if resume and not force:
        _refuse_other_runs(folder, config)
    folder.create(resume=resume, force=force)
    # Before the scenes, so that a demo that was interrupted is known for a run.
    folder.write_config(config)
    if not scenes.exists():
        log.info("drawing %d scenes into %s", NUM_TRAIN + NUM_VAL, scenes)
        write_scenes(scenes, num_train=NUM_TRAIN, num_val=NUM_VAL, size=SIZE, seed=seed)
    return run(config, folder.root, resume=True, progress=progress)


def _refuse_other_runs(folder: RunFolder, config: Config) -> None:
    """The scenes of another seed would stay, and a run on photos would be trained over."""
    if not folder.config.exists():
        return
    there, here = (
        dotted_settings(to_dict(c)) for c in (folder.read_config(finished=False), config)
    )
    if differing := differences(there, here):
        raise DscnetError(
            f"{folder.root} holds a run of other settings ({'; '.join(differing)}): name another"
            " --out"
        )
