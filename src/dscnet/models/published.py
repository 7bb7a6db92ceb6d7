"""Conversion to and from the published checkpoints of SEAM, AffinityNet and AuxSegNet."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dscnet.models.resnet38 import ResNet38
from dscnet.models.weights import KeyReport, State, load_weights, read_weights
from dscnet.types import DscnetError

logger = logging.getLogger(__name__)

_BACKBONE = "backbone."

_BRANCH = {
    "before.0": "conv1",
    "before.2": "conv2",
    "non_local.query": "att.theta",
    "non_local.key": "att.phi",
    "non_local.value": "g",
    "non_local.out": "W",
    "after.0": "conv3",
    "classifier": "conv4",
}

_LAYERS = {
    "classifier": "fc8",
    # SEAM
    "pixel_correlation.squeeze_low": "f8_3",
    "pixel_correlation.squeeze_mid": "f8_4",
    "pixel_correlation.mix": "f9",
    # AffinityNet
    "squeeze_low": "f8_3",
    "squeeze_mid": "f8_4",
    "squeeze_high": "f8_5",
    "mix": "f9",
    # AuxSegNet
    **{f"segmentation.{ours}": f"seg_{published}" for ours, published in _BRANCH.items()},
    **{f"saliency.{ours}": f"sal_{published}" for ours, published in _BRANCH.items()},
    "cross_task.mix": "cross_att.0",
    "cross_task.weigh": "cross_att.2",
}
"""Layers after the backbone: our names to the published ones."""

_WITHOUT_BACKGROUND = "cross_task.mix.weight"
"""Parameter of AuxSegNet only, whose published classifier has no background."""

_CLASSIFIER = "classifier.weight"

_CONTEXT = "context."


def published_name(name: str) -> str | None:
    """The published name of a parameter or buffer of ours; None if there is none.

    Example:
        >>> published_name("backbone.b4_5.conv_branch2a.weight")
        'b4_5.conv_branch2a.weight'
        >>> published_name("pixel_correlation.mix.weight"), published_name("mix.weight")
        ('f9.weight', 'f9.weight')
        >>> published_name("saliency.non_local.value.bias")
        'sal_g.bias'
    """
    if name.startswith(_BACKBONE):
        return name.removeprefix(_BACKBONE)
    layer, _, leaf = name.rpartition(".")
    return f"{_LAYERS[layer]}.{leaf}" if layer in _LAYERS else None


def published_state(model: nn.Module) -> State:
    """The tensors of a network under their published names.

    The published AuxSegNet also has unused parameters (``seg_att.g``, ``seg_att.W_z`` and those of
    ``sal_att``); they are omitted here, so the published code must load with ``strict=False``.

    Args:
        model: A ``Seam``, ``AuxSegNet`` or ``AffinityNet`` on a ``ResNet38``.

    Returns:
        Its parameters and buffers, sharing memory with them.

    Raises:
        ValueError: If the backbone is not a ``ResNet38``, or the network has parameters that the
            published one lacks, such as those of DSCNet.
    """
    _check_backbone(model)
    ours = model.state_dict()
    foreign = [name for name in ours if published_name(name) is None]
    if foreign:
        raise ValueError(
            "model must have no parameters that the published network lacks, got "
            f"{foreign[0]} and {len(foreign) - 1} more"
        )
    state = {str(published_name(name)): values for name, values in ours.items()}
    if _WITHOUT_BACKGROUND in ours:
        state["fc8.weight"] = state["fc8.weight"][1:]
    return state


def write_published(model: nn.Module, path: str | Path) -> None:
    """Write a network as ``.safetensors`` under the published names, atomically.

    Args:
        model: As for :func:`published_state`.
        path: Target, ending in ``.safetensors``; replaced if it exists.

    Raises:
        ValueError: As for :func:`published_state`, or if the file name has another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    state = {
        name: values.detach().cpu().contiguous() for name, values in published_state(model).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_published(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> KeyReport:
    """Load a published checkpoint into a network.

    AuxSegNet's classifier has no background; our unsupervised background channel gets zeros.
    Parameters that the published code never uses are reported as not used. DSCNet's parameters
    (``context.*``) keep their values.

    Args:
        model: A ``Seam``, ``AuxSegNet`` or ``AffinityNet`` on a ``ResNet38``.
        source: A ``.pth`` or ``.safetensors`` file, or tensors by their published names.

    Returns:
        Report of what was loaded; unused names are the published ones.

    Raises:
        ValueError: If the backbone is not a ``ResNet38``.
        DscnetError: If the file is missing, unreadable, or of another network or number of classes.
    """
    _check_backbone(model)
    if isinstance(source, Mapping):
        label, state = "the given state", dict(source)
    else:
        label, state = str(source), read_weights(source)
    ours = model.state_dict()
    if _WITHOUT_BACKGROUND in ours and "fc8.weight" in state:
        foreground = state["fc8.weight"]
        _check_classes(len(ours[_CLASSIFIER]) - 1, len(foreground), "classes", label)
        background = foreground.new_zeros(1, *foreground.shape[1:])
        state["fc8.weight"] = torch.cat([background, foreground])
    elif _CLASSIFIER in ours and "fc8.weight" in state:
        labels = len(state["fc8.weight"])
        _check_classes(len(ours[_CLASSIFIER]), labels, "labels including background", label)
    names = {published_name(name): name for name in ours}
    renamed = {names.get(name, name): values for name, values in state.items()}
    report = load_weights(model, renamed, source=label, ignore=(f"{_CONTEXT}*",))
    logger.info("%s: %s", label, report)
    return report


def _check_backbone(model: nn.Module) -> None:
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, ResNet38):
        raise ValueError(
            f"model must have a ResNet38 as its backbone, got {type(backbone).__name__}"
        )


def _check_classes(expected: int, found: int, what: str, source: str) -> None:
    if expected != found:
        raise DscnetError(
            f"{source} does not match the model: its classifier fc8.weight should have "
            f"{expected} {what}, but has {found}. Build the model for the checkpoint's classes, or "
            "load the backbone only (model.weights)"
        )
