"""Weakly-supervised semantic segmentation: from image tags to masks, with DSCNet on a CAM baseline.

The public names are imported lazily, so that ``import dscnet`` and ``--help`` do not import torch.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from dscnet.deprecation import redirect_moved_modules

if TYPE_CHECKING:
    from dscnet.config.baselines import Baseline as Baseline
    from dscnet.config.baselines import register_baseline as register_baseline
    from dscnet.context import DualStreamContext as DualStreamContext
    from dscnet.data import open_dataset as open_dataset
    from dscnet.data import register_format as register_format
    from dscnet.data.scenes import write_scenes as write_scenes
    from dscnet.labels.cam import multi_scale_cam as multi_scale_cam
    from dscnet.models import create_model as create_model
    from dscnet.models.backbones import create_backbone as create_backbone
    from dscnet.models.deeplab import create_deeplab as create_deeplab
    from dscnet.models.segmenter import create_segmenter as create_segmenter
    from dscnet.pipeline.registry import register_stage as register_stage
    from dscnet.pipeline.runner import run as run
    from dscnet.pipeline.stage import Stage as Stage
    from dscnet.refine.steps import RefinementStep as RefinementStep
    from dscnet.refine.steps import register_step as register_step
    from dscnet.types import Batch as Batch
    from dscnet.types import LossTerms as LossTerms
    from dscnet.types import ModelOutput as ModelOutput

try:
    __version__ = metadata.version("dscnet")
except metadata.PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

_HOMES = {
    "Baseline": "dscnet.config.baselines",
    "Batch": "dscnet.types",
    "DualStreamContext": "dscnet.context",
    "LossTerms": "dscnet.types",
    "ModelOutput": "dscnet.types",
    "create_backbone": "dscnet.models.backbones",
    "create_deeplab": "dscnet.models.deeplab",
    "create_model": "dscnet.models",
    "create_segmenter": "dscnet.models.segmenter",
    "multi_scale_cam": "dscnet.labels.cam",
    "open_dataset": "dscnet.data",
    "register_format": "dscnet.data",
    "register_baseline": "dscnet.config.baselines",
    "RefinementStep": "dscnet.refine.steps",
    "Stage": "dscnet.pipeline.stage",
    "register_stage": "dscnet.pipeline.registry",
    "register_step": "dscnet.refine.steps",
    "run": "dscnet.pipeline.runner",
    "write_scenes": "dscnet.data.scenes",
}

__all__ = ["__version__", *_HOMES]

redirect_moved_modules()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dscnet' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
