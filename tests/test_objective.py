from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor, nn

from dscnet.config import MethodConfig
from dscnet.context import (
    DualStreamContext,
    group_categories,
    normalise_cam,
    present_labels,
    pseudo_labels,
)
from dscnet.losses import pooled_logits, tag_loss
from dscnet.losses.contrastive import (
    group_contrast,
    pixel_contrast,
    semantic_contrast,
    soft_targets,
)
from dscnet.losses.equivariance import equivariance_losses, min_pool_loss
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
    usual, half = (one(output, batch, 0.3) for one in (CamObjective(), CamObjective(pool_ramp=0.5)))
    assert usual.terms["cls"] == half.terms["cls"]
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


OPTIONS = {
    "pgcl_weight": 0.6,
    "sgcl_weight": 0.45,
    "temperature": 0.35,
    "bg_score": 0.6,
    "group_rule": "majority",
    "group_margin": 0.2,
    "hard_targets": True,
    "warmup": 0.2,
}
"""Every option of the contrasts away from its default, but for what is contrasted."""


def make_composed(contrast: str):
    """SEAM with all of DSCNet, P~ unlike P, and a memory that already holds groups."""
    torch.manual_seed(0)
    context = DualStreamContext(
        8,
        4,
        semantic=True,
        fuse=True,
        zero_init=False,
        embedding_dim=5,
        num_groups=None,
        temperature=0.3,
        pool_sharpness=3.0,
        memory_size=8,
    )
    model = Seam(TinyBackbone(), 3, view_scale=0.5, context=context).train()
    context.memory.push(torch.randn(8, 5), torch.arange(8) % 4)
    contrasts = ContrastObjective(4, contrast=contrast, **OPTIONS)
    return model, CamObjective(contrasts, plain_weight=0.7, pool_ramp=0.8).train()


def composed_contrasts(views, tags: Tensor, contrast: str, memory):
    """PGCL and SGCL of two views from the public parts, and the groups' categories."""
    cams = [normalise_cam(view.final_logits, tags, OPTIONS["bg_score"]) for view in views]
    labels = [pseudo_labels(cam).flatten(1) for cam in cams]
    contexts = [view.context for view in views]
    rule, margin = OPTIONS["group_rule"], OPTIONS["group_margin"]
    categories = [
        group_categories(cam, context.groups, present_labels(tags), rule=rule, margin=margin)
        for cam, context in zip(cams, contexts, strict=True)
    ]
    if contrast == "pixels":
        pixels = torch.cat([context.embeddings for context in contexts], 1)
        pgcl = pixel_contrast(pixels, torch.cat(labels, 1), temperature=OPTIONS["temperature"])
    else:
        sources = [
            torch.tensor([[view * len(tags) + photo] * categories[view].shape[1]])
            for view in range(2)
            for photo in range(len(tags))
        ]
        pgcl = group_contrast(
            torch.cat([context.group_embeddings.flatten(0, 1) for context in contexts]),
            torch.cat([category.flatten() for category in categories]),
            torch.cat([source.flatten() for source in sources]),
            temperature=OPTIONS["temperature"],
            memory=memory,
        )
    sgcl = [
        semantic_contrast(
            context.semantic_logits, soft_targets(label, context.groups, 4, hard=True)
        )
        for context, label in zip(contexts, labels, strict=True)
    ]
    return pgcl, sum(sgcl) / 2, categories


@pytest.mark.parametrize("contrast", ["groups", "pixels"])
def test_every_term_is_composed_of_the_public_parts(contrast):
    model, objective = make_composed(contrast)
    batch = make_batch()
    batch.image = torch.cat([batch.image, batch.image[..., :8].flip(3)], 3)  # not square
    memory = copy.deepcopy(model.context.memory)
    output = model(batch.image, batch.tags)
    views, sizes = (output, output.second), ((32, 40), (16, 20))
    assert (output.final_logits - output.cam_logits).abs().max() > 0.1
    loss = objective(output, batch, 0.5)

    def tag_losses(scores):
        return sum(tag_loss(score, batch.tags) for score in scores) / 2

    # 0.5 of the training is 0.625 of the ramp.
    final = [
        0.625 * view.context.tag_logits + 0.375 * pooled_logits(view.final_logits, size)
        for view, size in zip(views, sizes, strict=True)
    ]
    plain = [pooled_logits(view.cam_logits, size) for view, size in zip(views, sizes, strict=True)]
    maps = [part for view in views for part in (view.final_logits, view.cam_refined)]
    er, ecr = equivariance_losses(*maps, batch.tags, *sizes)
    weakest = [
        min_pool_loss(view.cam_refined, batch.tags, size)
        for view, size in zip(views, sizes, strict=True)
    ]
    pgcl, sgcl, categories = composed_contrasts(views, batch.tags, contrast, memory.contents())
    expected = {
        "cls": tag_losses(final),
        "cls_plain": tag_losses(plain),
        "min": sum(weakest) / 2,
        "er": er,
        "ecr": ecr,
        "pgcl": pgcl,
        "sgcl": sgcl,
    }
    assert set(loss.terms) == set(expected)
    for name, value in expected.items():
        assert value > 0.01, name
        torch.testing.assert_close(loss.terms[name], value, msg=lambda text, n=name: f"{n}: {text}")
    weights = {"cls_plain": 0.7, "pgcl": 0.6, "sgcl": 0.45}
    total = sum(weights.get(name, 1.0) * value for name, value in expected.items())
    torch.testing.assert_close(loss.total, total)

    if contrast == "groups":
        unknown = [
            category[view.context.groups.valid] == -1
            for category, view in zip(categories, views, strict=True)
        ]
        assert torch.cat(unknown).any() and not torch.cat(unknown).all()
        for category, view in zip(categories, views, strict=True):
            assert not view.context.groups.valid.all()
            known = category >= 0
            memory.push(view.context.group_embeddings[known], category[known])
    for held, wanted in zip(model.context.memory.contents(), memory.contents(), strict=True):
        torch.testing.assert_close(held, wanted)


@pytest.mark.parametrize("kind", [ContrastObjective, CamObjective])
def test_defaults_are_those_of_the_settings(kind):
    usual = MethodConfig()
    parameters = inspect.signature(kind).parameters
    shared = {name for name in parameters if hasattr(usual, name)} - {"contrast"}
    assert len(shared) >= 2
    # Whoever builds it alone gets the contrasts from the first step on.
    for name in shared - {"warmup"}:
        assert parameters[name].default == getattr(usual, name), name
