"""The stages of a run, in their order."""

from __future__ import annotations

from dscnet.pipeline import cam, evaluate, label, refine, report, segment, train
from dscnet.pipeline.stage import Stage
from dscnet.plugins import load_plugins

_STAGES: list[Stage] = [
    module.STAGE for module in (train, cam, refine, label, segment, evaluate, report)
]


def list_stages() -> tuple[Stage, ...]:
    """All stages, those of plugins included, in the order that they run in."""
    load_plugins()
    return tuple(_STAGES)


def find_stage(name: str) -> Stage:
    """A stage by its name.

    Raises:
        ValueError: If there is none.
    """
    stages = {stage.name: stage for stage in list_stages()}
    if name not in stages:
        raise ValueError(f"stages must be among {', '.join(stages)}, got {name}")
    return stages[name]


def register_stage(stage: Stage, *, after: str) -> None:
    """Add a stage.

    Args:
        stage: It runs wherever all stages run.
        after: Name of the stage that it follows.

    Raises:
        ValueError: If its name is taken, or there is no stage to follow.
    """
    names = [known.name for known in _STAGES]
    if stage.name in names or after not in names:
        raise ValueError(
            f"a stage needs a new name and one of {', '.join(names)} to follow, got"
            f" {stage.name!r} after {after!r}"
        )
    _STAGES.insert(names.index(after) + 1, stage)
