from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dscnet.context import DualStreamContext
from dscnet.losses import pooled_logits, tag_loss
from dscnet.models import PlainCam, Seam
from dscnet.objective import CamObjective, ContrastObjective, SegmentationObjective
from dscnet.types import Batch, LossTerms, ModelOutput


class TinyBackbone(nn.Module):
    channels = (4, 6, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleList(
            [nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 1, 1)]
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for conv in self.conv:
            image = conv(image).relu()
            maps.append(image)
        return tuple(maps)


def make(variant: str, *, seam: bool = True, num_classes: int = 3, pool_sharpness=3.0, **options):
    torch.manual_seed(0)
    backbone = TinyBackbone()
    context = None
    if variant != "baseline":
        semantic = variant != "M1"
        context = DualStreamContext(
            8,
            num_classes + 1,
            semantic=semantic,
            fuse=variant == "M4",
            embedding_dim=5,
            pool_sharpness=pool_sharpness,
            memory_size=4,
        )
    model = (
        Seam(backbone, num_classes, view_scale=0.5, context=context)
        if seam
        else PlainCam(backbone, num_classes, context=context)
    )
    contrast = None
    if variant != "baseline":
        contrast = ContrastObjective(
            num_classes + 1,
            pgcl=variant in ("M1", "M3", "M4"),
            sgcl=variant in ("M2", "M3", "M4"),
            **options,
        )
    objective = CamObjective(contrast)
    return model.train(), objective.train()


def make_batch(num_classes: int = 3, size: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(1)
    tags = torch.zeros(4, num_classes)
    tags[0, 0] = tags[1, -1] = tags[2, 0] = tags[2, -1] = 1
    return Batch(torch.randn(4, 3, size, size, generator=generator), tags, list("abcd"))


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("baseline", {"cls", "min", "er", "ecr"}),
        ("M1", {"cls", "cls_plain", "min", "er", "ecr", "pgcl"}),
        ("M2", {"cls", "cls_plain", "min", "er", "ecr", "sgcl"}),
        ("M3", {"cls", "cls_plain", "min", "er", "ecr", "pgcl", "sgcl"}),
        ("M4", {"cls", "cls_plain", "min", "er", "ecr", "pgcl", "sgcl"}),
    ],
)
def test_each_variant_has_its_terms(variant, names):
    model, objective = make(variant)
    batch = make_batch()
    terms = objective(model(batch.image, batch.tags), batch, 1.0)
    assert set(terms.terms) == names
    assert all(torch.isfinite(term) for term in terms.terms.values())
    terms.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_total_is_eq_13():
    model, objective = make("M4", pgcl_weight=0.6, sgcl_weight=0.4)
    batch = make_batch()
    terms = objective(model(batch.image, batch.tags), batch, 1.0)
    t = {name: value.item() for name, value in terms.terms.items()}
    expected = (
        t["cls"]
        + 0.4 * t["cls_plain"]
        + t["min"]
        + t["er"]
        + t["ecr"]
        + 0.6 * t["pgcl"]
        + 0.4 * t["sgcl"]
    )
    assert terms.total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("variant", ["M3", "M4"])
def test_tags_are_scored_by_groups_and_the_plain_cam_by_its_mean(variant):
    model, objective = make(variant)
    batch = make_batch()
    output = model(batch.image, batch.tags)
    terms = objective(output, batch, 1.0).terms
    grouped, plain = [], []
    for view in (output, output.second):
        grouped.append(tag_loss(view.context.tag_logits, batch.tags))
        plain.append(tag_loss(pooled_logits(view.cam_logits, view.size), batch.tags))
    torch.testing.assert_close(terms["cls"], sum(grouped) / 2)
    torch.testing.assert_close(terms["cls_plain"], sum(plain) / 2)
    assert terms["cls"].item() != pytest.approx(terms["cls_plain"].item(), abs=1e-4)


def test_without_sharpness_the_mean_of_the_final_cam_scores_the_tags():
    model, objective = make("M4", pool_sharpness=0.0)
    batch = make_batch()
    output = model(batch.image, batch.tags)
    views = (output, output.second)
    expected = sum(tag_loss(pooled_logits(v.final_logits, v.size), batch.tags) for v in views) / 2
    torch.testing.assert_close(objective(output, batch, 1.0).terms["cls"], expected)
    model, objective = make("M3", pool_sharpness=0.0)
    assert "cls_plain" not in objective(model(batch.image, batch.tags), batch, 1.0).terms


@pytest.mark.parametrize("variant", ["M1", "M4"])
def test_the_groups_take_over_from_the_mean_of_the_final_cam(variant):
    model, _ = make(variant)
    batch = make_batch()
    output = model(batch.image, batch.tags)
    views = (output, output.second)
    groups = [view.context.tag_logits for view in views]
    means = [pooled_logits(view.final_logits, view.size) for view in views]
    objective = CamObjective(pool_ramp=0.4)
    for progress, share in ((0.0, 0.0), (0.1, 0.25), (0.3, 0.75), (0.4, 1.0), (1.0, 1.0)):
        mixed = [share * g + (1 - share) * m for g, m in zip(groups, means, strict=True)]
        expected = sum(tag_loss(scores, batch.tags) for scores in mixed) / 2
        torch.testing.assert_close(objective(output, batch, progress).terms["cls"], expected)
    at_once = CamObjective(pool_ramp=0)(output, batch, 0.0).terms["cls"]
    torch.testing.assert_close(at_once, sum(tag_loss(g, batch.tags) for g in groups) / 2)


