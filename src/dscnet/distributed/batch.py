"""A training step on one batch that is divided among the ranks.

In the block :func:`shared_batch` each rank has its consecutive photos of the batch, as many as any
other rank. What depends on more than one photo is computed as if a single process had all of them:
the statistics of batch normalisation, random numbers, and what uses the functions below. The mean
of the ranks' losses and gradients is then that of the single process. Outside the block, or with
one rank, these functions return their argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dscnet.distributed.ranks import rank, world_size
from dscnet.numerics import at_least_float32

_shared: ContextVar[bool] = ContextVar("shared", default=False)


@contextmanager
def shared_batch() -> Iterator[None]:
    """The ranks work on one batch in this block."""
    if world_size() == 1:
        yield
        return
    token = _shared.set(True)
    try:
        with _WholeBatch():
            yield
    finally:
        _shared.reset(token)


def gather(own: Tensor) -> Tensor:
    """Rows of all ranks, ``(B, ...)`` to ``(ranks * B, ...)``; differentiable.

    The gradient of a rank's rows is the sum over the losses of all ranks.

    Args:
        own: Rows of this rank's photos; the same shape on every rank.
    """
    return cast(Tensor, _Gather.apply(own)) if _shared.get() else own


def own_rows(whole: Tensor) -> Tensor:
    """This rank's rows of what :func:`gather` returned."""
    return whole.chunk(world_size())[rank()] if _shared.get() else whole


def draw_rows(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """Random rows for this rank's photos: those that a single process would draw for them.

    All ranks need the same random state, and have the same afterwards.

    Args:
        draw: Draws the given number of rows.
        rows: Number of rows for this rank's photos.
    """
    return own_rows(draw(rows * world_size())) if _shared.get() else draw(rows)


def batch_mean(value: Tensor) -> Tensor:
    """Mean of the ranks' values, no gradient; e.g. of counts that losses are divided by."""
    if not _shared.get():
        return value
    mean = value.detach().float()
    dist.all_reduce(mean)
    return mean / world_size()


def batch_max(value: int) -> int:
    """Maximum of the ranks' values."""
    if not _shared.get():
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


class _Mean(torch.autograd.Function):
    """Mean over the ranks; its gradient is the mean of those of all ranks."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        mean = own.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(mean)
        return mean / world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient / world_size()


class _WholeBatch(TorchFunctionMode):
    """Dropout and batch normalisation as in a single process with the whole batch.

    By the functions and not the modules, so that it holds for the modules of other packages.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        replaced = _REPLACED.get(func, func)
        return replaced(*args, **(kwargs or {}))


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return input
    rows = input.new_ones(()).expand(world_size() * len(input), *input.shape[1:])
    last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    # Dropout of ones: the same random numbers as for photos.
    return input * own_rows(F.dropout(rows.contiguous(memory_format=layout), p))


def _dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0:
        return input
    ones = input.new_ones(world_size() * input.shape[0], input.shape[1], 1, 1)
    return input * own_rows(F.dropout2d(ones, p))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    others = [axis for axis in range(input.ndim) if axis != 1]
    values = at_least_float32(input)
    mean = _mean(values.mean(others, keepdim=True))
    centred = values - mean
    variance = _mean(centred.square().mean(others, keepdim=True))
    if running_mean is not None and running_var is not None:
        count = world_size() * input.numel() // input.shape[1]
        unbiased = variance.detach() * count / max(1, count - 1)
        running_mean.lerp_(mean.detach().flatten().to(running_mean), momentum)
        running_var.lerp_(unbiased.flatten().to(running_var), momentum)
    normalised = centred * (variance + eps).rsqrt()
    shape = [-1 if axis == 1 else 1 for axis in range(input.ndim)]
    if weight is not None:
        normalised = normalised * weight.view(shape)
    if bias is not None:
        normalised = normalised + bias.view(shape)
    return normalised.to(input.dtype)


def _mean(own: Tensor) -> Tensor:
    return cast(Tensor, _Mean.apply(own))


_REPLACED: dict[Any, Any] = {
    F.dropout: _dropout,
    F.dropout2d: _dropout2d,
    F.batch_norm: _batch_norm,
}
