from __future__ import annotations

import pytest
import torch
from torch import nn

from dscnet.build import (
    build_affinity_transform,
    build_model,
    build_objective,
    build_scale,
    build_segmenter,
    build_segmenter_transform,
    build_train_transform,
    device_of,
    inference_settings,
    optimiser_settings,
)
from dscnet.config import (
    AugmentConfig,
    Config,
    MethodConfig,
    ModelConfig,
    ScaleConfig,
    SegmentConfig,
    TrainConfig,
)
from dscnet.context.output import LEAST
from dscnet.data.scale import PhotoScale
from dscnet.models import AuxSegNet, PlainCam, ResNet38, Seam
from dscnet.models.deeplab import AtrousPyramid, DeepLab, LargeField
from dscnet.models.segmenter import Segmenter


def config(variant: str, name: str = "seam") -> Config:
    return Config(
        model=ModelConfig(name=name, weights="none"), method=MethodConfig(variant=variant)
    )


def test_the_baseline_has_nothing_of_dscnet():
    model = build_model(config("baseline"), 3)
    assert isinstance(model, Seam)
    assert model.context is None
    assert build_objective(MethodConfig(variant="baseline"), 4).contrast is None


@pytest.mark.parametrize(
    ("variant", "semantic", "fuse"),
    [("M1", False, False), ("M2", True, False), ("M3", True, False), ("M4", True, True)],
)
def test_a_variant_builds_what_it_needs(variant, semantic, fuse):
    context = build_model(config(variant), 3).context
    assert (context.graph is not None, context.classifier is not None) == (semantic, fuse)
    objective = build_objective(MethodConfig(variant=variant), 4).contrast
    assert (objective.pgcl, objective.sgcl) == (variant != "M2", variant != "M1")


@pytest.mark.parametrize("name", ["seam", "cam", "auxsegnet"])
def test_a_smaller_start_changes_the_classifier_alone(name):
    states = []
    for gain in (1.0, 0.25):
        settings = config("M4", name=name)
        settings.model.classifier_gain = gain
        torch.manual_seed(0)
        states.append(build_model(settings, 3).state_dict())
    first, second = states
    for key, value in first.items():
        torch.testing.assert_close(second[key], value * (0.25 if key == "classifier.weight" else 1))


def test_plain_cam_takes_the_same_settings():
    model = build_model(config("M4", name="cam"), 3)
    assert type(model) is PlainCam
    assert model.context.classifier is not None


def test_published_momentum_is_the_weight_decay():
    assert "momentum" not in optimiser_settings(TrainConfig(weight_decay=5e-4))
    quirk = TrainConfig(weight_decay=5e-4, published_momentum_quirk=True)
    assert optimiser_settings(quirk)["momentum"] == 5e-4


def test_transform_and_segmenter_take_their_settings():
    transform = build_train_transform(
        Config(augment=AugmentConfig(crop_size=40)), (0.5,) * 3, (0.5,) * 3
    )
    image, _ = transform(torch.zeros(3, 60, 50, dtype=torch.uint8), None)
    assert image.shape == (3, 40, 40)
    segmenter = build_segmenter(config("baseline"), 4).eval()
    with torch.inference_mode():
        assert segmenter(torch.zeros(1, 3, 33, 47)).seg_logits.shape == (1, 4, 33, 47)


@pytest.mark.parametrize(
    ("network", "head"),
    [("deeplabv1", LargeField), ("deeplabv2", AtrousPyramid), ("auto", None)],
)
def test_the_segmentation_network_has_a_backbone_like_the_cam_network_or_its_own(network, head):
    settings = Config(model=ModelConfig(backbone="test_resnet", weights="none", output_stride=16))
    settings.segment.network, settings.segment.frozen_stages = network, 0
    model = build_segmenter(settings, 3)
    assert type(model) is (DeepLab if head else Segmenter)
    assert head is None or type(model.head) is head
    assert model.output_stride == 16
    shapes = [tuple(p.shape) for p in model.backbone.parameters()]
    settings.model.backbone, settings.segment.backbone = "resnet10t", "test_resnet"
    settings.segment.output_stride = 8
    own = build_segmenter(settings, 3)
    assert own.output_stride == 8
    assert [tuple(p.shape) for p in own.backbone.parameters()] == shapes


