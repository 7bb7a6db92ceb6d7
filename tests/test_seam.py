from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dscnet.losses import equivariance_losses, min_pool_loss, pooled_logits, tag_loss
from dscnet.models import PlainCam, Seam, create_model, view_size
from dscnet.numerics import resize
from tiny_backbone import TinyBackbone


class Negating(nn.Module):
    """A context that fuses by changing the sign of the CAM."""

    fuse = True

    def forward(self, features: Tensor, cam_logits: Tensor, *_, **__) -> SimpleNamespace:
        return SimpleNamespace(cam_logits=-cam_logits)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def test_view_size_rounds_down_as_published() -> None:
    assert view_size((448, 448), 0.3) == (134, 134)
    assert view_size((224, 333), 0.5) == (112, 166)
    assert view_size((2, 100), 0.3) == (1, 30)


def test_training_has_a_second_view_of_the_resized_photo(image: Tensor) -> None:
    model = Seam(TinyBackbone(), 3, view_scale=0.5, dropout=0.0).train()
    output = model(image)
    assert output.cam_refined is not None and output.second is not None
    assert output.cam_logits.shape == output.cam_refined.shape == (2, 4, 6, 8)
    expected = model.one_view(resize(image, (12, 16)))
    assert output.second.cam_logits.shape == (2, 4, 3, 4)
    torch.testing.assert_close(output.second.cam_logits, expected.cam_logits)
    torch.testing.assert_close(output.second.cam_refined, expected.cam_refined)
    assert output.second.second is None


def test_inference_has_one_view(image: Tensor) -> None:
    output = Seam(TinyBackbone(), 3).eval()(image)
    assert output.second is None and output.cam_refined is not None


def test_refined_cam_is_a_weighting_of_labels(image: Tensor) -> None:
    refined = Seam(TinyBackbone(), 3).eval()(image).cam_refined
    assert refined.min() >= 0 and refined.max() <= 1
    torch.testing.assert_close(refined.sum(1), torch.ones(2, 6, 8), atol=2e-3, rtol=0)


def test_refinement_reads_the_fused_cam(image: Tensor) -> None:
    model = Seam(TinyBackbone(), 3, context=Negating()).eval()
    output = model(image)
    low, mid, _ = model.backbone(image)
    expected = model.pixel_correlation(-output.cam_logits, image, low, mid)
    assert torch.equal(output.cam_refined, expected)


def test_refined_cam_gives_no_gradient_to_backbone_and_classifier(image: Tensor) -> None:
    model = Seam(TinyBackbone(), 3)
    output = model(image)
    (output.cam_refined.square().sum() + output.second.cam_refined.square().sum()).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.classifier.weight.grad is None
    assert all(p.grad is not None and p.grad.any() for p in model.pixel_correlation.parameters())


@pytest.mark.parametrize("num_classes", [1, 20, 80])
@pytest.mark.parametrize("tagged", [True, False])
def test_a_whole_step_trains_every_parameter(image: Tensor, num_classes: int, tagged: bool) -> None:
    model = Seam(TinyBackbone(), num_classes, view_scale=0.5)
    tags = torch.full((2, num_classes), float(tagged))
    one = model(image, tags)
    two, size1, size2 = one.second, one.size, one.second.size
    assert (size1, size2) == ((24, 32), (12, 16))
    er, ecr = equivariance_losses(
        one.cam_logits, one.cam_refined, two.cam_logits, two.cam_refined, tags, size1, size2
    )
    loss = er + ecr
    for view, size in ((one, size1), (two, size2)):
        loss = loss + tag_loss(pooled_logits(view.cam_logits, size), tags) / 2
        loss = loss + min_pool_loss(view.cam_refined, tags, size) / 2
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_score_maps_hold_both_cams_in_training_and_inference(image: Tensor) -> None:
    model = Seam(TinyBackbone(), 3, dropout=0.0).eval()
    maps, output = model.score_maps(image, torch.ones(2, 3)), model(image)
    assert torch.equal(maps["cam"], output.cam_logits[:, 1:].relu())
    assert torch.equal(maps["refined"], output.cam_refined[:, 1:])
    assert torch.equal(model.train().score_maps(image)["refined"], maps["refined"])


def test_autocast_is_finite(image: Tensor) -> None:
    model = Seam(TinyBackbone(), 3, view_scale=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(image)
    assert output.cam_refined.isfinite().all() and output.second.cam_refined.isfinite().all()


def test_view_scale_must_be_positive() -> None:
    with pytest.raises(ValueError, match="view_scale must be positive, got 0"):
        Seam(TinyBackbone(), 3, view_scale=0)


def test_registry_builds_seam() -> None:
    model = create_model("seam", TinyBackbone(), 2, view_scale=0.4)
    assert isinstance(model, Seam) and isinstance(model, PlainCam) and model.view_scale == 0.4
