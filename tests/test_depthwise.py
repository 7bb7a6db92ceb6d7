from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dscnet.models import depthwise
from dscnet.models.depthwise import depthwise_conv2d, from_phases, to_phases


def layer(channels, kernel, size, dtype=torch.float64):
    torch.manual_seed(0)
    image = torch.randn(2, channels, *size, dtype=dtype).contiguous(
        memory_format=torch.channels_last
    )
    weight = torch.randn(channels, 1, *kernel, dtype=dtype)
    return image.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7, 7), (6, 6), (1, 4), (5, 2)])
@pytest.mark.parametrize("size", [(9, 12), (4, 4), (2, 3)])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3), (6, 6)])
def test_gradients_are_those_of_torch(kernel, size, stride, padded, dilation):
    padding = (
        tuple(d * (k // 2) for d, k in zip(dilation, kernel, strict=True)) if padded else (0, 0)
    )
    wide = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if any(s + 2 * p < k for s, p, k in zip(size, padding, wide, strict=True)):
        return
    image, weight = layer(4, kernel, size)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    theirs = functional.conv2d(image, weight, bias, stride, padding, dilation, groups=4)
    ours = depthwise_conv2d(image, weight, bias, stride, padding, dilation)
    gradient = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (image, weight, bias), gradient),
        torch.autograd.grad(theirs, (image, weight, bias), gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_backend_is_never_asked_for_more_than_three_columns(monkeypatch):
    """Wider weight gradients have no fast path: findings/depthwise_weight_gradient.sh."""
    asked = []
    own = depthwise._gradients

    def noted(gradient, image, weight, *rest):
        asked.append((weight.shape[3], image.shape[2] - weight.shape[2]))
        return own(gradient, image, weight, *rest)

    monkeypatch.setattr(depthwise, "_gradients", noted)
    for size in ((7, 7), (4, 4)):
        image, weight = layer(16, (5, 5), size, torch.float32)
        depthwise_conv2d(image, weight, None, (1, 1), (2, 2)).sum().backward()
    assert max(columns for columns, _ in asked) == 3
    assert min(rows for _, rows in asked) >= 0, "a kernel taller than its image"


def test_phases_are_reassembled_and_zero_outside():
    image = torch.arange(2 * 3 * 5 * 7.0).reshape(2, 3, 5, 7) + 1
    phases = to_phases(image, (2, 3))
    assert phases.shape == (2 * 2 * 3, 3, 3, 3)
    # The phase of the odd rows and of the columns 2, 5, 8 of the first photo.
    odd = functional.pad(image[0, :, 1::2, 2::3], (0, 1, 0, 1))
    torch.testing.assert_close(phases[5], odd)
    torch.testing.assert_close(from_phases(phases, (2, 3), (5, 7)), image)
