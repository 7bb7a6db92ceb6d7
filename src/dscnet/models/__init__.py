"""CAM networks and their registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import nn

from dscnet.config.baselines import Baseline, find_baseline, list_baselines, register_baseline
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


class _Networks(Mapping[str, Callable[..., nn.Module]]):
    """The networks of the declared baselines, a view of them as they are now."""

    def __getitem__(self, name: str) -> Callable[..., nn.Module]:
        if name not in list_baselines():
            raise KeyError(name)
        return find_baseline(name).factory()

    def __iter__(self) -> Iterator[str]:
        return iter(list_baselines())

    def __len__(self) -> int:
        return len(list_baselines())


MODELS: Mapping[str, Callable[..., nn.Module]] = _Networks()
"""CAM networks by name; each is called as ``factory(backbone, num_classes, **options)``."""


def list_models() -> list[str]:
    """Return the registered names in alphabetical order, those of plugins included."""
    return list_baselines()


def register_model(name: str, factory: Callable[..., nn.Module]) -> None:
    """Add a network as a baseline without capabilities; ``register_baseline`` declares some.

    Args:
        name: A new name.
        factory: Called as ``factory(backbone, num_classes, **options)``.

    Raises:
        ValueError: If the name is taken.
    """
    register_baseline(Baseline(name, factory))


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
    for old, new in _RENAMED_OPTIONS.items():
        if old in options:
            warn_renamed(f"option {old!r} of create_model", repr(new))
            options[new] = options.pop(old)
    network: nn.Module = find_baseline(name).factory()(backbone, num_classes, **options)
    return network


_RENAMED_OPTIONS = {"likeness": "class_similarity"}

__getattr__ = renamed_names(__name__, {"resnet38_taps": "resnet38_feature_maps"}, globals())
