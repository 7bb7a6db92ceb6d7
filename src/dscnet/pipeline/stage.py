"""What a stage is, and the inputs that decide whether it must run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, NamedTuple

from dscnet.config import Config
from dscnet.pipeline.code_marks import code_marks
from dscnet.pipeline.job import Job, data_marks
from dscnet.run_folder import RunFolder, fingerprint

Inputs = dict[str, Any]
"""What something is made from, by name, as ``stages.json`` keeps it."""


class Trained(NamedTuple):
    """A training that a stage goes on from, and keeps when it is finished.

    Attributes:
        name: What it is called in messages.
        folder: Whose ``stages.json`` records it.
        record: Under which name.
        inputs: What it is to be made from.
        weights: There once it is finished.
        checkpoint: There while it is interrupted.
    """

    name: str
    folder: RunFolder
    record: str
    inputs: Inputs
    weights: Path
    checkpoint: Path


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline and what decides whether it must run again.

    Attributes:
        name: Verb of the command line and key of ``stages.json``.
        work: Does it; its second argument says whether an interrupted try may be continued.
        makes: Files and folders without which it must run again, whatever is recorded.
        needs: Stages whose files it reads, given the settings.
        settings: The settings that change what it makes, by name.
        code: Modules beyond its own imports that these settings use.
        reads: Stages whose files it reads where there are any.
        masks: Whether it reads ground-truth masks, given the settings.
        saliency: Whether it reads saliency maps, given the settings.
        check: Refuses settings and data that cannot work, before anything is trained.
        check_training: Refuses what would stop its training before the first step.
        trained: The trainings that it keeps.
    """

    name: str
    work: Callable[[Job, bool], None]
    makes: Callable[[Job], tuple[Path, ...]] = lambda job: ()
    needs: Callable[[Config], tuple[str, ...]] = lambda config: ()
    settings: Callable[[Config], Mapping[str, Any]] = lambda config: {}
    code: Callable[[Config], tuple[str, ...]] = lambda config: ()
    reads: tuple[str, ...] = ()
    masks: Callable[[Config], bool] = lambda config: False
    saliency: Callable[[Config], bool] = lambda config: False
    check: Callable[[Job], None] = lambda job: None
    check_training: Callable[[Job], None] = lambda job: None
    trained: Callable[[Job], Iterable[Trained]] = lambda job: ()

    def inputs(self, job: Job) -> Inputs:
        """What the stage would be made from."""
        config = job.config
        return collect_inputs(
            job,
            settings={**self.settings(config), **extension(config, self.name)},
            stages=(*self.needs(config), *self.reads),
            code=(self.work.__module__, *self.code(config)),
            masks=self.masks(config),
            saliency=self.saliency(config),
        )

    def fingerprint(self, job: Job) -> str:
        """A hash of :meth:`inputs`."""
        return fingerprint(self.name, self.inputs(job))


def collect_inputs(
    job: Job,
    *,
    settings: Mapping[str, Any],
    stages: Iterable[str] = (),
    code: Iterable[str],
    masks: bool = False,
    saliency: bool = False,
) -> Inputs:
    """Photos, settings, code and files of earlier stages that something depends on.

    Args:
        job: The run.
        settings: Values and sections by name.
        stages: Earlier stages whose files are read.
        code: Modules that do the work; what they import counts too.
        masks: Whether ground-truth masks are read.
        saliency: Whether saliency maps are read.
    """
    inputs = {
        "settings": {"seed": job.config.seed, **flat_settings(settings)},
        "photos": data_marks(job, masks=masks, saliency=saliency),
        "stages": {name: job.mark_of(name) for name in stages},
        "code": code_marks(code),
    }
    # As they are read back from the record: lists for tuples.
    as_recorded: Inputs = json.loads(json.dumps(inputs, default=str))
    return as_recorded


def extension(config: Config, name: str) -> dict[str, Any]:
    """Settings of the plugin of that name, where there are any."""
    found = config.extensions.get(name)
    return {} if found is None else {f"extensions.{name}": found}


def network_code(config: Config) -> tuple[str, ...]:
    """The module that holds the CAM network."""
    network = config.baseline.network
    return (network.partition(":")[0] if isinstance(network, str) else network.__module__,)


def learning_settings(config: Config) -> dict[str, Any]:
    """Network and augmentation, which every training depends on."""
    settings = {"model": config.model, "augment": config.augment, "scale": config.scale}
    settings |= extension(config, config.model.name)
    return {name: value for name, value in flat_settings(settings).items() if name != _NO_EFFECT}


_NO_EFFECT = "augment.num_workers"


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, those of sections as ``section.setting``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if is_dataclass(value):
            value = {field.name: getattr(value, field.name) for field in fields_of(value)}
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
