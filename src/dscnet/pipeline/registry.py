"""Registry of the stages, in the order in which they run."""

from __future__ import annotations

from dscnet.pipeline import cam, evaluate, label, refine, report, segment, train
from dscnet.pipeline.stage import Stage
from dscnet.plugins import load_plugins

_STAGES: list[Stage] = [
    module.STAGE for module in (train, cam, refine, label, segment, evaluate, report)
]


def list_stages() -> tuple[Stage, ...]:
    """All stages, including those of plugins, in the order in which they run."""
    load_plugins()
    return tuple(_STAGES)


def find_stage(name: str) -> Stage:
    """Find a stage by name.

    Raises:
        ValueError: If the name is unknown.
    """
    stages = {stage.name: stage for stage in list_stages()}
    if name not in stages:
        raise ValueError(f"stages must be among {', '.join(stages)}, got {name}")
    return stages[name]


def register_stage(stage: Stage, *, after: str) -> None:
    """Add a stage.

    Args:
        stage: The stage; it becomes part of every full run.
        after: Name of the stage that it follows.

    Raises:
        ValueError: If its name is taken or ``after`` is unknown.
    """
    names = [known.name for known in _STAGES]
    if stage.name in names or after not in names:
        raise ValueError(
            f"name must be new and after one of {', '.join(names)}, got {stage.name!r} after"
            f" {after!r}"
        )
    _STAGES.insert(names.index(after) + 1, stage)