def test_weights_of_its_backbone(tmp_path):
    pretrained = build_segmenter(config("baseline"), 3).backbone.model
    path = tmp_path / "backbone.pth"
    torch.save(pretrained.state_dict(), path)
    settings = config("baseline")
    settings.segment.network, settings.segment.weights = "deeplabv2", str(path)
    loaded = build_segmenter(settings, 3).backbone.net.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in pretrained.state_dict().items())
    fresh = build_segmenter(settings, 3, pretrained=False).backbone.net.state_dict()
    assert any(
        not torch.equal(fresh[name], value) for name, value in pretrained.state_dict().items()
    )


def test_on_resnet38_the_segmentation_network_is_deeplab_v1():
    settings = Config(model=ModelConfig(backbone="resnet38", weights="none", output_stride=8))
    with torch.device("meta"):  # a hundred million parameters
        model = build_segmenter(settings, 3)
    assert type(model) is DeepLab
    assert type(model.head) is LargeField


def test_photos_of_the_segmentation_network():
    settings = Config(augment=AugmentConfig(crop_size=40, long_side=[50, 60]))
    transform = build_segmenter_transform(settings, (0.5,) * 3, (0.5,) * 3)
    assert (transform.crop_size, transform.long_side) == (40, (50, 60))
    assert transform.scale_range is None
    assert transform.jitter.brightness == (0.7, 1.3)
    settings.segment = SegmentConfig(
        crop_size=30, scale_range=[0.5, 1.5], jitter=[0.0, 0.0, 0.0, 0.05]
    )
    transform = build_segmenter_transform(settings, (0.5,) * 3, (0.5,) * 3)
    # Relative to scale 1, which is the middle of ``augment.long_side``.
    assert (transform.crop_size, transform.long_side) == (30, (28, 82))
    assert transform.scale_range is None
    settings.scale = ScaleConfig(relative_to="photo")
    transform = build_segmenter_transform(settings, (0.5,) * 3, (0.5,) * 3)
    assert (transform.long_side, transform.scale_range) == (None, [0.5, 1.5])
    assert (transform.jitter.brightness, transform.jitter.hue) == (None, (-0.05, 0.05))
    assert build_train_transform(settings, (0.5,) * 3, (0.5,) * 3).crop_size == 40


def test_tiles_are_crops_of_photos_that_much_larger():
    settings = Config(augment=AugmentConfig(crop_size=40, long_side=[50, 60]))
    settings.scale.tiles, settings.affinity.scale_range = 3, [1.0, 2.0]
    transform = build_train_transform(settings, (0.5,) * 3, (0.5,) * 3)
    assert (transform.crop_size, transform.long_side) == (40, (150, 180))
    assert build_affinity_transform(settings, (0.5,) * 3, (0.5,) * 3).long_side == (165, 330)
    assert build_scale(settings).work_size((300, 400)) == (124, 165)


def test_affinitynets_photos_can_keep_their_size():
    settings = Config(
        augment=AugmentConfig(crop_size=40, long_side=[50, 60]),
        scale=ScaleConfig(relative_to="photo"),
    )
    transform = build_affinity_transform(settings, (0.5,) * 3, (0.5,) * 3)
    assert (transform.long_side, transform.scale_range) == ((50, 60), None)
    settings.affinity.scale_range = [1.0, 1.0]
    transform = build_affinity_transform(settings, (0.5,) * 3, (0.5,) * 3)
    assert (transform.long_side, transform.scale_range) == (None, [1.0, 1.0])
    assert transform.crop_size == 40


