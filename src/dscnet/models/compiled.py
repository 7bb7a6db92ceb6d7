"""Compilation of a network's backbone for training, by ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def compiler_problem(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device; None if it can.

    PyTorch needs a C++ compiler for CPUs and triton for CUDA. Whether they work is best known from
    a trial, which takes seconds.
    """
    try:
        torch.compile(_increment)(torch.zeros(8, device=device))
    except Exception as error:  # of each compiler its own
        reasons = str(error).strip().splitlines() or [type(error).__name__]
        return reasons[0]
    return None


class CompiledForward:
    """Replaces a module's forward pass by a compiled one, on and off.

    Only in training: photos of many sizes, as at inference, would each be compiled for. Names of
    parameters stay as they are.

    Args:
        module: The module; nothing is compiled before its first call.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        # A static shape for each of SEAM's two views: faster than one dynamic shape.
        self.compiled: Callable[..., Any] = torch.compile(module.forward, dynamic=False)

    def on(self) -> None:
        """Use the compiled forward pass."""
        self.module.__dict__["forward"] = self.compiled

    def off(self) -> None:
        """Use the usual one again."""
        self.module.__dict__.pop("forward", None)


def _increment(values: Tensor) -> Tensor:
    return values + 1
