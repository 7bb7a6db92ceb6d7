from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dscnet.models.backbones import create_backbone
from dscnet.models.deeplab import (
    AtrousPyramid,
    DeepLab,
    LargeField,
    RunningNorm,
    create_deeplab,
    dilation_at,
)
from dscnet.training import parameter_groups
from helpers import assert_odd_sides_are_padded

NAMES = ["deeplabv1", "deeplabv2"]


def tiny(name: str = "deeplabv1", output_stride: int = 16, frozen_stages: int = 0) -> DeepLab:
    torch.manual_seed(0)
    backbone = create_backbone(
        "test_resnet", output_stride=output_stride, weights="none", frozen_stages=frozen_stages
    )
    return create_deeplab(name, backbone, 5)


class Corners(nn.Module):
    """A backbone of stride 8 whose maps are every eighth pixel of the photo."""

    channels, output_stride, mean, std = (3, 3, 3), 8, (0.5,) * 3, (0.5,) * 3

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (image[..., ::8, ::8],) * 3


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("stride", "dilation"), [(8, 12), (16, 6)])
def test_large_field_by_hand(training, stride, dilation):
    head = LargeField(2, 3, output_stride=stride).double().train(training)
    conv, norm, _, mix, second, _, dropout, classify = head
    assert (norm.num_features, mix.out_channels, dropout.p) == (512, 512, 0.5)
    dropout.p = 0.0
    for layer in (norm, second):
        for values in (layer.weight, layer.bias, layer.running_mean):
            nn.init.normal_(values)
        nn.init.uniform_(layer.running_var, 0.5, 2)
    features = double(2, 2, 14, 15)

    def normalised(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
        if training:
            values = x.transpose(0, 1).flatten(1)
            mean = values.mean(1)
            var = (values - mean[:, None]).square().mean(1)
        column = (slice(None), None, None)
        x = (x - mean[column]) / (var[column] + 1e-5).sqrt()
        return x * layer.weight[column] + layer.bias[column]

    x = functional.conv2d(features, conv.weight, None, 1, dilation, dilation)
    x = normalised(x, norm).clamp(min=0)
    x = torch.einsum("oc,bchw->bohw", mix.weight[:, :, 0, 0], x)
    x = normalised(x, second).clamp(min=0)
    x = torch.einsum("oc,bchw->bohw", classify.weight[:, :, 0, 0], x)
    expected = x + classify.bias[:, None, None]
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize(("stride", "rates"), [(8, (6, 12, 18, 24)), (16, (3, 6, 9, 12))])
def test_pyramid_against_loops(stride, rates):
    head = AtrousPyramid(2, 3, output_stride=stride).double()
    assert [branch.weight.std().item() for branch in head.branches] == pytest.approx(
        [0.01] * 4, rel=0.5
    )
    for branch in head.branches:
        assert branch.bias.eq(0).all()
        nn.init.normal_(branch.weight)
        nn.init.normal_(branch.bias)
    features = double(1, 2, 13, 4)
    height, width = features.shape[-2:]
    expected = torch.zeros(1, 3, height, width, dtype=torch.float64)
    for branch, rate in zip(head.branches, rates, strict=True):
        expected += branch.bias.detach()[:, None, None]
        for i in range(height):
            for j in range(width):
                for row in range(3):
                    for column in range(3):
                        y, x = i + rate * (row - 1), j + rate * (column - 1)
                        if 0 <= y < height and 0 <= x < width:
                            tap = branch.weight.detach()[:, :, row, column]
                            expected[0, :, i, j] += tap @ features[0, :, y, x]
    torch.testing.assert_close(head(features).detach(), expected)


def test_running_statistics_are_of_the_last_steps():
    norm = RunningNorm(1).double()
    batches = double(5, 2, 1, 3, 2)
    mean, var = 0.0, 1.0
    for count, batch in enumerate(batches):
        norm(batch)
        share = 6 / (count + 6)
        values = batch.flatten().tolist()
        centre = sum(values) / len(values)
        spread = sum((v - centre) ** 2 for v in values) / (len(values) - 1)
        mean, var = mean + share * (centre - mean), var + share * (spread - var)
        assert (norm.running_mean.item(), norm.running_var.item()) == pytest.approx((mean, var))


@pytest.mark.parametrize(("steps", "share"), [(0, 1.0), (6, 0.5), (19_994, 3e-4), (10**6, 3e-4)])
def test_the_share_of_a_batch_ends_as_published(steps, share):
    norm = RunningNorm(1)
    norm.num_batches_tracked.fill_(steps)
    norm.running_mean.fill_(0)
    norm(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
    assert norm.running_mean.item() == pytest.approx(2 * share)


def test_the_share_goes_on_after_a_restart():
    one = RunningNorm(1).double()
    for batch in double(4, 2, 1, 2, 2):
        one(batch)
    two = RunningNorm(1).double()
    two.load_state_dict(one.state_dict())
    for norm in (one, two):
        norm(double(2, 1, 2, 2))
    assert torch.equal(one.running_mean, two.running_mean)


def test_scores_of_cells_are_spread_with_aligned_corners():
    net = DeepLab(Corners(), nn.Identity())
    image = double(1, 3, 16, 24)
    got = net(image).seg_logits
    cells = image[0, :, ::8, ::8]
    for i in range(16):
        for j in range(24):
            y, x = i * (2 - 1) / 15, j * (3 - 1) / 23
            top, left = min(int(y), 0), min(int(x), 1)
            down, right = y - top, x - left
            expected = (
                cells[:, top, left] * (1 - down) * (1 - right)
                + cells[:, top + 1, left] * down * (1 - right)
                + cells[:, top, left + 1] * (1 - down) * right
                + cells[:, top + 1, left + 1] * down * right
            )
            torch.testing.assert_close(got[0, :, i, j], expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(64, 48), (37, 50), (1, 40), (5, 3)])
def test_logits_have_the_size_of_the_photo(name, stride, size, generator):
    output = tiny(name, stride)(torch.randn(2, 3, *size, generator=generator))
    assert output.seg_logits.shape == (2, 5, *size)
    assert output.seg_logits.isfinite().all()
    assert output.cam_logits is None


def test_odd_sides_are_padded_with_zeros_at_the_end(generator):
    assert_odd_sides_are_padded(tiny(), generator)


@pytest.mark.parametrize("name", NAMES)
def test_the_head_is_new_and_the_backbone_is_not(name):
    model = tiny(name)
    groups = parameter_groups(model, lr=1e-3, new_lr_factor=10, weight_decay=5e-4)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in model.head.parameters()} == {1e-2, 2e-2}
    learned = {rates[id(p)] for p in model.backbone.parameters() if p.requires_grad}
    assert learned == {1e-3}


