"""CAM networks and their registry."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dscnet.deprecation import renamed_names, warn_renamed
from dscnet.models.affinitynet import AffinityNet
from dscnet.models.auxsegnet import AuxSegNet, SegmentationPath
from dscnet.models.cam import PlainCam
from dscnet.models.pcm import PixelCorrelation, pcm_input, propagate
from dscnet.models.published import load_published, published_state, write_published
from dscnet.models.resnet38 import ResNet38, create_resnet38, resnet38_feature_maps
from dscnet.models.seam import Seam, view_size

__all__ = [
    "MODELS",
    "AffinityNet",
    "AuxSegNet",
    "PixelCorrelation",
    "PlainCam",
    "ResNet38",
    "Seam",
    "SegmentationPath",
    "create_model",
    "create_resnet38",
    "list_models",
    "load_published",
    "pcm_input",
    "propagate",
    "published_state",
    "register_model",
    "resnet38_feature_maps",
    "view_size",
    "write_published",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "auxsegnet": AuxSegNet,
    "cam": PlainCam,
    "seam": Seam,
}
"""CAM networks by name, each called as ``factory(backbone, num_classes, **options)``."""


def list_models() -> list[str]:
    """Return the registered names in alphabetical order."""
    return sorted(MODELS)


def register_model(name: str, factory: Callable[..., nn.Module]) -> None:
    """Register a network.

    Args:
        name: A new name.
        factory: Called as ``factory(backbone, num_classes, **options)``.

    Raises:
        ValueError: If the name is taken.
    """
    if name in MODELS:
        raise ValueError(f"name must be new, got {name!r}; registered: {', '.join(list_models())}")
    MODELS[name] = factory


def create_model(name: str, backbone: nn.Module, num_classes: int, **options: object) -> nn.Module:
    """Build a CAM network on a backbone.

    Args:
        name: One of :func:`list_models`.
        backbone: As for :class:`PlainCam`.
        num_classes: Foreground classes, >= 1.
        **options: Keyword arguments of the network.

    Raises:
        ValueError: If the name is not registered.
    """
    if name not in MODELS:
        raise ValueError(f"name must be one of {', '.join(list_models())}, got {name!r}")
    for old, new in _RENAMED_OPTIONS.items():
        if old in options:
            warn_renamed(f"option {old!r} of create_model", repr(new))
            options[new] = options.pop(old)
    return MODELS[name](backbone, num_classes, **options)


_RENAMED_OPTIONS = {"likeness": "class_similarity"}

__getattr__ = renamed_names(__name__, {"resnet38_taps": "resnet38_feature_maps"}, globals())
