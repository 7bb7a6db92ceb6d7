from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from dscnet.models.backbones import create_backbone, pad_to_multiple
from dscnet.models.segmenter import Segmenter, create_segmenter
from dscnet.types import DscnetError
from helpers import assert_odd_sides_are_padded


def tiny(**options: object) -> Segmenter:
    settings = {"weights": "none", "decoder_channels": 8, **options}
    return create_segmenter("test_resnet", 5, **settings)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 48), (37, 50), (5, 3)])
def test_logits_have_the_size_of_the_photo(stride, size, generator):
    model = tiny(output_stride=stride)
    output = model(torch.randn(2, 3, *size, generator=generator))
    assert output.seg_logits.shape == (2, 5, *size)
    assert output.cam_logits is None


def test_odd_sides_are_padded_with_zeros_at_the_end(generator):
    assert_odd_sides_are_padded(tiny(), generator)


def test_it_is_deeplabv3plus(generator):
    model = tiny().eval()
    plain = smp.DeepLabV3Plus(
        "tu-test_resnet",
        encoder_weights=None,
        encoder_output_stride=16,
        decoder_channels=8,
        decoder_atrous_rates=(6, 12, 18),
        classes=5,
    ).eval()
    plain.load_state_dict(model.net.state_dict())
    # Maps of 10 x 10: the smallest dilation still reaches a second pixel, the largest does not.
    image = torch.randn(1, 3, 160, 160, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(model(image).seg_logits, plain(image), rtol=1e-4, atol=1e-5)


def test_packaged_backbone_is_that_of_the_cam_network():
    model = create_segmenter("tf_efficientnet_lite0", 3, decoder_channels=8)
    backbone = create_backbone("tf_efficientnet_lite0")
    state = model.backbone.model.state_dict()
    assert state.keys() == backbone.net.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in backbone.net.state_dict().items())
    assert (model.mean, model.std) == (backbone.mean, backbone.std)


def test_weights_of_a_file_reach_the_backbone(tmp_path):
    backbone = create_backbone("convnext_atto", weights="none", frozen_stages=0).net
    path = tmp_path / "a.pth"
    torch.save(backbone.state_dict(), path)
    model = create_segmenter("convnext_atto", 3, weights=str(path), decoder_channels=8)
    loaded = model.backbone.model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in backbone.state_dict().items())


def test_batch_norm_rests_in_the_backbone_and_works_in_the_decoder(generator):
    model = tiny().eval().train()
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    decoder = [m for m in model.net.decoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert all(norm.training and norm.weight.requires_grad for norm in decoder)
    means = [norm.running_mean.clone() for norm in (norms[0], decoder[0])]
    model(torch.randn(2, 3, 32, 32, generator=generator))
    assert torch.equal(norms[0].running_mean, means[0])
    assert not torch.equal(decoder[0].running_mean, means[1])


def test_everything_outside_the_backbone_is_new():
    model = tiny()
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    new = {name for name, p in model.named_parameters() if id(p) not in backbone}
    assert new == {
        name for name, _ in model.named_parameters() if not name.startswith("net.encoder.")
    }
    assert new


def test_frozen_stages(generator):
    model = tiny(frozen_stages=2)
    model(torch.randn(2, 3, 32, 32, generator=generator)).seg_logits.sum().backward()
    layers = model.backbone.model
    assert layers.conv1[0].weight.grad is None
    assert layers.layer1[0].conv1.weight.grad is None
    assert layers.layer2[0].conv1.weight.grad is not None


def test_one_photo_trains_nothing_but_is_scored(generator):
    model = tiny()
    image = torch.randn(1, 3, 32, 32, generator=generator)
    with pytest.raises(ValueError, match="image must have at least 2 photos in training, got 1"):
        model(image)
    assert model.eval()(image).seg_logits.isfinite().all()


def test_finite_in_bfloat16(generator):
    model = tiny()
    image = torch.randn(2, 3, 32, 32, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(image).seg_logits
    logits.float().square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_labels": 1}, "num_labels must be at least 2, got 1"),
        ({"output_stride": 32}, "output_stride must be one of .*8, 16.*got 32"),
        ({"frozen_stages": 9}, r"frozen_stages must be in 0\.\.5, got 9"),
    ],
)
def test_values_out_of_range(options, text):
    settings = {"num_labels": 3, "weights": "none", "decoder_channels": 8, **options}
    with pytest.raises(ValueError, match=text):
        create_segmenter("test_resnet", **settings)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test_vit", "test_vit.*does not support DeepLabV3"),
        ("densenet121", "densenet121.*does not support output stride 16.*Choose a backbone"),
        ("resnet51", "unknown backbone 'resnet51'"),
    ],
)
def test_backbones_that_do_not_fit(name, text):
    with pytest.raises(DscnetError, match=text):
        create_segmenter(name, 3, weights="none")


def test_resnet38_is_refused_by_name():
    with pytest.raises(
        DscnetError, match="'resnet38' does not support DeepLabV3\\+.*choose another"
    ):
        create_segmenter("resnet38", 3, output_stride=8, weights="none")


def test_backbones_of_windows_get_photos_padded_to_them(generator):
    model = create_segmenter("halonet26t", 3, weights="none", decoder_channels=8).eval()
    assert model.multiple == 128
    image = torch.randn(1, 3, 70, 90, generator=generator)
    with torch.no_grad():
        padded = model.net(pad_to_multiple(image, 128))
        torch.testing.assert_close(model(image).seg_logits, padded[..., :70, :90])


def test_a_backbone_of_one_photo_size_is_refused():
    with pytest.raises(DscnetError, match="'botnet26t_256' accepts a single photo size only"):
        create_segmenter("botnet26t_256", 3, weights="none")