def test_batch_norm_rests_in_the_backbone_and_works_in_the_head(generator):
    model = tiny().eval().train()
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    head = [m for m in model.head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and len(head) == 2
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert all(norm.training and norm.weight.requires_grad for norm in head)
    before = copy.deepcopy(norms[0].running_mean)
    model(torch.randn(2, 3, 32, 32, generator=generator))
    assert torch.equal(norms[0].running_mean, before)
    assert head[0].running_mean.abs().sum() > 0


def test_frozen_stages(generator):
    model = tiny(frozen_stages=2)
    model(torch.randn(2, 3, 32, 32, generator=generator)).seg_logits.sum().backward()
    assert model.backbone.net.layer1[0].conv1.weight.grad is None
    assert model.backbone.net.layer2[0].conv1.weight.grad is not None


def test_one_photo_trains_unless_it_is_a_single_pixel_of_the_map(generator):
    small, wide = (torch.randn(1, 3, 16, n, generator=generator) for n in (16, 17))
    with pytest.raises(ValueError, match="at least 2 pixels in training.*got 1"):
        tiny()(small)
    assert tiny()(wide).seg_logits.isfinite().all()
    assert tiny()(small.expand(2, -1, -1, -1)).seg_logits.isfinite().all()
    assert tiny().eval()(small).seg_logits.isfinite().all()
    assert tiny("deeplabv2")(small).seg_logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_finite_in_bfloat16(name, generator):
    model = tiny(name)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 32, 32, generator=generator)).seg_logits
    logits.float().square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_dilations_span_the_same_at_any_stride():
    assert [dilation_at(12, stride) for stride in (8, 16, 32, 128)] == [12, 6, 3, 1]


def test_values_out_of_range():
    with pytest.raises(ValueError, match="name must be one of deeplabv1, deeplabv2, got 'fcn'"):
        create_deeplab("fcn", Corners(), 3)
    with pytest.raises(ValueError, match="num_labels must be at least 2, got 1"):
        create_deeplab("deeplabv2", Corners(), 1)
