from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dscnet.models.backbones import create_backbone
from dscnet.models.irn import BoundaryNet


class Taps(nn.Module):
    channels = (4, 6, 8)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 18, 3, 8, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, image):
        return self.dropout(self.conv(image)).split(self.channels, 1)


@pytest.mark.parametrize("size", [(32, 40), (33, 47), (1, 1)])
def test_boundaries_are_at_stride_4(size, generator):
    net = BoundaryNet(Taps()).eval()
    image = torch.randn(2, 3, *size, generator=generator)
    grid = ((size[0] + 3) // 4, (size[1] + 3) // 4)
    parts = []
    for layers, tap in zip(net.squeeze, net.backbone(image), strict=True):
        squeezed = torch.einsum("oc,bchw->bohw", layers[0].weight[:, :, 0, 0], tap)
        grouped = squeezed.reshape(2, 4, -1)
        mean, var = grouped.mean(-1, keepdim=True), grouped.var(-1, correction=0, keepdim=True)
        squeezed = ((grouped - mean) / (var + 1e-5).sqrt()).reshape(squeezed.shape)
        parts.append(F.interpolate(squeezed, grid, mode="bilinear", align_corners=False).relu())
    expected = torch.einsum("oc,bchw->bohw", net.join.weight[:, :, 0, 0], torch.cat(parts, 1))
    logits = net(image).boundary_logits
    assert logits.shape == (2, 1, *grid)
    torch.testing.assert_close(logits, expected + net.join.bias, atol=1e-4, rtol=1e-4)


def test_the_backbone_learns_nothing_and_stays_in_evaluation():
    net = BoundaryNet(Taps()).train()
    image = torch.randn(1, 3, 16, 16)
    net(image).boundary_logits.sum().backward()
    assert net.training
    assert not net.backbone.dropout.training
    assert torch.equal(net(image).boundary_logits, net(image).boundary_logits)
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
    assert trained == {"squeeze", "join"}
    assert not any(p.requires_grad for p in net.backbone.parameters())


def test_a_real_backbone_carries_the_branch():
    net = BoundaryNet(create_backbone(weights="none")).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 50, 65)).boundary_logits.shape == (1, 1, 13, 17)
