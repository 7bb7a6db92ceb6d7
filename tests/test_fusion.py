"""The dual-stream module: its product against loops, its gradients, and what tags may not do."""

from __future__ import annotations

import inspect
import math
from itertools import product

import pytest
import torch

from dscnet.config import MethodConfig
from dscnet.config.legacy import REMOVED
from dscnet.context import (
    ContextOutput,
    DualStreamContext,
    PixelGroups,
    group_mean,
    group_pixels,
    normalise_cam,
    normalise_rows,
    present_labels,
)
from dscnet.context.output import LEAST
from dscnet.context.pixel_groups import pool_groups


def make_context(**options):
    torch.manual_seed(11)
    options = {
        "semantic": True,
        "fuse": True,
        "embedding_dim": 5,
        "node_dim": 7,
        "zero_init": False,
        "head": "own",
        "starts": "cam",
        "num_groups": None,
    } | options
    return DualStreamContext(6, 4, **options)


def make_inputs(generator, batch=2, size=4):
    features = torch.randn(batch, 6, size, size, generator=generator)
    cam_logits = torch.randn(batch, 4, size, size, generator=generator)
    return features, cam_logits, torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])[:batch]


def pearson(x, y):
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    cov = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    var_x = sum((a - mean_x) ** 2 for a in x)
    var_y = sum((b - mean_y) ** 2 for b in y)
    return cov / math.sqrt(var_x * var_y)


def unit_pearson(x):
    """Centred to mean zero and scaled to length one, on a list."""
    mean = sum(x) / len(x)
    length = math.sqrt(sum((a - mean) ** 2 for a in x))
    return [(a - mean) / length for a in x]


def norm(row, row_norm, temperature):
    if row_norm == "l1":
        positive = [max(a, 0.0) for a in row]
        return [a / (sum(positive) or 1.0) for a in positive]
    exponents = [math.exp(a / temperature) for a in row]
    return [e / sum(exponents) for e in exponents]


