"""Tests of ``dscnet.models.cam`` and of the registry in ``dscnet.models``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dscnet.config import baselines
from dscnet.context import DualStreamContext
from dscnet.losses import pooled_logits
from dscnet.models import MODELS, PlainCam, create_model, list_models, register_model
from dscnet.models.cam import FEATURE_MAPS
from tiny_backbone import TinyBackbone


class Doubling(nn.Module):
    """A context that records its calls and fuses by doubling the CAM."""

    def __init__(self, fuse: bool) -> None:
        super().__init__()
        self.fuse = fuse
        self.calls: list[tuple[Tensor, Tensor | None, Tensor | None]] = []

    def forward(
        self,
        features: Tensor,
        cam_logits: Tensor,
        tags: Tensor | None,
        guide: Tensor | None = None,
    ) -> SimpleNamespace:
        self.calls.append((features, tags, guide))
        refined = 2 * cam_logits if self.fuse else None
        return SimpleNamespace(
            cam_logits=refined, tag_logits=None, pixel_to_group=None, class_similarity=None
        )


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("num_classes", [1, 20, 80])
def test_cam_is_a_linear_map_of_the_features(image: Tensor, num_classes: int) -> None:
    model = PlainCam(TinyBackbone(), num_classes).eval()
    output = model(image)
    assert output.features is not None and output.cam_logits is not None
    assert output.cam_logits.shape == (2, num_classes + 1, 4, 5)
    weight = model.classifier.weight.flatten(1)
    expected = torch.einsum("ld,bdhw->blhw", weight, output.features)
    torch.testing.assert_close(output.cam_logits, expected)
    assert output.cam_refined is None and output.second is None and output.context is None


def test_classifier_has_no_bias_and_drops_whole_channels(image: Tensor) -> None:
    model = PlainCam(TinyBackbone(), 3, dropout=0.5)
    assert model.classifier.bias is None
    assert isinstance(model.dropout, nn.Dropout2d) and model.dropout.p == 0.5
    bound = (6 / (6 + 4)) ** 0.5
    assert model.classifier.weight.abs().max() <= bound
    torch.manual_seed(0)
    first, again = model(image).cam_logits, model(image).cam_logits
    assert not torch.equal(first, again)
    model.eval()
    assert torch.equal(model(image).cam_logits, model(image).cam_logits)


def test_gradient_reaches_backbone_and_classifier(image: Tensor) -> None:
    model = PlainCam(TinyBackbone(), 3)
    model.tag_logits(model(image), (16, 20)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_context_runs_as_the_tag_scores_may_be_its_own(
    image: Tensor, fuse: bool, training: bool
) -> None:
    context, tags = Doubling(fuse), torch.ones(2, 3)
    model = PlainCam(TinyBackbone(), 3, context=context).train(training)
    output = model(image, tags)
    features, seen_tags, guide = context.calls[0]
    assert features is output.features and seen_tags is tags and guide is features
    assert torch.equal(output.final_logits, (2 if fuse else 1) * output.cam_logits)


@pytest.mark.parametrize(
    ("fuse", "class_similarity", "called"),
    [(False, 0.0, False), (True, 0.0, True), (False, 0.1, True)],
)
def test_maps_ask_a_context_that_has_a_part_in_them(
    image: Tensor, fuse: bool, class_similarity: float, called: bool
) -> None:
    context = Doubling(fuse)
    PlainCam(
        TinyBackbone(), 3, context=context, class_similarity=class_similarity
    ).eval().score_maps(image, None)
    assert bool(context.calls) == called


@pytest.mark.parametrize("group_by", FEATURE_MAPS)
def test_the_named_tap_guides_the_context(image: Tensor, group_by: str) -> None:
    context = Doubling(fuse=True)
    model = PlainCam(TinyBackbone(), 3, context=context, group_by=group_by).eval()
    model(image)
    assert torch.equal(context.calls[0][2], model.backbone(image)[FEATURE_MAPS.index(group_by)])


def test_an_unknown_tap_is_refused() -> None:
    with pytest.raises(ValueError, match="group_by must be one of early, middle, last, got 'x'"):
        PlainCam(TinyBackbone(), 3, group_by="x")


def test_score_maps_are_the_rectified_final_foreground(image: Tensor) -> None:
    model = PlainCam(TinyBackbone(), 3, context=Doubling(fuse=True)).eval()
    maps = model.score_maps(image, None)
    assert list(maps) == ["cam"]
    assert torch.equal(maps["cam"], (2 * model(image).cam_logits[:, 1:]).relu())


def test_tag_logits_agree_with_the_loss(image: Tensor) -> None:
    model = PlainCam(TinyBackbone(), 3, context=Doubling(fuse=True)).eval()
    output = model(image)
    expected = pooled_logits(2 * output.cam_logits, (16, 20))
    torch.testing.assert_close(model.tag_logits(output, (16, 20)), expected)


def test_tag_logits_are_those_of_the_groups_where_the_context_has_them(image: Tensor) -> None:
    context = DualStreamContext(6, 4, semantic=True, fuse=True, embedding_dim=5)
    model = PlainCam(TinyBackbone(), 3, context=context).eval()
    output = model(image)
    assert torch.equal(model.tag_logits(output, (16, 20)), output.context.tag_logits)


def test_num_classes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        PlainCam(TinyBackbone(), 0)


def test_registry_builds_by_name() -> None:
    assert list_models() == ["auxsegnet", "cam", "seam"]
    model = create_model("cam", TinyBackbone(), 2, dropout=0.1)
    assert type(model) is PlainCam and model.dropout.p == 0.1


def test_registry_refuses_unknown_and_taken_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="one of auxsegnet, cam, seam, got 'sean'"):
        create_model("sean", TinyBackbone(), 2)
    with pytest.raises(ValueError, match="must be new, got 'seam'"):
        register_model("seam", PlainCam)
    monkeypatch.setattr(baselines, "_BASELINES", dict(baselines._BASELINES))
    register_model("other", PlainCam)
    assert MODELS["other"] is PlainCam
    assert isinstance(create_model("other", TinyBackbone(), 2), PlainCam)
