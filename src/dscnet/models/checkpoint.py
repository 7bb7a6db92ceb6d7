"""Weights of a network as safetensors: stored whole, restored strictly."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dscnet.files.atomic import whole_file
from dscnet.types import DscnetError


def store(model: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, whole or not at all."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with whole_file(path) as file:
        file.write(save(state))


def restore(model: nn.Module, path: Path) -> None:
    """Load weights that ``store`` wrote.

    Raises:
        DscnetError: If the file is unreadable or holds another network's weights.
    """
    try:
        model.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DscnetError(f"{path} does not match this network: {error}") from error
