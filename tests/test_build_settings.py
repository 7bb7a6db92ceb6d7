"""Every setting arrives in what is built from it, and in nothing else.

One field at a time is moved away from its default, and all that is built is looked at: the field's
own part must have the new value, every other part still its default. The cases are held against the
fields of the dataclasses, so that a new setting without a case fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import nn

from dscnet import build
from dscnet.config import (
    AugmentConfig,
    AuxSegConfig,
    Config,
    MethodConfig,
    ModelConfig,
    ScaleConfig,
    SegmentConfig,
    TrainConfig,
)
from dscnet.models.cam import FEATURE_MAPS
from tiny_backbone import TinyBackbone


@dataclass
class Case:
    """A setting, where it arrives, and a value that is not its default.

    Attributes:
        other: The value that the field is set to.
        arrived: What the built parts hold of it.
        also: Further fields of the section that go with it.
    """

    other: Any
    arrived: Callable[[Any], Any]
    also: dict[str, Any] | None = None


def check_arrival(section: type, name: str, cases: dict[str, Case], make: Callable) -> None:
    """Set one field and look at what all cases find in what is made."""
    case, usual = cases[name], section()
    assert case.other != getattr(usual, name)
    changed = {name: case.other} | (case.also or {})
    parts = make(section(**changed))
    for key, other in cases.items():
        expected = changed.get(key, getattr(usual, key))
        assert other.arrived(parts) == expected, key


def unlisted(section: type, cases: dict[str, Case], elsewhere: set[str]) -> set[str]:
    """Fields without a case, and cases without a field."""
    assert not set(cases) & elsewhere
    return {field.name for field in fields(section)} ^ (set(cases) | elsewhere)


class Built:
    """What the settings of the method make: network, context and objective."""

    def __init__(self, method: MethodConfig) -> None:
        config = Config(model=ModelConfig(weights="none"), method=method)
        torch.manual_seed(0)
        self.model = build.build_model(config, 3)
        self.context: Any = self.model.context
        self.objective = build.build_objective(method, 4)
        self.contrast: Any = self.objective.contrast


def variant_of(built: Built) -> str:
    streams = {
        (True, False, False, False): "M1",
        (False, True, True, False): "M2",
        (True, True, True, False): "M3",
        (True, True, True, True): "M4",
    }
    contrast, context = built.contrast, built.context
    return streams[contrast.pgcl, contrast.sgcl, context.graph is not None, context.fuse]


def one_temperature(built: Built) -> float:
    found = {built.contrast.temperature, built.context.temperature, built.context.graph.temperature}
    (temperature,) = found
    return temperature


METHOD = {
    "variant": Case("M3", variant_of),
    "pgcl_weight": Case(0.7, lambda built: built.contrast.weights["pgcl"]),
    "sgcl_weight": Case(0.8, lambda built: built.contrast.weights["sgcl"]),
    "contrast": Case("pixels", lambda built: built.contrast.contrast),
    "kmeans_init": Case("cam", lambda built: built.context.starts, {"num_groups": None}),
    "num_groups": Case(5, lambda built: built.context.num_groups),
    "group_margin": Case(0.05, lambda built: built.contrast.group_margin),
    "head": Case("own", lambda built: built.context.head),
    "smooth": Case(0.65, lambda built: built.model.smooth),
    "class_similarity": Case(0.35, lambda built: built.model.class_similarity),
    "pool_sharpness": Case(2.5, lambda built: built.context.pool_sharpness),
    "pool_ramp": Case(0.9, lambda built: built.objective.pool_ramp),
    "temperature": Case(0.6, one_temperature),
    "warmup": Case(0.45, lambda built: built.contrast.warmup),
    "plain_weight": Case(0.55, lambda built: built.objective.plain_weight),
    "bg_score": Case(0.15, lambda built: built.contrast.bg_score),
}


def test_every_setting_of_the_method_has_a_case():
    assert not unlisted(MethodConfig, METHOD, set())


@pytest.mark.parametrize("name", METHOD)
def test_settings_of_the_method_arrive(name, monkeypatch):
    monkeypatch.setattr(build, "create_backbone", lambda *name, **options: TinyBackbone())
    check_arrival(MethodConfig, name, METHOD, Built)


def test_what_is_no_setting_is_as_the_page_on_the_method_says(monkeypatch):
    monkeypatch.setattr(build, "create_backbone", lambda *name, **options: TinyBackbone())
    built = Built(MethodConfig())
    context, graph = built.context, built.context.graph
    assert FEATURE_MAPS[built.model.group_by] == "middle"
    assert (context.grouping, context.fusion, context.row_norm) == ("pearson", "groups", "softmax")
    assert not context.classifier.weight[:, -6:].any(), "the half for X^ starts at zero"
    assert graph.residual and graph.prototypes.requires_grad
    assert (context.projection.out_channels, graph.prototypes.shape[1]) == (128, 128)
    assert context.memory.size == 64
    assert (built.contrast.group_rule, built.contrast.hard_targets) == ("mean_cam", False)


@pytest.mark.parametrize("variant", ["baseline", "M1", "M2"])
def test_each_variant_arrives(variant):
    method = MethodConfig(variant=variant)
    if variant == "baseline":
        assert build.build_context(method, 6, 4) is None
        assert build.build_objective(method, 4).contrast is None
        return
    built = Built.__new__(Built)
    built.context = build.build_context(method, 6, 4)
    built.contrast = build.build_objective(method, 4).contrast
    assert variant_of(built) == variant


class Trunks:
    """Stands in for what makes backbones and segmentation networks; keeps what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: dict[str, Any] = {}
        self.made = ""
        monkeypatch.setattr(build, "create_backbone", self.backbone)
        monkeypatch.setattr(build, "create_segmenter", self.segmenter)
        monkeypatch.setattr(build, "create_deeplab", self.deeplab)

    def backbone(self, name: str, **options: Any) -> nn.Module:
        self.asked = {"backbone": name, **options}
        made = TinyBackbone()
        made.output_stride = options["output_stride"]
        return made

    def segmenter(self, name: str, num_labels: int, **options: Any) -> None:
        self.asked, self.made = {"backbone": name, **options}, "auto"

    def deeplab(self, name: str, backbone: nn.Module, num_labels: int) -> None:
        self.made = name


