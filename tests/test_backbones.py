from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
from torch import Tensor, nn

from dscnet.models.backbones import Backbone, create_backbone, pad_to_multiple
from dscnet.models.weights import packaged_weights
from dscnet.types import DscnetError


def frozen_stems(backbone: Backbone) -> set[str]:
    """First two parts of the names of frozen parameters that are not batch normalisation."""
    norms = {
        id(parameter)
        for module in backbone.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters()
    }
    return {
        ".".join(name.split(".")[:2])
        for name, parameter in backbone.net.named_parameters()
        if not parameter.requires_grad and id(parameter) not in norms
    }


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_default_backbone_has_the_promised_maps(stride, generator):
    backbone = create_backbone(output_stride=stride, weights="none")
    low, mid, high = backbone(torch.randn(1, 3, 64, 96, generator=generator))
    assert backbone.channels == (40, 112, 320)
    assert backbone.output_stride == stride
    assert backbone.name == "tf_efficientnet_lite0"
    assert low.shape == (1, 40, 8, 12)
    assert mid.shape == (1, 112, 64 // min(stride, 16), 96 // min(stride, 16))
    assert high.shape == (1, 320, 64 // stride, 96 // stride)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "regnetx_002", "test_vit"])
def test_families_reach_the_stride_at_any_size(name, generator):
    backbone = create_backbone(name, weights="none", frozen_stages=0)
    for size in [(64, 96), (67, 70)]:
        maps = backbone(torch.randn(1, 3, *size, generator=generator))
        assert tuple(features.shape[1] for features in maps) == backbone.channels
        for side, features in zip(size, maps[2].shape[-2:], strict=True):
            assert features in (side // 16, -(-side // 16))


def test_packaged_weights_give_timms_features(generator):
    backbone = create_backbone(output_stride=32).eval()
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(packaged_weights("tf_efficientnet_lite0"))
    image = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        expected = model.forward_intermediates(image, intermediates_only=True)[-3:]
        for features, target in zip(backbone(image), expected, strict=True):
            torch.testing.assert_close(features, target, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "stages", "expected"),
    [
        ("tf_efficientnet_lite0", 0, set()),
        ("tf_efficientnet_lite0", 1, {"conv_stem.weight", "blocks.0"}),
        ("tf_efficientnet_lite0", 2, {"conv_stem.weight", "blocks.0", "blocks.1"}),
        ("resnet18", 1, {"conv1.weight"}),
        ("resnet18", 2, {"conv1.weight", "layer1.0", "layer1.1"}),
        ("convnext_atto", 1, {"stem_0.weight", "stem_0.bias", "stem_1.weight", "stem_1.bias"}),
        ("regnetx_002", 2, {"stem.conv", "s1.b1"}),
        ("test_vit", 2, {"model.cls_token", "model.pos_embed", "model.patch_embed"}),
    ],
)
def test_frozen_stages_end_at_a_feature_map(name, stages, expected):
    frozen = frozen_stems(create_backbone(name, weights="none", frozen_stages=stages))
    later = {"convnext_atto": {"stages_0.blocks"}, "test_vit": {"model.blocks"}}
    assert frozen == expected | later.get(name, set())


def test_only_the_first_blocks_of_a_transformer_freeze():
    backbone = create_backbone("test_vit", weights="none", frozen_stages=2)
    blocks = backbone.net.model.blocks
    trains = [any(p.requires_grad for p in block.parameters()) for block in blocks]
    assert trains == [False, False, True, True, True, True]


def test_all_stages_can_freeze():
    backbone = create_backbone("test_resnet", weights="none", frozen_stages=5)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_frozen_stages_build_no_graph(generator):
    backbone = create_backbone(weights="none", frozen_stages=2)
    image = torch.randn(1, 3, 32, 32, generator=generator)
    assert [f.requires_grad for f in backbone.net(image)] == [False, False, True, True, True]
    backbone(image)[2].sum().backward()
    assert backbone.net.blocks[1][0].conv_pw.weight.grad is None
    assert backbone.net.blocks[2][0].conv_pw.weight.grad is not None


def test_batch_norm_rests_in_training(generator):
    backbone = create_backbone("test_resnet", weights="none", frozen_stages=0)
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    backbone.eval().train()(torch.randn(2, 3, 32, 32, generator=generator))
    assert backbone.training
    assert backbone.net.layer1.training
    assert norms
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert all(
        torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True)
    )


def test_convolutions_are_channels_last(generator):
    backbone = create_backbone("test_resnet", weights="none", frozen_stages=0)
    high = backbone(torch.randn(1, 3, 64, 64, generator=generator))[2]
    assert backbone.net.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert high.is_contiguous(memory_format=torch.channels_last)


class FakeNet(nn.Module):
    """A feature extractor with the given maps, channels trailing."""

    output_fmt = "NHWC"

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.feature_info = SimpleNamespace(
            channels=lambda: channels, reduction=lambda: [4] * len(channels), info=[]
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2] // 4, image.shape[-1] // 4
        return [torch.full((1, height, width, c), float(c)) for c in self.feature_info.channels()]


@pytest.mark.parametrize(
    ("channels", "expected"), [([5], (5, 5, 5)), ([5, 6], (5, 5, 6)), ([4, 5, 6, 7], (5, 6, 7))]
)
def test_a_model_with_few_maps_repeats_its_earliest(channels, expected):
    grey = (0.5, 0.5, 0.5)
    backbone = Backbone(FakeNet(channels), name="fake", mean=grey, std=grey, multiple=8)
    maps = backbone(torch.zeros(1, 3, 9, 8))
    assert backbone.channels == expected
    # Padded to 16 x 8, of which 12 x 8 are the photo's cells of 4 pixels.
    assert [tuple(f.shape) for f in maps] == [(1, c, 3, 2) for c in expected]
    assert [f.mean().item() for f in maps] == list(expected)


def test_padding_is_zero_at_the_end():
    padded = pad_to_multiple(torch.ones(1, 3, 3, 4), 4)
    assert padded.shape == (1, 3, 4, 4)
    assert padded[:, :, :3].eq(1).all()
    assert padded[:, :, 3].eq(0).all()


def test_normalisation_follows_the_weights():
    lite = create_backbone(weights="none")
    assert lite.mean == (127 / 255,) * 3
    assert lite.std == (128 / 255,) * 3
    resnet = create_backbone("resnet18", weights="none")
    assert resnet.mean == (0.485, 0.456, 0.406)
    assert resnet.std == (0.229, 0.224, 0.225)
    tagged = create_backbone("vit_tiny_patch16_224.augreg_in21k", weights="none")
    assert tagged.mean == (0.5, 0.5, 0.5)


def test_weights_of_a_file(tmp_path, generator):
    model = timm.create_model("test_resnet").eval()
    path = tmp_path / "a.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    backbone = create_backbone("test_resnet", output_stride=32, weights=str(path)).eval()
    image = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)[2], model.forward_features(image))


