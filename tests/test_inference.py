"""Networks rewritten for inference."""

from __future__ import annotations

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from dscnet.models.inference import FusedConv2d, fused
from dscnet.models.segmenter import create_segmenter


def in_use(net: nn.Module) -> nn.Module:
    """The network in evaluation mode, with normalisation that changes its input."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net.eval()


def kinds(net: nn.Module) -> list[str]:
    return [type(module).__name__ for module in net.modules() if not any(module.children())]


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Identity()])
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_includes_what_follows_it(activation: nn.Module, bias: bool) -> None:
    conv = nn.Conv2d(4, 6, 3, 2, 2, 2, groups=2, bias=bias)
    net = in_use(nn.Sequential(conv, nn.BatchNorm2d(6), activation))
    image = 5 * torch.randn(2, 4, 9, 12)
    new = fused(net)
    with torch.no_grad():
        torch.testing.assert_close(new(image), net(image), atol=1e-5, rtol=1e-5)
        # As on other devices.
        for module in new.modules():
            if isinstance(module, FusedConv2d):
                module.with_onednn = False
        torch.testing.assert_close(new(image), net(image), atol=1e-5, rtol=1e-5)
    assert sum(isinstance(module, FusedConv2d) for module in new.modules()) == 1
    assert len(new.graph.nodes) == 3  # its input, the convolution, its output


@pytest.mark.parametrize("side", [10, 11])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_like_tensorflow(side: int, stride: int) -> None:
    net = in_use(nn.Sequential(Conv2dSame(3, 4, 3, stride), nn.BatchNorm2d(4)))
    image = torch.randn(2, 3, side, side + 1)
    with torch.no_grad():
        torch.testing.assert_close(fused(net)(image), net(image), atol=1e-5, rtol=1e-5)


def test_other_activations_stay() -> None:
    norm = BatchNormAct2d(4, act_layer=nn.SiLU)
    net = in_use(nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Conv2d(4, 4, 1), nn.Sigmoid()))
    image = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(fused(net)(image), net(image), atol=1e-5, rtol=1e-5)


def test_normalisation_of_a_shared_output_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, image: Tensor) -> Tensor:
            raw = self.conv(image)
            return raw + self.norm(raw)

    net, image = in_use(Twice()), torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(fused(net)(image), net(image), atol=1e-5, rtol=1e-5)


def test_a_network_that_cannot_be_traced_is_kept() -> None:
    class Undecided(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image if image.sum() > 0 else -image

    net = Undecided()
    assert fused(net) is net


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18"])
def test_the_segmentation_network_scores_as_before(backbone: str) -> None:
    net = create_segmenter(backbone, 3, weights="none", decoder_channels=16)
    in_use(net)
    image = torch.randn(1, 3, 33, 50)
    with torch.no_grad():
        before = net(image).seg_logits
        faster = net.for_inference()
        after = faster(image).seg_logits
        assert torch.equal(net(image).seg_logits, before), "the network itself is as it was"
    assert "BatchNorm2d" not in kinds(faster.net.decoder) + kinds(faster.net.encoder.model)
    torch.testing.assert_close(after, before, atol=1e-4 * float(before.abs().max()), rtol=1e-3)