@pytest.mark.parametrize("row_norm", ["softmax", "l1"])
@pytest.mark.parametrize("fusion", ["groups", "categories"])
def test_refined_cam_against_loops(fusion, row_norm, generator):
    context = make_context(fusion=fusion, row_norm=row_norm, temperature=0.3).double()
    features, cam_logits, tags = make_inputs(generator)
    features = features.double()
    output = context(features, cam_logits.double(), tags)
    groups = output.groups
    assert groups.valid.sum(1).tolist() == [3, 2]

    pixels = features.flatten(2).mT
    relations = context.graph(group_mean(pixels, groups), groups.valid)
    nodes = relations.nodes if fusion == "groups" else relations.category_nodes
    values = (nodes @ context.expand.weight.mT + context.expand.bias).detach()
    weight = context.classifier.weight[:, :, 0, 0].tolist()
    for b in range(2):
        z = [unit_pearson(pixel) for pixel in pixels[b].tolist()]
        exists = [k for k in range(groups.num_groups) if groups.valid[b, k]]
        means = []
        for k in exists:
            members = [z[n] for n in range(16) if int(groups.ids[b, n]) == k]
            means.append([sum(column) / len(members) for column in zip(*members, strict=True)])
        for n, pixel in enumerate(pixels[b].tolist()):
            pixel_to_group = norm([pearson(pixel, m) for m in means], row_norm, 0.3)
            enriched = [0.0] * 6
            for share, k in zip(pixel_to_group, exists, strict=True):
                if fusion == "groups":
                    value = values[b, k].tolist()
                else:
                    scores = [math.exp(s) for s in relations.logits[b, k].tolist()]
                    value = [
                        sum(s / sum(scores) * values[c, d].item() for c, s in enumerate(scores))
                        for d in range(6)
                    ]
                enriched = [e + share * v for e, v in zip(enriched, value, strict=True)]
            for label in range(4):
                expected = sum(w * x for w, x in zip(weight[label], pixel + enriched, strict=True))
                assert output.cam_logits[b, label, n // 4, n % 4].item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 8, 8)])
def test_a_guide_decides_what_pixels_are_compared_by(shape, generator):
    context = make_context()
    features, cam_logits, tags = make_inputs(generator)
    # Left and right halves: nothing that the features show.
    guide = torch.randn(*shape[:2], 1, 1, generator=generator).expand(shape).clone()
    half = shape[3] // 2
    guide[..., half:] = torch.randn(*shape[:2], 1, 1, generator=generator)
    guide.requires_grad_()
    tags = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    output = context(features, cam_logits, tags, guide=guide)
    columns = output.groups.ids.view(2, 4, 4)
    assert (columns[..., :1] == columns[..., :2]).all() and (
        columns[..., 2:3] == columns[..., 2:]
    ).all()
    assert (columns[..., 0] != columns[..., 3]).all()
    output.cam_logits.sum().backward()
    assert guide.grad is None, "the guide steers, it is not trained through"
    same = context(features, cam_logits, tags, guide=features)
    torch.testing.assert_close(same.cam_logits, context(features, cam_logits, tags).cam_logits)


def test_a_shared_head_adds_to_the_plain_cam(generator):
    context = make_context(head="shared")
    features, cam_logits, tags = make_inputs(generator)
    assert context.classifier.weight.shape == (4, 6, 1, 1)
    own = make_context(head="own")
    own.load_state_dict(
        context.state_dict()
        | {"classifier.weight": torch.cat([torch.zeros(4, 6, 1, 1), context.classifier.weight], 1)}
    )
    added = own(features, cam_logits, tags).cam_logits
    assert added.abs().max() > 0
    torch.testing.assert_close(context(features, cam_logits, tags).cam_logits, cam_logits + added)
    start = make_context(head="shared", zero_init=True)
    assert torch.equal(start(features, cam_logits, tags).cam_logits, cam_logits)


def test_smoothing_gives_a_share_of_the_groups_means(generator):
    output = make_context()(*make_inputs(generator))
    maps = torch.rand(2, 5, 4, 4, generator=generator)
    smoothed = output.smooth(maps, 0.25)
    for b in range(2):
        ids = output.groups.ids[b].tolist()
        for label in range(5):
            values = maps[b, label].flatten().tolist()
            means = []
            for k in range(output.groups.num_groups):
                members = [v for v, i in zip(values, ids, strict=True) if i == k]
                means.append(sum(members) / max(1, len(members)))
            for n, value in enumerate(values):
                pointed = sum(
                    w * m for w, m in zip(output.pixel_to_group[b, n].tolist(), means, strict=True)
                )
                expected = 0.75 * value + 0.25 * pointed
                assert smoothed[b, label, n // 4, n % 4].item() == pytest.approx(expected, abs=1e-6)
    assert output.smooth(maps, 0.0) is maps
    torch.testing.assert_close(output.smooth(torch.ones_like(maps), 1.0), torch.ones_like(maps))


def test_smoothing_needs_the_fusion(generator):
    output = make_context(fuse=False)(*make_inputs(generator))
    with pytest.raises(ValueError, match="fuse=True"):
        output.smooth(torch.rand(2, 5, 4, 4), 0.5)


def fitted_context(generator):
    context = make_context().eval()
    pixels = torch.nn.functional.normalize(torch.randn(20, 5, generator=generator), dim=-1)
    context.lda.add(pixels, torch.arange(20) % 4)
    return context


def test_weighing_is_a_geometric_mean(generator):
    output = fitted_context(generator)(*make_inputs(generator))
    maps = 0.3 + 0.2 * torch.rand(2, 4, 4, 4, generator=generator)
    weighed = output.weigh(maps, 0.25)
    class_similarity = output.class_similarity
    for b, label, y, x in product(range(2), range(4), range(4), range(4)):
        low, high = maps[b, label].min().item(), maps[b, label].max().item()
        score = max((maps[b, label, y, x].item() - low) / (high - low), LEAST)
        likely = max(class_similarity[b, label, y, x].item(), LEAST)
        expected = math.exp(0.75 * math.log(score) + 0.25 * math.log(likely))
        assert weighed[b, label, y, x].item() == pytest.approx(expected, abs=1e-5)
    assert output.weigh(maps, 0.0) is maps
    assert weighed.min() >= 0
    assert weighed.max() <= 1


def test_likeness_is_of_the_photos_labels_and_of_inference_alone(generator):
    context, inputs = fitted_context(generator), make_inputs(generator)
    class_similarity = context(*inputs).class_similarity
    torch.testing.assert_close(class_similarity.sum(1), torch.ones(2, 4, 4))
    assert class_similarity[0, 2].eq(0).all(), "the first photo does not show it"
    assert context.train()(*inputs).class_similarity is None
    unfitted = make_context().eval()(*inputs)
    maps = torch.rand(2, 4, 4, 4, generator=generator)
    assert unfitted.class_similarity is None
    assert unfitted.weigh(maps, 0.5) is maps


def test_weighing_needs_maps_of_all_labels_and_the_same_pixels(generator):
    output = fitted_context(generator)(*make_inputs(generator))
    for shape in ((2, 3, 4, 4), (2, 1, 4, 4), (2, 4, 8, 8)):
        with pytest.raises(ValueError) as error:
            output.weigh(torch.rand(shape, generator=generator), 0.5)
        assert "(2, 4, 4, 4)" in str(error.value) and str(shape) in str(error.value)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_are_from_0_to_1(share, generator):
    output = make_context()(*make_inputs(generator))
    for change in (output.smooth, output.weigh):
        with pytest.raises(ValueError, match="share must be in"):
            change(torch.rand(2, 4, 4, 4), share)


def test_smoothing_is_in_full_precision_under_autocast(generator):
    context = make_context(fuse=True)
    output = context(*make_inputs(generator))
    maps = torch.rand(2, 4, 4, 4, generator=generator)
    expected = output.smooth(maps, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(output.smooth(maps, 0.5), expected)


def test_embeddings_against_loops(generator):
    context = make_context().double()
    features, cam_logits, tags = make_inputs(generator)
    output = context(features.double(), cam_logits.double(), tags)
    weight = context.projection.weight[:, :, 0, 0].tolist()
    for b in range(2):
        rows = []
        for pixel in features[b].flatten(1).mT.tolist():
            row = [sum(w * x for w, x in zip(line, pixel, strict=True)) for line in weight]
            length = math.sqrt(sum(v * v for v in row))
            rows.append([v / length for v in row])
        torch.testing.assert_close(output.embeddings[b].tolist(), rows)
        for k in range(output.groups.num_groups):
            members = [rows[n] for n in range(16) if int(output.groups.ids[b, n]) == k]
            total = [sum(column) for column in zip(*members, strict=True)] or [0.0] * 5
            length = math.sqrt(sum(v * v for v in total)) or 1.0
            expected = [v / length for v in total]
            assert output.group_embeddings[b, k].tolist() == pytest.approx(expected)


def test_norm_by_hand():
    context = torch.tensor([[[0.2, -0.4, 0.9], [-0.1, -0.2, 0.5]]])
    valid = torch.tensor([[True, True, False]])
    soft = normalise_rows(context, valid, "softmax", 0.2)
    first = 1 / (1 + math.exp(-3))
    torch.testing.assert_close(soft[0, 0], torch.tensor([first, 1 - first, 0.0]))
    assert normalise_rows(context, valid, "l1", 0.2)[0].tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("fusion", ["groups", "categories"])
def test_zero_init_starts_as_a_plain_cam(fusion, generator):
    context = make_context(zero_init=True, fusion=fusion)
    features, cam_logits, tags = make_inputs(generator)
    output = context(features, cam_logits, tags)
    plain = torch.nn.functional.conv2d(features, context.classifier.weight[:, :6])
    assert plain.abs().max() > 0
    torch.testing.assert_close(output.cam_logits, plain)
    # The half that starts at zero still learns.
    output.cam_logits.square().sum().backward()
    assert context.classifier.weight.grad[:, 6:].abs().sum() > 0


def test_gradient_reaches_everything_that_makes_the_refined_cam(generator):
    for fusion in ("groups", "categories"):
        context = make_context(fusion=fusion)
        features, cam_logits, tags = make_inputs(generator)
        features.requires_grad_()
        cam_logits.requires_grad_()
        context(features, cam_logits, tags).cam_logits.square().sum().backward()
        assert features.grad.abs().sum() > 0
        assert cam_logits.grad is None
        for name, parameter in context.named_parameters():
            if name != "projection.weight":
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert context.projection.weight.grad is None


def test_gradient_reaches_the_features_through_the_context_alone(generator):
    context = make_context()
    with torch.no_grad():
        context.classifier.weight[:, :6] = 0
    features, cam_logits, tags = make_inputs(generator)
    features.requires_grad_()
    context(features, cam_logits, tags).cam_logits.square().sum().backward()
    assert features.grad.abs().sum() > 0


def test_contrast_can_reach_the_features(generator):
    context = make_context(semantic=False, fuse=False)
    features, cam_logits, tags = make_inputs(generator)
    features.requires_grad_()
    context(features, cam_logits, tags).group_embeddings[..., 0].sum().backward()
    assert features.grad.abs().sum() > 0
    assert context.projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("fusion", ["groups", "categories"])
@pytest.mark.parametrize("num_groups", [3, None])
def test_tags_reach_the_refined_cam_only_by_their_number(fusion, num_groups, generator):
    """Other tags, as many of them: with random starts the refined CAM must be the same."""
    context = make_context(fusion=fusion, starts="kmeans++", num_groups=num_groups)
    features, cam_logits, tags = make_inputs(generator)
    outputs = [
        context(features, cam_logits, t, generator=torch.Generator().manual_seed(4))
        for t in (tags, tags.roll(1, dims=1), tags.roll(2, dims=1))
    ]
    for other in outputs[1:]:
        assert torch.equal(outputs[0].groups.ids, other.groups.ids)
        assert torch.equal(outputs[0].semantic_logits, other.semantic_logits)
        assert torch.equal(outputs[0].cam_logits, other.cam_logits)


def test_given_the_groups_the_refined_cam_does_not_know_the_tags(generator, monkeypatch):
    """With CAM-guided starts too, nothing but the partition depends on the tags."""
    ids = torch.randint(0, 3, (2, 16), generator=generator)
    monkeypatch.setattr(
        "dscnet.context.fusion.group_pixels", lambda *args, **kwargs: PixelGroups(ids, 3)
    )
    context = make_context()
    features, cam_logits, tags = make_inputs(generator)
    first, second = (context(features, cam_logits, t) for t in (tags, torch.ones(2, 3)))
    assert torch.equal(first.cam_logits, second.cam_logits)


def test_without_tags_the_groups_are_those_that_the_cam_predicts(generator):
    context = make_context()
    features, cam_logits, _ = make_inputs(generator)
    cam_logits = cam_logits.abs()
    cam_logits[0, 1] *= -1
    cam_logits[1, 1:] *= -1
    output = context(features, cam_logits)
    assert output.groups.valid.sum(1).tolist() == [3, 1]
    given = context(features, cam_logits, torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert torch.equal(output.cam_logits, given.cam_logits)


def test_streams_that_are_off_are_not_built(generator):
    inputs = make_inputs(generator)
    neither = make_context(semantic=False, fuse=False)
    assert [name for name, _ in neither.named_parameters()] == ["projection.weight"]
    output = neither(*inputs)
    assert output.semantic_logits is None and output.cam_logits is None
    semantic = make_context(fuse=False)
    assert semantic.expand is None and semantic.classifier is None
    output = semantic(*inputs)
    assert output.semantic_logits.shape == (2, 3, 4) and output.cam_logits is None
    assert make_context().fuse and not semantic.fuse


@pytest.mark.parametrize("starts", ["cam", "kmeans++"])
@pytest.mark.parametrize("grouping", ["pearson", "context_rows"])
@pytest.mark.parametrize("fusion", ["groups", "categories"])
def test_hard_inputs_stay_finite(fusion, grouping, starts, generator):
    context = make_context(fusion=fusion, grouping=grouping, starts=starts)
    tags = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    for features in (
        torch.zeros(2, 6, 3, 3),
        torch.ones(2, 6, 3, 3),
        torch.randn(2, 6, 1, 2, generator=generator),
    ):
        features.requires_grad_()
        cam_logits = -torch.ones(2, 4, *features.shape[2:])
        output = context(features, cam_logits, tags, generator=generator)
        total = output.cam_logits.sum() + output.semantic_logits.sum()
        (total + output.group_embeddings.sum()).backward()
        assert total.isfinite()
        assert features.grad.isfinite().all() and features.grad.abs().max() < 1e3
    assert all(p.grad is None or p.grad.isfinite().all() for p in context.parameters())


def test_one_class(generator):
    context = DualStreamContext(6, 2, semantic=True, fuse=True, starts="cam", num_groups=None)
    output = context(
        torch.randn(2, 6, 3, 3, generator=generator),
        torch.randn(2, 2, 3, 3, generator=generator),
        torch.tensor([[1.0], [0.0]]),
    )
    assert output.cam_logits.shape == (2, 2, 3, 3)
    assert output.groups.valid.sum(1).tolist() == [2, 1]


def test_bf16(generator):
    context = make_context()
    inputs = make_inputs(generator)
    exact = context(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = context(*inputs)
    assert torch.equal(cast.groups.ids, exact.groups.ids)
    torch.testing.assert_close(cast.semantic_logits, exact.semantic_logits)
    torch.testing.assert_close(cast.cam_logits.float(), exact.cam_logits, atol=0.1, rtol=0.05)
    assert cast.embeddings.dtype == torch.float32
    half = context.bfloat16()(*(x.bfloat16() for x in inputs))
    assert isinstance(half, ContextOutput)
    assert half.cam_logits.isfinite().all() and half.group_embeddings.isfinite().all()


def test_channels_last_is_the_same(generator):
    context = make_context()
    features, cam_logits, tags = make_inputs(generator)
    last = context(features.to(memory_format=torch.channels_last), cam_logits, tags)
    torch.testing.assert_close(last.cam_logits, context(features, cam_logits, tags).cam_logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"semantic": False}, "fuse=True needs semantic=True"),
        ({"fusion": "both"}, "fusion must be one of groups, categories, got 'both'"),
        ({"head": "none"}, "head must be one of own, shared, got 'none'"),
        ({"row_norm": "l2"}, "row_norm must be one of softmax, l1, got 'l2'"),
        ({"grouping": "cosine"}, "grouping must be one of pearson, context_rows"),
        ({"starts": "zero"}, r"starts must be one of cam, kmeans\+\+"),
        ({"num_groups": 3}, r"needs starts='kmeans\+\+'"),
        ({"temperature": 0.0}, "temperature must be > 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        make_context(**options)


def test_a_number_of_labels_includes_background():
    with pytest.raises(ValueError, match="num_labels must be >= 2"):
        DualStreamContext(6, 1, semantic=False, fuse=False)


@pytest.mark.parametrize(
    ("features", "cam_logits", "tags", "message"),
    [
        ((2, 5, 4, 4), (2, 4, 4, 4), (2, 3), r"features must be \(B, 6, h, w\)"),
        ((2, 6, 16), (2, 4, 4, 4), (2, 3), r"features must be"),
        ((2, 6, 4, 4), (2, 4, 8, 8), (2, 3), r"cam_logits must be \(2, 4, 4, 4\)"),
        ((2, 6, 4, 4), (2, 3, 4, 4), (2, 3), r"cam_logits must be"),
        ((2, 6, 4, 4), (2, 4, 4, 4), (2, 4), r"tags must be \(2, 3\)"),
    ],
)
def test_wrong_shapes(features, cam_logits, tags, message):
    with pytest.raises(ValueError, match=message):
        make_context()(torch.zeros(features), torch.zeros(cam_logits), torch.zeros(tags))


def test_groups_score_the_tags_by_the_refined_cam(generator):
    context, inputs = make_context(pool_sharpness=2.0), make_inputs(generator)
    output = context(*inputs)
    torch.testing.assert_close(
        output.tag_logits, pool_groups(output.cam_logits, output.groups, 2.0)
    )
    plain = make_context(semantic=False, fuse=False, pool_sharpness=2.0)(*inputs)
    torch.testing.assert_close(plain.tag_logits, pool_groups(inputs[1], plain.groups, 2.0))
    assert make_context(pool_sharpness=0.0)(*inputs).tag_logits is None


@pytest.mark.parametrize("head", ["own", "shared"])
def test_channels_are_dropped_before_the_classifier(head, generator):
    context, inputs = make_context(head=head, dropout=0.5), make_inputs(generator)
    read = []
    context.classifier.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    for training in (True, False):
        context.train(training)(*inputs)
    dropped, whole = read
    gone = dropped.eq(0).all((2, 3))
    assert gone.any() and not gone.all()
    assert not whole.eq(0).all((2, 3)).any()
    torch.testing.assert_close(dropped, 2 * whole * ~gone[..., None, None])


def test_smoothing_is_trained_through_the_means_too(generator):
    output = make_context()(*make_inputs(generator))
    maps = torch.rand(2, 4, 4, 4, generator=generator).requires_grad_()
    output.smooth(maps, 0.25)[1, 2, 0, 3].backward()
    ids = output.groups.ids[1].tolist()
    for n, group in enumerate(ids):
        expected = 0.25 * output.pixel_to_group[1, 3, group].item() / ids.count(group)
        expected += 0.75 if n == 3 else 0.0
        assert maps.grad[1, 2, n // 4, n % 4].item() == pytest.approx(expected, abs=1e-6)
    assert maps.grad.abs().sum() == pytest.approx(1, abs=1e-5)


def test_a_guide_of_another_size_is_resized_with_aligned_corners(generator):
    context, (features, cam_logits, tags) = make_context(), make_inputs(generator)
    guide = torch.randn(2, 3, 7, 7, generator=generator)
    # Every other pixel of seven is one of four when the corners are aligned.
    expected = context(features, cam_logits, tags, guide=guide[..., ::2, ::2])
    resized = context(features, cam_logits, tags, guide=guide)
    assert torch.equal(resized.groups.ids, expected.groups.ids)
    torch.testing.assert_close(resized.pixel_to_group, expected.pixel_to_group)


def test_weighing_by_hand(generator):
    output = make_context()(*make_inputs(generator))
    output.class_similarity = torch.tensor([[[[1.0, 0.25, 0.0]]]])
    weighed = output.weigh(torch.tensor([[[[2.0, 3.0, 4.0]]]]), 0.5)
    # The least that either is believed is 0.001.
    expected = [math.sqrt(0.001), math.sqrt(0.5 * 0.25), math.sqrt(0.001)]
    assert weighed.flatten().tolist() == pytest.approx(expected, rel=1e-4)


def test_the_contrast_is_handed_the_memory(generator):
    context = make_context()
    assert context(*make_inputs(generator)).memory is context.memory


@pytest.mark.parametrize("starts", ["cam", "kmeans++"])
@pytest.mark.parametrize("grouping", ["pearson", "context_rows"])
def test_pixels_are_grouped_as_the_options_say(grouping, starts, generator):
    num_groups = None if starts == "cam" else 5
    context = make_context(grouping=grouping, starts=starts, num_groups=num_groups)
    features, cam_logits, tags = make_inputs(generator, size=8)
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    groups = context(features, cam_logits, tags, generator=first).groups
    present = present_labels(tags)
    options = {"starts": starts, "num_groups": num_groups, "generator": second}
    cam = normalise_cam(cam_logits, present, 0.0)
    expected = group_pixels(features, cam, present, grouping=grouping, **options)
    assert torch.equal(groups.ids, expected.ids)
    other = "pearson" if grouping == "context_rows" else "context_rows"
    apart = group_pixels(features, cam, present, grouping=other, **options)
    assert not torch.equal(groups.ids, apart.ids)


def test_the_graph_takes_the_options():
    usual = make_context().graph
    assert (usual.residual, usual.prototypes.requires_grad, usual.temperature) == (True, True, 0.1)
    graph = make_context(residual=False, learned_prototypes=False, temperature=0.4).graph
    assert (graph.residual, graph.prototypes.requires_grad, graph.temperature) == (
        False,
        False,
        0.4,
    )
    assert graph.prototypes.shape == (4, 7)


def test_defaults_are_those_of_the_settings():
    usual, parameters = MethodConfig(), inspect.signature(DualStreamContext).parameters
    shared = {name for name in parameters if hasattr(usual, name)}
    assert shared >= {"head", "num_groups", "pool_sharpness", "temperature"}
    for name in shared:
        assert parameters[name].default == getattr(usual, name), name
    fixed = {name: REMOVED[f"method.{name}"] for name in parameters if f"method.{name}" in REMOVED}
    assert len(fixed) >= 8
    for name, former in fixed.items():
        assert parameters[name].default == former.value, name
