from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dscnet.models import convolutions
from dscnet.models.convolutions import (
    FastConv2d,
    FastReLU6,
    PhasedInvertedResidual,
    use_fast_convolutions,
)

NETWORKS = {
    "tf_efficientnet_lite0": {"output_stride": 16},
    "mobilenetv2_050": {"output_stride": 8},
    "mobilenetv3_small_050": {},
    "resnet18": {"output_stride": 16},
    "densenet121": {},
    "regnetx_002": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"dynamic_img_size": True},
}
FOLDED = {
    "tf_efficientnet_lite0": 48,
    "resnet18": 20,
    "convnext_atto": 0,
    "vit_tiny_patch16_224": 0,
}


def network(name):
    torch.manual_seed(0)
    net = timm.create_model(name, features_only=True, **NETWORKS[name])
    for module in net.modules():
        if isinstance(module, _BatchNorm):  # initial statistics, 0 and 1, would hide a fault
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.2)
            module.requires_grad_(False)
    return net.eval().double()


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    plain = network(request.param)
    fast = copy.deepcopy(plain)
    use_fast_convolutions(fast)
    return request.param, plain, fast


def gradients(net, image):
    net.zero_grad()
    own = image.clone().requires_grad_()
    maps = net(own)
    sum((features * features.detach().cos()).mean() for features in maps).backward()
    weights = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    return maps, own.grad, weights


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_maps_and_gradients_are_those_of_timm(pair, size):
    _, plain, fast = pair
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    image = image.contiguous(memory_format=torch.channels_last)
    theirs, ours = gradients(plain, image), gradients(fast, image)
    torch.testing.assert_close(ours[0], theirs[0])
    for a, b in ((ours[1], theirs[1]), *((ours[2][n], theirs[2][n]) for n in theirs[2])):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9 + 1e-6 * float(b.abs().max()))
    assert ours[2].keys() == theirs[2].keys()
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), plain(image))


def test_what_is_folded_and_that_names_stay(pair):
    name, plain, fast = pair
    folded = [m for m in fast.modules() if isinstance(m, FastConv2d) and m.norm is not None]
    assert len(folded) == FOLDED.get(name, len(folded))
    assert list(plain.state_dict()) == list(fast.state_dict())
    fast.load_state_dict(plain.state_dict())


def test_a_lite_network_without_clones_of_activations_and_with_phased_blocks():
    net = network("tf_efficientnet_lite0")
    use_fast_convolutions(net)
    assert sum(isinstance(m, PhasedInvertedResidual) for m in net.modules()) == 4
    assert sum(isinstance(m, FastReLU6) for m in net.modules()) == 32
    assert not any(isinstance(m, Conv2dSame) for m in net.modules())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_has_its_own_batch_normalisation(clone):
    net = network("resnet18")
    use_fast_convolutions(net)
    twin = clone(net)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    before = net(image)[-1]
    for module in twin.modules():
        if isinstance(module, _BatchNorm):
            module.bias.data.add_(1)
    torch.testing.assert_close(net(image)[-1], before)
    assert (twin(image)[-1] - before).abs().max() > 0.1


def test_batch_norm_that_others_see_too_is_not_folded():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.bn(self.a(x)) + self.bn(self.b(x))

    class ByValue(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.bn(self.conv(x)) if x.sum() > 0 else x

    image = torch.rand(1, 3, 8, 8)
    for net in (Branches().eval(), Twice().eval(), ByValue().eval()):
        net.bn.running_mean.fill_(0.3)
        expected = net(image)
        use_fast_convolutions(net)
        assert type(net.bn) is nn.BatchNorm2d
        torch.testing.assert_close(net(image), expected)


def test_other_convolutions_stay():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), BatchNormAct2d(3))
    use_fast_convolutions(net.eval())
    assert type(net[0]) is nn.Conv2d
    assert type(net[1]) is BatchNormAct2d


def test_a_bias_is_folded_too():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4)).eval()
    net[1].requires_grad_(False)
    net[1].running_mean.fill_(0.5)
    net[1].weight.data.fill_(2.0)
    image = torch.randn(2, 3, 6, 6)
    expected = net(image)
    expected.sum().backward()
    gradient = net[0].bias.grad.clone()
    net.zero_grad()
    use_fast_convolutions(net)
    ours = net(image)
    ours.sum().backward()
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(net[0].bias.grad, gradient)


def test_relu6_and_its_gradient():
    values = torch.tensor([-1.0, 0.0, 0.5, 6.0, 7.0])
    own, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    (FastReLU6()(own * 1) * torch.arange(5)).sum().backward()
    (nn.functional.relu6(theirs) * torch.arange(5)).sum().backward()
    torch.testing.assert_close(own.grad, theirs.grad)


def test_frozen_weights_and_frozen_images():
    net = network("tf_efficientnet_lite0")
    use_fast_convolutions(net)
    net.requires_grad_(False)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    net(image)[-1].sum().backward()
    assert image.grad is not None
    assert all(p.grad is None for p in net.parameters())


def test_on_other_devices_nothing_is_folded_and_the_result_is_the_same(pair, monkeypatch):
    """A GPU would wait for the small operations of folding."""
    _, plain, fast = pair
    monkeypatch.setattr(convolutions, "has_fast_gradients", lambda image: False)
    monkeypatch.setattr(convolutions, "folding_saves_time", lambda image: False)
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    theirs, ours = gradients(plain, image), gradients(fast, image)
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    monkeypatch.setattr(FastConv2d, "folded", lambda self: pytest.fail("folded"))
    fast(image)
