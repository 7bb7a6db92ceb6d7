"""The record ``Stage``, and the inputs that determine whether a stage must run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, NamedTuple

from dscnet.config import Config
from dscnet.data import PhotoSet
from dscnet.pipeline.code_marks import code_marks
from dscnet.pipeline.job import Job, data_mark
from dscnet.run_folder import RunFolder, fingerprint

Inputs = dict[str, Any]
"""Inputs of a stage or training by name, as stored in ``stages.json``."""


class Trained(NamedTuple):
    """A training whose result a stage keeps, and which it can resume.

    Attributes:
        name: Its name in messages.
        folder: Folder whose ``stages.json`` records it.
        record: Key of the record.
        inputs: Its current inputs.
        weights: File that exists once it has finished.
        checkpoint: File that exists if it was interrupted.
    """

    name: str
    folder: RunFolder
    record: str
    inputs: Inputs
    weights: Path
    checkpoint: Path

    def has_results(self) -> bool:
        """Whether it has finished, now or before a restart, or can be resumed."""
        return self.weights.exists() or self.checkpoint.exists()


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline, and what determines whether it must run again.

    Attributes:
        name: Verb of the command line and key of ``stages.json``.
        work: Runs it; the second argument says whether an interrupted attempt can be resumed.
        makes: Files or folders that it writes; if one is missing, the stage runs again.
        needs: Stages that must have run before, given the settings.
        settings: Settings that affect its results, by name.
        code: Modules used with these settings that its own module does not import.
        reads: Stages whose files it reads if they exist.
        masks: Whether it reads ground-truth masks, given the settings.
        saliency: Whether it reads saliency maps, given the settings.
        val: Whether it reads the validation photos, given the settings.
        check: Rejects invalid settings and data, before anything is trained.
        check_training: Rejects what would make its training fail at the start.
        trained: Its trainings.
        every_photo: Whether it goes over the training photos once, given the settings.
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
    val: Callable[[Config], bool] = lambda config: True
    check: Callable[[Job], None] = lambda job: None
    check_training: Callable[[Job], None] = lambda job: None
    trained: Callable[[Job], Iterable[Trained]] = lambda job: ()
    every_photo: Callable[[Config], bool] = lambda config: False

    def inputs(self, job: Job) -> Inputs:
        """Current inputs of the stage."""
        config = job.config
        return collect_inputs(
            job,
            settings={**self.settings(config), **extension(config, self.name)},
            stages=(*self.needs(config), *self.reads),
            code=(self.work.__module__, *self.code(config)),
            masks=self.masks(config),
            saliency=self.saliency(config),
            val=self.val(config),
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
    val: bool = True,
) -> Inputs:
    """Collect the photos, settings, code and earlier stages that a result depends on.

    Args:
        job: The run.
        settings: Values and sections by name.
        stages: Earlier stages whose files are read.
        code: Modules that do the work; their imports are included.
        masks: Whether ground-truth masks are read.
        saliency: Whether saliency maps are read.
        val: Whether the validation photos are read, besides the training photos.
    """
    inputs = {
        "settings": {"seed": job.config.seed, **flat_settings(settings)},
        "photos": {
            split: data_mark(job, split, masks=masks, saliency=saliency)
            for split in ("train", *(["val"] if val else []))
        },
        "stages": {name: job.mark_of(name) for name in stages},
        "code": code_marks(code),
    }
    # As read back from the record, e.g. with lists for tuples.
    as_recorded: Inputs = json.loads(json.dumps(inputs, default=str))
    return as_recorded


def photo_files(folder: Path, photos: PhotoSet | None, ending: str) -> tuple[Path, ...]:
    """The files of a folder with one per photo, ``ID.ending``; none without photos."""
    samples = () if photos is None else photos.samples
    return tuple(folder / f"{sample.image_id}.{ending}" for sample in samples)


def extension(config: Config, name: str) -> dict[str, Any]:
    """Settings of the plugin of that name; empty if there are none."""
    found = config.extensions.get(name)
    return {} if found is None else {f"extensions.{name}": found}


def network_code(config: Config) -> tuple[str, ...]:
    """The module of the CAM network."""
    network = config.baseline.network
    return (network.partition(":")[0] if isinstance(network, str) else network.__module__,)


def learning_settings(config: Config) -> dict[str, Any]:
    """Settings of augmentation and backbone, which every training depends on."""
    model = {name: getattr(config.model, name) for name in _BACKBONE}
    settings = {"augment": config.augment, "scale": config.scale, "model": model}
    return flat_settings(settings)


NO_EFFECT = ("augment.num_workers", "train.devices", "train.num_nodes", "train.compile")
"""Settings that do not change the results of a stage."""

_BACKBONE = ("backbone", "output_stride", "weights", "frozen_stages")


def cam_settings(config: Config) -> dict[str, Any]:
    """Settings of the inference of CAMs."""
    settings = flat_settings({"cam": config.cam})
    # K-means draws for a whole batch at once.
    return settings if config.draws_groups else without(settings, "cam.batch_size")


def without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Settings by name, except for those that affect no result."""
    return {name: value for name, value in settings.items() if name not in names}


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, e.g. ``section.setting``, without those that affect no result."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if is_dataclass(value):
            value = {field.name: getattr(value, field.name) for field in fields_of(value)}
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{name}.")
        elif prefix + name not in NO_EFFECT:
            flat[prefix + name] = value
    return flat