def test_how_the_segmentation_network_is_tested():
    assert inference_settings(Config(segment=SegmentConfig(accelerator="cpu"))) == {
        "scale": PhotoScale(304, None, 1, 0.25),
        "scales": (1.0, 1.5),
        "flip": True,
        "crf": True,
        "device": torch.device("cpu"),
    }
    other = SegmentConfig(test_scales=[0.5, 1.0], flip_test=False, crf=False, accelerator="cpu")
    taken = inference_settings(Config(segment=other))
    assert (taken["scales"], taken["flip"], taken["crf"]) == ((0.5, 1.0), False, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ScaleConfig(side=0), "scale.side must be at least 1, got 0"),
        (ScaleConfig(side=15), "scale.side must be at least model.output_stride, 16, got 15"),
        (ScaleConfig(tiles=0), "scale.tiles must be at least 1, got 0"),
        (ScaleConfig(tile_overlap=1), "scale.tile_overlap must be in"),
        (
            ScaleConfig(relative_to="photo", tiles=2),
            "scale.tiles must be 1 for photos at their own size",
        ),
    ],
)
def test_scales_that_cannot_be_are_named_as_their_setting(settings, message):
    with pytest.raises(ValueError, match=message):
        build_scale(Config(scale=settings))


def test_device():
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_all_variants_of_a_seed_start_from_one_baseline():
    states = []
    for variant in ("baseline", "M1", "M4"):
        torch.manual_seed(3)
        states.append(build_model(config(variant), 3).state_dict())
    assert states[0].keys() < states[1].keys()
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())


def tagged_photos():
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    return image, torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def normalised(cam_logits):
    """Foreground divided by its maximum over the photo; no background."""
    positive = cam_logits.relu()
    positive[:, 0] = 0
    return positive / (positive.amax((2, 3), keepdim=True) + 1e-5)


@pytest.mark.parametrize("name", ["seam", "cam"])
def test_the_groups_smooth_the_refined_map(name):
    settings = config("M4", name=name)
    settings.method.kmeans_init, settings.method.num_groups = "cam", None
    settings.method.class_similarity = 0.0
    image, tags = tagged_photos()
    outputs = []
    for share in (0.0, 0.5):
        torch.manual_seed(0)
        settings.method.smooth = share
        outputs.append(build_model(settings, 3).eval()(image, tags))
    rough, smooth = outputs
    assert torch.equal(rough.final_logits, smooth.final_logits)
    if name == "cam":
        assert rough.cam_refined is None
        expected = normalised(rough.final_logits)
    else:
        expected = rough.cam_refined
    assert (smooth.cam_refined - expected).abs().max() > 1e-6
    torch.testing.assert_close(smooth.cam_refined, smooth.context.smooth(expected, 0.5))


@pytest.mark.parametrize("variant", ["M1", "M3", "M4"])
@pytest.mark.parametrize("name", ["seam", "cam"])
def test_the_refined_map_is_weighed_by_the_discriminant(name, variant):
    settings = config(variant, name=name)
    settings.method.kmeans_init, settings.method.num_groups = "cam", None
    settings.method.smooth = 0.0
    image, tags = tagged_photos()
    model = build_model(settings, 3)
    model.context.lda.add(torch.randn(8, model.context.embedding_dim), torch.arange(8) % 4)
    with torch.no_grad():
        weighed = model.eval()(image, tags)
        model.class_similarity = 0.0
        plain = model(image, tags)
    before = normalised(plain.final_logits) if name == "cam" else plain.cam_refined
    low, high = before.amin((2, 3), keepdim=True), before.amax((2, 3), keepdim=True)
    stretched = (before - low) / (high - low).clamp(min=1e-5)
    class_similarity = weighed.context.class_similarity
    share = settings.method.class_similarity
    expected = (
        stretched.clamp_min(LEAST) ** (1 - share) * class_similarity.clamp_min(LEAST) ** share
    )
    torch.testing.assert_close(weighed.cam_refined, expected)
    torch.testing.assert_close(class_similarity.sum(1), torch.ones_like(class_similarity[:, 0]))
    assert class_similarity[1, [1, 3]].eq(0).all(), "labels that the photo does not have"
    assert model.train()(image, tags).context.class_similarity is None


