"""Tests of ``dscnet.models.auxsegnet`` and of its objective."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dscnet.context import DualStreamContext
from dscnet.models import AuxSegNet, SegmentationPath, create_model
from dscnet.models.auxsegnet import dilations_at
from dscnet.objective import AuxSegObjective, CamObjective, ContrastObjective
from dscnet.training import parameter_groups
from dscnet.types import Batch
from tiny_backbone import TinyBackbone


def make(num_classes: int = 3, variant: str = "baseline", **options) -> AuxSegNet:
    torch.manual_seed(0)
    context = None
    if variant != "baseline":
        context = DualStreamContext(
            6, num_classes + 1, semantic=variant != "M1", fuse=variant == "M4", num_groups=3
        )
    return AuxSegNet(
        TinyBackbone(),
        num_classes,
        branch_channels=8,
        dilations=(1, 1, 1),
        context=context,
        **options,
    )


def make_batch(num_classes: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    tags = torch.zeros(4, num_classes)
    tags[0, 0] = tags[1, -1] = tags[2, 0] = tags[2, -1] = 1
    mask = torch.randint(0, num_classes + 1, (4, 16, 20), generator=generator)
    mask[0] = 255
    return Batch(
        torch.randn(4, 3, 16, 20, generator=generator),
        tags,
        list("abcd"),
        mask,
        torch.rand(4, 1, 16, 20, generator=generator),
    )


@pytest.mark.parametrize("num_classes", [1, 2, 20])
@pytest.mark.parametrize("training", [True, False])
def test_every_branch_has_its_shape(num_classes: int, training: bool) -> None:
    model, batch = make(num_classes).train(training), make_batch(num_classes)
    output = model(batch.image)
    assert output.cam_logits.shape == (4, num_classes + 1, 4, 5)
    for scores in (output.seg_initial, output.seg_logits):
        assert scores.shape == (4, num_classes + 1, 16, 20)
    for scores in (output.saliency_initial, output.saliency_logits):
        assert scores.shape == (4, 1, 16, 20)
    assert (output.cam_refined is None) == training


def test_refined_maps_are_the_cross_task_affinity_times_the_maps() -> None:
    model, image = make().eval(), make_batch().image
    output = model(image)
    segmentation, *seg_pair = model.segmentation(output.features)
    saliency, *sal_pair = model.saliency(output.features)
    queries, keys = (torch.stack(pair, 1) for pair in zip(seg_pair, sal_pair, strict=True))
    matrix = model.cross_task.matrix(queries, keys)

    def spread(maps: Tensor) -> Tensor:
        return torch.einsum("bij,bmj->bmi", matrix, maps.flatten(2)).view_as(maps)

    def enlarge(maps: Tensor) -> Tensor:
        return functional.interpolate(maps, (16, 20), mode="bilinear", align_corners=False)

    torch.testing.assert_close(output.seg_initial, enlarge(segmentation))
    torch.testing.assert_close(output.seg_logits, enlarge(spread(segmentation)))
    torch.testing.assert_close(output.saliency_logits, enlarge(spread(saliency)))
    cam = output.cam_logits.relu()
    cam[:, 0] = 0
    cam = cam / (cam.amax((2, 3), keepdim=True) + 1e-5)
    torch.testing.assert_close(output.cam_refined, spread(cam))
    maps = model.score_maps(image)
    torch.testing.assert_close(maps["refined"], output.cam_refined[:, 1:])
    torch.testing.assert_close(maps["cam"], output.cam_logits[:, 1:].relu())
    # Labels at the size of the photo, which maps do not need.
    assert model.one_view(image, maps_only=True).seg_logits is None


def test_a_fused_cam_is_what_the_affinity_refines() -> None:
    torch.manual_seed(0)
    model = make(variant="M4", smooth=0.5).eval()
    nn.init.normal_(model.context.classifier.weight)
    torch.manual_seed(0)
    output = model(make_batch().image)
    cam = output.final_logits.relu()
    assert not torch.equal(output.final_logits, output.cam_logits)
    cam[:, 0] = 0
    smoothed = output.context.smooth(cam / (cam.amax((2, 3), keepdim=True) + 1e-5), 0.5)
    segmentation, *seg = model.segmentation(output.features)
    _, *sal = model.saliency(output.features)
    queries, keys = (torch.stack(pair, 1) for pair in zip(seg, sal, strict=True))
    torch.testing.assert_close(output.cam_refined, model.cross_task(queries, keys, smoothed))


def test_norm_follows_every_convolution_of_a_branch() -> None:
    branch = make(branch_norm=True).segmentation.train()
    features = torch.randn(4, 6, 4, 5) * 50 + 30
    between = branch.before(features)
    late = branch.after[1](branch.after[0](between.relu()))
    for values in (branch.before[1](branch.before[0](features)), between, late):
        torch.testing.assert_close(values.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            values.var((0, 2, 3), correction=0), torch.ones(8), atol=1e-2, rtol=0
        )
    # Not of the batch once it is trained: a photo's scores do not depend on those beside it.
    branch.eval()
    torch.testing.assert_close(branch(features)[0][:1], branch(features[:1])[0])


def test_blocks_of_rows_change_nothing() -> None:
    image = make_batch().image
    one, two = (make(rows=rows).eval()(image) for rows in (3, 512))
    torch.testing.assert_close(one.seg_logits, two.seg_logits)


def test_the_segmentation_path_needs_no_tags_and_runs_no_context() -> None:
    model, image = make(variant="M4").eval(), make_batch().image
    path = SegmentationPath(model)
    assert path.output_stride == 4
    expected = model(image).seg_logits
    model.context = None
    torch.testing.assert_close(path(image).seg_logits, expected)


def test_the_path_can_average_the_scores_before_and_after_the_affinity() -> None:
    model, image = make().eval(), make_batch().image
    output = model(image)
    expected = (output.seg_initial + output.seg_logits) / 2
    assert not torch.allclose(expected, output.seg_logits)
    torch.testing.assert_close(SegmentationPath(model, averaged=True)(image).seg_logits, expected)
    _, saliency = model.dense_scores(image, averaged=True)
    assert saliency.shape == output.saliency_logits.shape and saliency.min() >= 0
    assert saliency.max() <= 1


def test_saliency_is_a_probability_before_it_is_enlarged() -> None:
    class Keep(nn.Module):
        """An affinity of every pixel with itself alone: a real one evens out these few scores."""

        def forward(self, queries: Tensor, keys: Tensor, maps: Tensor) -> Tensor:
            return maps

    model, image = make().eval(), make_batch().image
    model.cross_task = Keep()
    with torch.no_grad():
        model.saliency.classifier.weight.mul_(50)
        scores = model.saliency(model.backbone(image)[-1])[0]
        expected = functional.interpolate(scores.sigmoid(), image.shape[-2:], mode="bilinear")
        later = functional.interpolate(scores, image.shape[-2:], mode="bilinear").sigmoid()
        assert (later - expected).abs().max() > 0.1
        torch.testing.assert_close(model.dense_scores(image)[1], expected)


def test_cross_task_affinity_learns_at_the_rate_of_the_backbone() -> None:
    model = make()
    groups = parameter_groups(model, lr=1.0, new_lr_factor=10.0, weight_decay=0.1)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(model.cross_task.mix.weight)] == 1
    assert rates[id(model.cross_task.weigh.bias)] == 2
    assert rates[id(model.saliency.classifier.weight)] == 10
    assert rates[id(model.backbone.high.weight)] == 1


@pytest.mark.parametrize("variant", ["baseline", "M1", "M2", "M3", "M4"])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_every_variant_trains_on_it(variant: str, num_classes: int) -> None:
    """By the plug-in and the objective of the other CAM models; every part gets its gradient."""
    model, batch = make(num_classes, variant).train(), make_batch(num_classes)
    contrast = None
    if variant != "baseline":
        contrast = ContrastObjective(num_classes + 1, pgcl=variant != "M2", sgcl=variant != "M1")
    objective = AuxSegObjective(CamObjective(contrast))
    terms = objective(model(batch.image, batch.tags), batch, 1.0)
    expected = {"cls", "seg", "sal"}
    expected |= {"pgcl"} if variant in ("M1", "M3", "M4") else set()
    expected |= {"sgcl"} if variant in ("M2", "M3", "M4") else set()
    expected |= {"cls_plain"} if variant != "baseline" else set()
    assert set(terms.terms) == expected
    terms.total.backward()
    for part in (model.backbone, model.segmentation, model.saliency, model.cross_task):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert model.backbone.high.weight.grad.abs().max() > 0


def test_objective_sums_initial_and_refined() -> None:
    model, batch = make().train(), make_batch()
    output = model(batch.image)
    terms = AuxSegObjective(CamObjective())(output, batch).terms
    seg = sum(
        functional.cross_entropy(scores[1:], batch.mask[1:])
        for scores in (output.seg_initial, output.seg_logits)
    )
    target = (batch.saliency > 0.5).float()
    sal = sum(
        functional.binary_cross_entropy_with_logits(scores, target)
        for scores in (output.saliency_initial, output.saliency_logits)
    )
    torch.testing.assert_close(terms["seg"], seg)
    torch.testing.assert_close(terms["sal"], sal)


def test_objective_names_what_is_missing() -> None:
    model, batch = make(), make_batch()
    objective = AuxSegObjective(CamObjective())
    output = model(batch.image)
    bare = Batch(batch.image, batch.tags, batch.ids, batch.mask)
    with pytest.raises(ValueError, match="a batch with masks and saliency"):
        objective(output, bare)
    output.saliency_initial = None
    with pytest.raises(ValueError, match="initial and refined"):
        objective(output, batch)


def test_bfloat16_stays_finite() -> None:
    model, batch = make().train(), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        terms = AuxSegObjective(CamObjective())(model(batch.image, batch.tags), batch)
    terms.total.backward()
    assert terms.total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_dilations_follow_the_stride() -> None:
    assert [dilations_at(stride) for stride in (8, 16, 32)] == [(6, 12, 18), (3, 6, 9), (1, 3, 4)]


def test_registered() -> None:
    assert type(create_model("auxsegnet", TinyBackbone(), 2)) is AuxSegNet


def test_grid_pooling_pools_the_plain_cam_on_the_grid_too() -> None:
    model, batch = make(variant="M4", grid_pooling=True), make_batch()
    nn.init.normal_(model.context.classifier.weight)
    output = model(batch.image, batch.tags)
    terms = AuxSegObjective(CamObjective())(output, batch).terms
    expected = output.cam_logits[:, 1:].mean((2, 3))
    torch.testing.assert_close(
        terms["cls_plain"], functional.multilabel_soft_margin_loss(expected, batch.tags)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch.image, batch.tags)
    assert output.tag_logits.dtype == output.plain_tag_logits.dtype == torch.float32


def test_grid_pooling_scores_tags_by_the_mean_over_the_grid() -> None:
    model, batch = make(grid_pooling=True), make_batch()
    output = model(batch.image)
    expected = output.final_logits[:, 1:].mean((2, 3))
    torch.testing.assert_close(output.tag_logits, expected)
    torch.testing.assert_close(model.tag_logits(output, (16, 20)), expected)
    loss = AuxSegObjective(CamObjective())(output, batch).terms["cls"]
    torch.testing.assert_close(loss, functional.multilabel_soft_margin_loss(expected, batch.tags))
    assert make().one_view(batch.image).tag_logits is None
