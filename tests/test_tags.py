from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dscnet.losses.tags import mean_average_precision, pooled_logits, tag_loss


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def some_tags(photos: int, classes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(photos, classes, generator=generator) < 0.4).double()


def oracle_tag_loss(logits: Tensor, tags: Tensor) -> float:
    total = 0.0
    for row, truth in zip(logits.tolist(), tags.tolist(), strict=True):
        for score, present in zip(row, truth, strict=True):
            probability = 1 / (1 + math.exp(-score))
            total -= math.log(probability if present else 1 - probability) / len(row)
    return total / len(logits)


@pytest.mark.parametrize("classes", [1, 3, 20, 80])
def test_tag_loss_is_the_soft_margin(classes: int) -> None:
    logits, tags = noise(4, classes), some_tags(4, classes)
    assert tag_loss(logits, tags).item() == pytest.approx(oracle_tag_loss(logits, tags))


def test_tag_loss_by_hand() -> None:
    # Present with odds 3 : 1 and absent with odds 1 : 1: -(log 0.75 + log 0.5) / 2.
    loss = tag_loss(torch.tensor([[math.log(3), 0.0]]), torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx(0.490415, abs=1e-6)


def test_tag_loss_gradcheck_and_empty_tags() -> None:
    logits = noise(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tag_loss(x, some_tags(2, 3)), (logits,))
    assert tag_loss(logits, torch.zeros(2, 3)).item() > 0


def test_tag_loss_names_the_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"tag_logits .*\(2, 3\) and \(2, 4\)"):
        tag_loss(torch.zeros(2, 3), torch.zeros(2, 4))


def oracle_pooled(cam: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate every pixel between its four neighbours, then average."""
    batch, labels, height, width = cam.shape
    result = torch.zeros(batch, labels - 1, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            y = i * (height - 1) / (size[0] - 1) if size[0] > 1 else 0.0
            x = j * (width - 1) / (size[1] - 1) if size[1] > 1 else 0.0
            top, left = min(int(y), height - 1), min(int(x), width - 1)
            low, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x - left
            for b in range(batch):
                for c in range(1, labels):
                    upper = (1 - dx) * cam[b, c, top, left] + dx * cam[b, c, top, right]
                    lower = (1 - dx) * cam[b, c, low, left] + dx * cam[b, c, low, right]
                    result[b, c - 1] += (1 - dy) * upper + dy * lower
    return result / (size[0] * size[1])


@pytest.mark.parametrize(
    ("grid", "size"), [((3, 4), (7, 9)), ((1, 2), (5, 4)), ((4, 3), (4, 3)), ((3, 3), (2, 1))]
)
def test_pooled_logits_match_the_text(grid: tuple[int, int], size: tuple[int, int]) -> None:
    cam = noise(2, 3, *grid)
    pooled = pooled_logits(cam, size)
    torch.testing.assert_close(pooled, oracle_pooled(cam, size), atol=1e-12, rtol=0)


def test_pooled_logits_by_hand() -> None:
    # 0 and 6 over four pixels read 0, 2, 4, 6 with aligned corners; two border cells weigh alike.
    cam = torch.tensor([0.0, 6.0]).view(1, 1, 1, 2).repeat(1, 2, 1, 1)
    assert pooled_logits(cam, (1, 4)).item() == pytest.approx(3.0)
    # 0, 6, 0 over five pixels read 0, 3, 6, 3, 0: 2.4, not the 2 of the feature grid.
    cam = torch.tensor([0.0, 6.0, 0.0]).view(1, 1, 1, 3).repeat(1, 2, 1, 1)
    assert pooled_logits(cam, (1, 5)).item() == pytest.approx(2.4)


def test_pooled_logits_agree_with_up_sampling_in_float32() -> None:
    cam = noise(2, 21, 14, 14).float()
    full = functional.interpolate(cam, size=(224, 224), mode="bilinear", align_corners=True)
    torch.testing.assert_close(
        pooled_logits(cam, (224, 224)), full[:, 1:].mean((2, 3)), atol=1e-6, rtol=1e-5
    )


def test_pooled_logits_leave_the_background_alone() -> None:
    cam = noise(1, 3, 2, 2).requires_grad_()
    pooled_logits(cam, (4, 4)).sum().backward()
    assert cam.grad is not None
    assert not cam.grad[:, 0].any()
    assert cam.grad[:, 1:].sum().item() == pytest.approx(2.0)


def test_pooled_logits_of_bfloat16_are_float32_and_finite() -> None:
    result = pooled_logits(noise(2, 3, 4, 4).bfloat16(), (16, 16))
    assert result.dtype == torch.float32 and result.isfinite().all()


def oracle_average_precision(scores: list[float], truth: list[float]) -> float:
    precisions = []
    for score, present in zip(scores, truth, strict=True):
        if present:
            above = [t for s, t in zip(scores, truth, strict=True) if s >= score]
            precisions.append(sum(above) / len(above))
    return sum(precisions) / len(precisions)


@pytest.mark.parametrize("rounding", [3, 0], ids=["distinct", "tied"])
def test_mean_average_precision_matches_its_definition(rounding: int) -> None:
    scores, tags = noise(15, 4).round(decimals=rounding), some_tags(15, 4, seed=2)
    expected = [
        oracle_average_precision(scores[:, c].tolist(), tags[:, c].tolist()) for c in range(4)
    ]
    assert mean_average_precision(scores, tags) == pytest.approx(sum(expected) / 4)


def test_mean_average_precision_by_hand() -> None:
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.1]])
    assert mean_average_precision(scores, torch.tensor([[1], [0], [1], [0]])) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert mean_average_precision(torch.zeros(4, 1), torch.tensor([[1], [0], [0], [0]])) == 0.25


def test_mean_average_precision_leaves_out_classes_without_photos() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.5]])
    assert mean_average_precision(scores, torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == 1.0
    assert math.isnan(mean_average_precision(scores, torch.zeros(2, 2)))
    assert math.isnan(mean_average_precision(torch.zeros(0, 2), torch.zeros(0, 2)))


def test_mean_average_precision_names_the_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match="tag_scores"):
        mean_average_precision(torch.zeros(2, 3), torch.zeros(3, 2))


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_tag_loss_takes_tags_of_any_type(kind: torch.dtype) -> None:
    logits, tags = noise(4, 3), some_tags(4, 3)
    torch.testing.assert_close(tag_loss(logits, tags.to(kind)), tag_loss(logits, tags))
