"""Renamed names and moved modules: the old ones still work and warn."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any


def renamed_names(
    module: str, names: Mapping[str, str], values: Mapping[str, Any]
) -> Callable[[str], Any]:
    """Make a module ``__getattr__`` that serves renamed names.

    Args:
        module: The module's name, for messages.
        names: Old name -> new name.
        values: The module's ``globals()``.

    Returns:
        A function from an attribute's name to its value.
    """

    def lookup(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", names[name])
        return values[names[name]]

    return lookup


def moved_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a module ``__getattr__`` that serves names of other modules.

    Args:
        module: The module's name, for messages.
        names: Old name -> new dotted name below ``dscnet``.

    Returns:
        A function from an attribute's name to its value.
    """

    def lookup(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, current = f"dscnet.{names[name]}".rpartition(".")
        warn_renamed(f"{module}.{name}", f"{home}.{current}")
        return getattr(import_module(home), current)

    return lookup


class RenamedAttribute:
    """Class attribute that serves another attribute of the instance under its old name.

    Args:
        new: Name of the attribute to use instead.
    """

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        warn_renamed(self.old, self.new)
        return getattr(instance, self.new)


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn that ``old`` is now called ``new``; ``stacklevel`` as in :func:`warnings.warn`."""
    warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=stacklevel)


MOVED = {
    "affinities": "pipeline.refinement",
    "arguments": "command.arguments",
    "checks": "pipeline.check_photos",
    "comparison": "experiments.comparison",
    "confusion": "metrics.confusion",
    "context.discriminant": "context.shrinkage_lda",
    "context.numerics": "numerics",
    "data.agreement": "data.mask_consistency",
    "data.coco_json": "data.formats.coco_json",
    "data.coco_files": "data.formats.coco_files",
    "data.coco_crowds": "data.formats.coco_crowds",
    "data.coco_values": "data.formats.coco_values",
    "data.yaml_parts": "data.formats.yaml_parts",
    "data.class_folders": "data.formats.class_folder_names",
    "data.unread": "data.ignored_files",
    "dependencies": "pipeline.stage",
    "evaluation": "metrics.evaluation",
    "job": "pipeline.job",
    "label_folders": "files.label_folders",
    "labelling": "pipeline.label",
    "labels.affinity": "refine.random_walk",
    "labels.confident": "refine.affinity_labels",
    "labels.crf": "refine.crf",
    "labels.enlarge": "labels.upsampled_argmax",
    "labels.external_masks": "refine.mask_proposals",
    "labels.files": "files.atomic",
    "labels.mask_files": "refine.mask_files",
    "labels.neighbours": "refine.neighbours",
    "labels.pair_walk": "refine.pair_walk",
    "labels.pairs": "refine.pairs",
    "labels.pamr": "refine.pamr",
    "labels.permutohedral": "refine.permutohedral",
    "labels.refine": "refine.steps",
    "labels.saliency": "refine.saliency",
    "machine": "pipeline.memory_use",
    "measuring": "pipeline.evaluate",
    "models.affinity": "models.cross_task",
    "models.heads": "models.pcm",
    "needs": "pipeline.resources",
    "overlay": "report.overlay",
    "pair_objective": "refine.objectives",
    "palette": "files.label_images",
    "pictures": "files.image_files",
    "recipes": "config.recipes",
    "relabelling": "pipeline.self_training",
    "rounds": "pipeline.rounds",
    "run_report": "pipeline.report",
    "saliency_maps": "prepare.saliency",
    "segmenting": "pipeline.segment",
    "settings": "config.settings",
    "stages": "pipeline.cam_network",
    "tag_agreement": "metrics.tag_agreement",
    "tag_scoring": "pipeline.tag_validation",
    "trials": "pipeline.stage_trials",
    "walking": "files.file_search",
    "workers": "experiments.workers",
}
"""Old path -> new path, both below ``dscnet``."""


MOVED_NAMES = {
    "job.located": "pipeline.job.with_absolute_paths",
    "labelling.FALLBACK": "pipeline.maps.FALLBACK",
    "labelling.map_name": "pipeline.maps.map_name",
    "labelling.photo_steps": "pipeline.refine.photo_steps",
    "labelling.refinement_start": "pipeline.refine.refinement_start",
    "labelling.score_counts": "pipeline.maps.score_counts",
    "labels.refine.label_probabilities": "refine.probabilities.label_probabilities",
    "labels.refine.label_scores": "refine.probabilities.label_scores",
    "labels.refine.probable_label": "refine.probabilities.probable_label",
    "labels.saliency.write_saliency": "files.label_images.write_saliency",
    "measuring.truth": "pipeline.measuring.ground_truth_masks",
    "stages.write_cams": "pipeline.cam_maps.write_cams",
}
"""Old name -> new name, both below ``dscnet``, where :data:`MOVED` leads to another module."""


class MovedModules(MetaPathFinder, Loader):
    """Import hook that resolves the old path of a moved module to its new one."""

    def __init__(self) -> None:
        self._own_specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for old paths; None for any other name."""
        package, _, module = name.partition(".")
        if package != "dscnet" or module not in MOVED:
            return None
        return spec_from_loader(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module at its new path, with a warning."""
        new = f"dscnet.{MOVED[spec.name.removeprefix('dscnet.')]}"
        warnings.warn(f"{spec.name} has moved to {new}", DeprecationWarning, stacklevel=2)
        module = import_module(new)
        self._own_specs[new] = module.__spec__
        prefix = spec.name.removeprefix("dscnet.") + "."
        names = {
            old.removeprefix(prefix): home
            for old, home in MOVED_NAMES.items()
            if old.startswith(prefix)
        }
        if names:
            vars(module)["__getattr__"] = moved_names(new, names)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec, which the import machinery has replaced."""
        module.__spec__ = self._own_specs[module.__name__]


def redirect_moved_modules() -> None:
    """Install the import hook for old paths, once."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