@pytest.mark.parametrize("ramp", [-0.1, 1.1])
def test_a_ramp_outside_training_is_refused(ramp):
    with pytest.raises(ValueError, match="pool_ramp"):
        CamObjective(pool_ramp=ramp)


def test_plain_cam_has_no_seam_terms():
    model, objective = make("M4", seam=False)
    batch = make_batch()
    assert set(objective(model(batch.image, batch.tags), batch, 1.0).terms) == {
        "cls",
        "cls_plain",
        "pgcl",
        "sgcl",
    }


def test_contrast_waits_for_the_warm_up():
    model, objective = make("M3", warmup=0.5)
    batch = make_batch()
    output = model(batch.image, batch.tags)
    early = objective(output, batch, 0.49)
    assert early.terms["pgcl"].item() == early.terms["sgcl"].item() == 0
    assert len(model.context.memory.contents()[1]) == 0
    late = objective(output, batch, 0.5)
    assert late.terms["sgcl"].item() > 0
    assert len(model.context.memory.contents()[1]) > 0


def test_memory_fills_in_training_only():
    model, objective = make("M1")
    batch = make_batch()
    output = model(batch.image, batch.tags)
    objective.eval()
    objective(output, batch, 1.0)
    assert len(model.context.memory.contents()[1]) == 0


def test_a_photo_finds_its_positive_in_its_other_view():
    """One photo, two views, no memory: without the second view there is no positive and no term."""
    torch.manual_seed(0)
    context = DualStreamContext(8, 3, semantic=False, fuse=False, embedding_dim=5, memory_size=0)
    objective = ContrastObjective(3, sgcl=False)
    features, cam = torch.randn(1, 8, 1, 1).repeat(1, 1, 4, 4), torch.zeros(1, 3, 4, 4)
    features[..., 2:] = -features[..., 2:]
    cam[:, 1, :, :2] = 1.0
    tags = torch.tensor([[1.0, 0.0]])
    view = context(features, cam, tags)
    assert objective([view], [cam], tags).terms["pgcl"].item() == 0
    assert objective([view, view], [cam, cam], tags).terms["pgcl"].item() > 0


def test_pixel_contrast_takes_the_place_of_the_groups():
    model, objective = make("M3", contrast="pixels")
    batch = make_batch()
    terms = objective(model(batch.image, batch.tags), batch, 1.0)
    assert terms.terms["pgcl"].item() > 0
    assert len(model.context.memory.contents()[1]) == 0


def test_contrast_reaches_the_backbone():
    model, objective = make("M3")
    batch = make_batch()
    terms = objective(model(batch.image, batch.tags), batch, 1.0)
    for name in ("pgcl", "sgcl"):
        (gradient,) = torch.autograd.grad(
            terms.terms[name], [model.backbone.conv[2].weight], retain_graph=True
        )
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("num_classes", [1, 2, 20])
def test_any_number_of_classes(num_classes):
    model, objective = make("M4", num_classes=num_classes)
    batch = make_batch(num_classes)
    assert torch.isfinite(objective(model(batch.image, batch.tags), batch, 1.0).total)


def test_photos_without_tags_give_finite_losses():
    model, objective = make("M4")
    batch = make_batch()
    batch.tags.zero_()
    terms = objective(model(batch.image, batch.tags), batch, 1.0)
    assert {"cls", "cls_plain", "pgcl", "sgcl"} < set(terms.terms)
    assert all(torch.isfinite(term) for term in terms.terms.values())
    terms.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_argument_errors():
    with pytest.raises(ValueError, match="warmup"):
        ContrastObjective(3, warmup=1.0)
    with pytest.raises(ValueError, match="progress must be given with a warm-up, here 0.2"):
        ContrastObjective(3, warmup=0.2)([], [], torch.zeros(1, 2))
    with pytest.raises(ValueError, match="contrast"):
        ContrastObjective(3, contrast="images")
    with pytest.raises(ValueError, match="no term"):
        _ = LossTerms({}).total


def test_segmentation_loss_is_the_mean_over_counted_pixels():
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, 1, 0, 0] = 2.0
    mask = torch.tensor([[[1, 0, 255]]])
    loss = SegmentationObjective()(
        ModelOutput(seg_logits=logits),
        Batch(torch.zeros(1, 3, 1, 3), torch.zeros(1, 1), ["a"], mask),
    )
    by_hand = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log(torch.tensor(2.0))) / 2
    assert loss.terms["seg"].item() == pytest.approx(float(by_hand), abs=1e-6)


def test_segmentation_loss_of_nothing_is_zero():
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    mask = torch.full((1, 2, 2), 255)
    loss = SegmentationObjective()(
        ModelOutput(seg_logits=logits),
        Batch(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1), ["a"], mask),
    ).total
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