@dataclass
class BuiltCam:
    model: Any
    asked: dict[str, Any]
    start: torch.Tensor


def asked_for(name: str) -> Callable[[Any], Any]:
    return lambda built: built.asked[name]


MODEL = {
    "name": Case(
        "cam", lambda built: {"Seam": "seam", "PlainCam": "cam"}[type(built.model).__name__]
    ),
    "backbone": Case("resnet38", asked_for("backbone")),
    "output_stride": Case(8, asked_for("output_stride")),
    "weights": Case("none", asked_for("weights")),
    "frozen_stages": Case(1, asked_for("frozen_stages")),
    "view_scale": Case(0.25, lambda built: getattr(built.model, "view_scale", 0.5)),
    "classifier_gain": Case(
        0.7,
        lambda built: round((built.model.classifier.weight / built.start).mean().item(), 5),
    ),
}


@pytest.mark.parametrize("name", MODEL)
def test_settings_of_the_cam_network_arrive(name, monkeypatch):
    assert not unlisted(ModelConfig, MODEL, set())
    backbones = Trunks(monkeypatch)

    def make(section: ModelConfig) -> BuiltCam:
        torch.manual_seed(0)
        start = build.build_model(Config(model=replace(section, classifier_gain=1.0)), 3)
        torch.manual_seed(0)
        model = build.build_model(Config(model=section), 3)
        return BuiltCam(model, backbones.asked, start.classifier.weight)

    check_arrival(ModelConfig, name, MODEL, make)
    build.build_model(Config(model=ModelConfig(weights="imagenet")), 3, pretrained=False)
    assert backbones.asked["weights"] == "none"


def branch_norm(model: nn.Module) -> bool:
    return any(isinstance(layer, nn.BatchNorm2d) for layer in model.segmentation.modules())


AUXSEG = {
    "branch_channels": Case(24, lambda model: model.saliency.classifier.in_channels),
    "dilations": Case(
        [1, 2, 4],
        lambda model: {(3, 6, 9): None, (1, 2, 4): [1, 2, 4]}[
            tuple(
                layer.dilation[0]
                for part in (model.segmentation.before, model.segmentation.after)
                for layer in part
                if isinstance(layer, nn.Conv2d)
            )
        ],
    ),
    "branch_norm": Case(True, branch_norm),
    "affinity_rows": Case(9, lambda model: model.cross_task.rows),
    "published_row_quirk": Case(True, lambda model: model.cross_task.published_row_quirk),
    "grid_pooling": Case(True, lambda model: model.grid_pooling),
}
OF_ROUNDS = {
    "rounds",
    "saliency",
    "cams",
    "cam_score",
    "saliency_score",
    "stuff",
    "crf",
    "fill_undecided",
    "self_training_source",
    "last_round_labels",
    "published_cam_quirk",
}
"""Read where the rounds run, not where the network is built."""


@pytest.mark.parametrize("name", AUXSEG)
def test_settings_of_auxsegnet_arrive(name, monkeypatch):
    assert not unlisted(AuxSegConfig, AUXSEG, OF_ROUNDS)
    Trunks(monkeypatch)
    model = ModelConfig(name="auxsegnet")

    def make(section: AuxSegConfig) -> nn.Module:
        return build.build_model(Config(model=model, auxseg=section), 3)

    check_arrival(AuxSegConfig, name, AUXSEG, make)


def jitter_of(transform: Any) -> list[float]:
    """Strengths of brightness, contrast, saturation and hue."""
    if transform.jitter is None:
        return [0.0] * 4
    found = transform.jitter
    ranges = (found.brightness, found.contrast, found.saturation)
    hue = 0.0 if found.hue is None else found.hue[1]
    return [*(round(one[1] - 1, 6) if one else 0.0 for one in ranges), hue]