def test_unknown_name_lists_the_nearest():
    with pytest.raises(DscnetError, match=r"'resnet51'.*resnet50"):
        create_backbone("resnet51", weights="none")
    with pytest.raises(DscnetError, match=r"tag of resnet18; its tags: a1_in1k"):
        create_backbone("resnet18.nonsense", weights="none")


@pytest.mark.parametrize(
    ("name", "stride", "multiple"), [("test_maxvit", 32, 160), ("halonet26t", 16, 128)]
)
def test_backbones_of_windows_are_padded_to_them_and_their_maps_cut(name, stride, multiple):
    backbone = create_backbone(name, output_stride=stride, weights="none", frozen_stages=0).eval()
    assert backbone.multiple == multiple
    image = torch.randn(1, 3, 70, 170, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = backbone(image)
        whole = backbone.net(pad_to_multiple(image, multiple))[-1]
    rows, columns = -(-70 // stride), -(-170 // stride)
    assert maps[-1].shape[-2:] == (rows, columns)
    torch.testing.assert_close(maps[-1], whole[..., :rows, :columns])


@pytest.mark.parametrize("name", ["cait_xxs24_224", "beit_base_patch16_224", "botnet26t_256"])
def test_backbones_of_one_photo_size_are_refused_with_others_that_work(name):
    told = pytest.raises(DscnetError, match=f"'{name}' accepts a single photo size only")
    with torch.device("meta"), told as caught:
        create_backbone(name, weights="none", frozen_stages=0)
    for other in ("tf_efficientnet_lite0", "resnet50"):
        assert other in str(caught.value)
        with torch.device("meta"):
            create_backbone(other, weights="none", frozen_stages=0)


def test_a_stride_is_named_only_if_it_can_be_had():
    for name in ("coat_mini", "eva02_base_patch14_224"):
        with pytest.raises(DscnetError, match="Choose a backbone"), torch.device("meta"):
            create_backbone(name, weights="none", frozen_stages=0)


def test_a_family_that_refuses_a_stride_says_which_it_has():
    with pytest.raises(DscnetError, match=r"densenet121.*stride 16.*2, 4, 8, 16, 32.*_stride=32"):
        create_backbone("densenet121", weights="none")
    with pytest.raises(DscnetError, match=r"test_vit.*stride 8.*Choose output_stride=16"):
        create_backbone("test_vit", output_stride=8, weights="none")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"output_stride": 4}, "output_stride must be one of .* got 4"),
        ({"frozen_stages": -1}, r"frozen_stages must be in 0\.\.5, got -1"),
        ({"frozen_stages": 6}, r"frozen_stages must be in 0\.\.5, got 6"),
    ],
)
def test_values_out_of_range(options, text):
    with pytest.raises(ValueError, match=text):
        create_backbone("test_resnet", **{"weights": "none", **options})


def test_a_model_that_hides_its_stages_cannot_freeze_some():
    net = FakeNet([5])
    net.feature_info.info = [{"module": "stage1"}]
    with pytest.raises(DscnetError, match="no module 'stage1'; choose frozen_stages=0"):
        Backbone(net, name="fake", mean=(0, 0, 0), std=(1, 1, 1), frozen_stages=1)