def test_embeddings_that_were_not_contrasted_weigh_nothing():
    image, tags = tagged_photos()
    model = build_model(config("M2"), 3)
    dim = model.context.embedding_dim
    before = model.eval()(image, tags).cam_refined
    model.context.lda.add(torch.randn(8, dim), torch.arange(8) % 4)
    assert torch.equal(model(image, tags).cam_refined, before)


@pytest.mark.parametrize("setting", ["smooth", "class_similarity"])
def test_a_weight_outside_0_to_1_is_rejected(setting):
    settings = config("M4")
    setattr(settings.method, setting, 1.5)
    with pytest.raises(ValueError, match=f"{setting} must be in"):
        build_model(settings, 3)


def test_auxsegnet_takes_its_settings():
    settings = config("M4", name="auxsegnet")
    settings.model.output_stride = 8
    settings.auxseg.branch_channels, settings.auxseg.affinity_rows = 24, 9
    settings.auxseg.published_row_quirk = True
    model = build_model(settings, 3)
    assert isinstance(model, AuxSegNet)
    dilations = [model.segmentation.before[i].dilation[0] for i in (0, 2)]
    assert [*dilations, model.saliency.after[0].dilation[0]] == [6, 12, 18]
    assert model.saliency.classifier.weight.shape == (1, 24, 1, 1)
    assert (model.cross_task.rows, model.cross_task.published_row_quirk) == (9, True)
    assert model.context.classifier is not None
    settings.auxseg.dilations = [1, 2, 3]
    settings.auxseg.branch_norm = True
    branch = build_model(settings, 3).segmentation
    assert [branch.before[0].dilation[0], branch.after[0].dilation[0]] == [1, 3]
    norms = [layer for layer in branch.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [24, 24, 24]


def test_published_positional_quirk_is_momentum_without_weight_decay():
    quirk = TrainConfig(weight_decay=1e-5, published_positional_quirk=True)
    taken = optimiser_settings(quirk)
    assert (taken["momentum"], taken["weight_decay"]) == (1e-5, 0)


@pytest.mark.parametrize(("quirk", "fill"), [(False, 255), (True, 0)])
def test_published_padding_is_background(quirk, fill):
    augment = AugmentConfig(crop_size=60, long_side=[30, 30], published_padding_quirk=quirk)
    transform = build_train_transform(Config(augment=augment), (0.5,) * 3, (0.5,) * 3)
    ones = torch.ones(30, 30, dtype=torch.uint8)
    _, labels = transform(torch.zeros(3, 30, 30, dtype=torch.uint8), ones)
    assert labels.unique().tolist() == sorted({1, fill})


@pytest.mark.parametrize(
    ("name", "network"), [("seam", Seam), ("cam", PlainCam), ("auxsegnet", AuxSegNet)]
)
def test_resnet38_carries_every_cam_network(name, network):
    settings = config("baseline", name)
    settings.model = ModelConfig(
        name=name, backbone="resnet38", output_stride=8, weights="none", frozen_stages=1
    )
    settings.auxseg.grid_pooling = True
    with torch.device("meta"):
        model = build_model(settings, 20)
    assert type(model) is network
    assert isinstance(model.backbone, ResNet38)
    assert not model.backbone.conv1a.weight.requires_grad
    assert model.backbone.b2.conv_branch2a.weight.requires_grad
    assert model.classifier.weight.shape == (21, 4096, 1, 1)
    assert name != "auxsegnet" or model.grid_pooling


def test_biases_take_their_rate():
    assert optimiser_settings(TrainConfig(bias_lr_factor=1.0))["bias_lr_factor"] == 1.0