AUGMENT = {
    "crop_size": Case(100, lambda transform: transform.crop_size),
    "long_side": Case([50, 60], lambda transform: list(transform.long_side)),
    "jitter": Case([0.1, 0.2, 0.4, 0.05], jitter_of),
    "published_padding_quirk": Case(True, lambda transform: transform.mask_fill == 0),
}


@pytest.mark.parametrize("name", AUGMENT)
def test_settings_of_the_augmentation_arrive(name):
    assert not unlisted(AugmentConfig, AUGMENT, {"num_workers"})
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

    def make(section: AugmentConfig) -> Any:
        return build.build_train_transform(Config(augment=section), mean, std)

    check_arrival(AugmentConfig, name, AUGMENT, make)
    black, _ = make(AugmentConfig(jitter=[0.0] * 4))(torch.zeros(3, 300, 300, dtype=torch.uint8))
    expected = [-m / s for m, s in zip(mean, std, strict=True)]
    assert black[:, 112, 112].tolist() == pytest.approx(expected)
    white, _ = build.build_eval_transform(mean, std)(torch.full((3, 5, 5), 255, dtype=torch.uint8))
    expected = [(1 - m) / s for m, s in zip(mean, std, strict=True)]
    assert white[:, 2, 2].tolist() == pytest.approx(expected)


SCALE = {
    "relative_to": Case("photo", lambda scale: "training" if scale.side else "photo"),
    # null stands for the middle of augment.long_side.
    "side": Case(500, lambda scale: None if scale.side in (304, None) else scale.side),
    "work_side": Case(450, lambda scale: scale.work_side),
    "tiles": Case(3, lambda scale: scale.tiles),
    "tile_overlap": Case(0.5, lambda scale: scale.tile_overlap),
}


@pytest.mark.parametrize("name", SCALE)
def test_settings_of_the_scale_arrive(name):
    assert not unlisted(ScaleConfig, SCALE, set())
    assert build.build_scale(Config()).side == 304
    check_arrival(ScaleConfig, name, SCALE, lambda one: build.build_scale(Config(scale=one)))


class BuiltSegmenter:
    """What the settings of the segmentation network make, but for its training."""

    def __init__(self, backbones: Trunks, section: SegmentConfig) -> None:
        config = Config(segment=section, scale=ScaleConfig(relative_to="photo"))
        build.build_segmenter(config, 4)
        self.asked, self.made = backbones.asked, backbones.made
        self.transform = build.build_segmenter_transform(config, (0.5,) * 3, (0.5,) * 3)
        self.inference = build.inference_settings(config)


def own(read: Callable[[BuiltSegmenter], Any], shared: Any) -> Callable[[BuiltSegmenter], Any]:
    """A setting whose null stands for that of another section, which is ``shared``."""
    return lambda built: None if read(built) == shared else read(built)


SEGMENT = {
    "network": Case("deeplabv2", lambda built: built.made),
    "backbone": Case("resnet50", own(asked_for("backbone"), ModelConfig().backbone)),
    "weights": Case("none", own(asked_for("weights"), ModelConfig().weights)),
    "output_stride": Case(8, own(asked_for("output_stride"), ModelConfig().output_stride)),
    "decoder_channels": Case(64, lambda built: built.asked.get("decoder_channels", 128)),
    "frozen_stages": Case(1, asked_for("frozen_stages")),
    "crop_size": Case(90, own(lambda built: built.transform.crop_size, 224)),
    "jitter": Case(
        [0.1, 0.2, 0.3, 0.0], own(lambda built: jitter_of(built.transform), [0.3, 0.3, 0.3, 0.0])
    ),
    "scale_range": Case([0.5, 2.0], lambda built: built.transform.scale_range),
    "flip_test": Case(False, lambda built: built.inference["flip"]),
    "test_scales": Case([0.75], lambda built: list(built.inference["scales"])),
    "crf": Case(False, lambda built: built.inference["crf"]),
}
OF_THE_PIPELINE = {"branch_scores", "supervision", "labels", "rounds"}
"""Read where the stages run, not where the network is built."""


@pytest.mark.parametrize("name", SEGMENT)
def test_settings_of_the_segmentation_network_arrive(name, monkeypatch):
    of_training = {field.name for field in fields(TrainConfig)} & {
        field.name for field in fields(SegmentConfig)
    }
    assert not unlisted(SegmentConfig, SEGMENT, OF_THE_PIPELINE | of_training)
    backbones = Trunks(monkeypatch)
    check_arrival(SegmentConfig, name, SEGMENT, lambda one: BuiltSegmenter(backbones, one))


def test_networks_of_the_walks_stand_on_the_cam_networks_backbone(monkeypatch):
    backbones = Trunks(monkeypatch)
    config = Config(model=ModelConfig(backbone="b", output_stride=32, weights="w", frozen_stages=1))
    config.affinity.output_stride = 4
    common = {"backbone": "b", "frozen_stages": 1}
    for make, stride in ((build.build_affinity_net, 4), (build.build_boundary_net, 32)):
        make(config)
        assert backbones.asked == common | {"output_stride": stride, "weights": "w"}
        make(config, pretrained=False)
        assert backbones.asked == common | {"output_stride": stride, "weights": "none"}
