"""The whole pipeline on generated scenes, for `dscnet demo`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from dscnet.config import Config
from dscnet.config.recipes import find_recipe, read_config
from dscnet.config.settings import differences, dotted_settings, to_dict
from dscnet.data.scenes import write_scenes
from dscnet.pipeline.job import with_absolute_paths
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
    """Generate scenes, run all stages on them, and evaluate.

    Args:
        out: Run folder; the scenes are in its subfolder ``scenes``.
        resume: Continue a demo in that folder.
        force: Delete an existing run in that folder.
        seed: Seed of scenes and training.
        progress: Show progress bars.

    Returns:
        The content of ``metrics.json``.

    Raises:
        DscnetError: If the folder is not empty and neither is given, or the run to continue is not
            this demo.
    """
    folder = RunFolder(Path(out))
    scenes = folder.root / "scenes"
    config = read_config(find_recipe("demo"))
    config.data, config.seed = os.fspath(scenes), seed
    config = with_absolute_paths(config)
    if resume and not force:
        _refuse_other_runs(folder, config)
    folder.create(resume=resume, force=force)
    # Before the scenes, so that an interrupted demo is recognised as a run.
    folder.write_config(config)
    if not scenes.exists():
        log.info("drawing %d scenes into %s", NUM_TRAIN + NUM_VAL, scenes)
        write_scenes(scenes, num_train=NUM_TRAIN, num_val=NUM_VAL, size=SIZE, seed=seed)
    return run(config, folder.root, resume=True, progress=progress)


def _refuse_other_runs(folder: RunFolder, config: Config) -> None:
    """Reject other runs: scenes of another seed would be kept, other runs overwritten."""
    if not folder.config.exists():
        return
    there, here = (
        dotted_settings(to_dict(c)) for c in (folder.read_config(finished=False), config)
    )
    if differing := differences(there, here):
        raise DscnetError(
            f"{folder.root} already contains a run with different settings"
            f" ({'; '.join(differing)}). Choose another --out"
        )
