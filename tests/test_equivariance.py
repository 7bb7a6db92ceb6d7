from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dscnet.losses.equivariance import equivariance_losses, min_pool_loss, normalise

EPS = 1e-5
SIZE1, SIZE2 = (6, 8), (3, 4)
Views = tuple[Tensor, Tensor, Tensor, Tensor]


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def some_tags(photos: int, classes: int, seed: int = 0) -> Tensor:
    """Random tags; the first photo has the first class, the last photo has none."""
    generator = torch.Generator().manual_seed(seed)
    tags = (torch.rand(photos, classes, generator=generator) < 0.3).double()
    tags[0, 0], tags[-1] = 1, 0
    return tags


def views(photos: int, labels: int, seed: int = 0) -> Views:
    """Plain and refined CAM of view 1 on a 3 x 4 grid, then those of view 2 on a 2 x 2 grid."""
    return (
        noise(photos, labels, 3, 4, seed=seed),
        noise(photos, labels, 3, 4, seed=seed + 1).sigmoid(),
        noise(photos, labels, 2, 2, seed=seed + 2),
        noise(photos, labels, 2, 2, seed=seed + 3).sigmoid(),
    )


def oracle_resize(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """One map, bilinear with aligned corners, pixel by pixel."""
    height, width = grid.shape
    result = torch.zeros(size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            y = i * (height - 1) / (size[0] - 1)
            x = j * (width - 1) / (size[1] - 1)
            top, left = int(y), int(x)
            low, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = (1 - x + left) * grid[top, left] + (x - left) * grid[top, right]
            lower = (1 - x + left) * grid[low, left] + (x - left) * grid[low, right]
            result[i, j] = (1 - y + top) * upper + (y - top) * lower
    return result


def oracle_normalise(grid: Tensor) -> Tensor:
    """N of one map."""
    values = [max(v, 0.0) for v in grid.flatten().tolist()]
    low, high = min(values), max(values)
    scaled = [max(v - low - EPS, 0.0) / (high - low + EPS) for v in values]
    return torch.tensor(scaled, dtype=torch.float64).view_as(grid)


def oracle_one_hot(maps: list[Tensor]) -> list[Tensor]:
    """T of one photo's maps: foreground values below the pixel's foreground maximum become 0."""
    result = [m.clone() for m in maps]
    for i in range(maps[0].shape[0]):
        for j in range(maps[0].shape[1]):
            strongest = max(float(m[i, j]) for m in maps[1:])
            for m in result[1:]:
                if float(m[i, j]) < strongest:
                    m[i, j] = 0.0
    return result


def oracle_losses(maps: Views, tags: Tensor) -> tuple[float, float]:
    """ER and ECR over all labels, absent ones too, as the text orders the steps."""
    photos, labels = maps[0].shape[:2]
    er, ecr = 0.0, 0.0
    for b in range(photos):
        has = [1.0, *tags[b].tolist()]
        first = [
            [
                has[c] * oracle_resize(oracle_normalise(oracle_resize(m[b, c], SIZE1)), SIZE2)
                for c in range(labels)
            ]
            for m in maps[:2]
        ]
        second = [
            [has[c] * oracle_normalise(oracle_resize(m[b, c], SIZE2)) for c in range(labels)]
            for m in maps[2:]
        ]
        (c1, v1), (c2, v2) = first, second
        for c in range(1, labels):
            er += sum(abs(v) for v in (c1[c] - c2[c]).flatten().tolist())
        c1[0] = 1 - torch.stack(c1[1:]).amax(0)
        c2[0] = 1 - torch.stack(c2[1:]).amax(0)
        for target, refined in ((oracle_one_hot(c2), v1), (oracle_one_hot(c1), v2)):
            entries = [
                abs(v) for c in range(labels) for v in (target[c] - refined[c]).flatten().tolist()
            ]
            count = int(labels * SIZE2[0] * SIZE2[1] * 0.2)
            ecr += sum(sorted(entries)[-count:]) / count / photos
    return er / (photos * (labels - 1) * SIZE2[0] * SIZE2[1]), ecr


@pytest.mark.parametrize("labels", [2, 5, 21, 81])
def test_losses_match_the_text(labels: int) -> None:
    maps, tags = views(3, labels), some_tags(3, labels - 1)
    er, ecr = equivariance_losses(*maps, tags, SIZE1, SIZE2)
    expected_er, expected_ecr = oracle_losses(maps, tags)
    assert er.item() == pytest.approx(expected_er, rel=1e-9)
    assert ecr.item() == pytest.approx(expected_ecr, rel=1e-9)
    single = equivariance_losses(*(m.float() for m in maps), tags.float(), SIZE1, SIZE2)
    assert single[0].item() == pytest.approx(expected_er, abs=1e-6)
    assert single[1].item() == pytest.approx(expected_ecr, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["no tag", "all tags"])
def test_losses_match_the_text_at_the_extremes(value: float) -> None:
    maps, tags = views(2, 4, seed=7), torch.full((2, 3), value, dtype=torch.float64)
    er, ecr = equivariance_losses(*maps, tags, SIZE1, SIZE2)
    expected_er, expected_ecr = oracle_losses(maps, tags)
    assert er.item() == pytest.approx(expected_er)
    assert ecr.item() == pytest.approx(expected_ecr)


def test_losses_by_hand() -> None:
    # One class, both views 1 x 2 pixels, no resizing: N = (0, 1) against N = (1, 0) up to 1e-5.
    cam1 = torch.tensor([[0.0, 0.0], [1.0, 3.0]]).view(1, 2, 1, 2)
    cam2 = torch.tensor([[0.0, 0.0], [2.0, 0.0]]).view(1, 2, 1, 2)
    refined1 = torch.tensor([[0.2, 0.2], [0.0, 0.5]]).view(1, 2, 1, 2)
    refined2 = torch.tensor([[0.9, 0.1], [0.4, 0.4]]).view(1, 2, 1, 2)
    tags = torch.ones(1, 1)
    er, ecr = equivariance_losses(cam1, refined1, cam2, refined2, tags, (1, 2), (1, 2))
    assert er.item() == pytest.approx(1.0, abs=1e-4)
    assert ecr.item() == 0.0  # a fifth of 4 entries is none
    # The same pixels in a row of 10: a fifth of 20 entries is 4, and 10 of them differ by 1.
    wide = [m.repeat_interleave(5, dim=3) for m in (cam1, refined1, cam2, refined2)]
    er, ecr = equivariance_losses(*wide, tags, (1, 10), (1, 10))
    assert er.item() == pytest.approx(1.0, abs=1e-4)
    # T(c2) = bg (0, 1), fg (1, 0) against v1 = bg (0, 0), fg (0, 1): the hardest are all 1.
    # T(c1) = bg (1, 0), fg (0, 1) against v2 = bg (1, 0), fg (0, 0): the fg's second half is 1.
    assert ecr.item() == pytest.approx(2.0, abs=1e-4)


def test_normalise_matches_the_text() -> None:
    cam = noise(2, 3, 4, 5)
    cam[0, 1] += 10  # a map without a zero
    expected = torch.stack([torch.stack([oracle_normalise(m) for m in photo]) for photo in cam])
    torch.testing.assert_close(normalise(cam), expected)


def test_normalise_by_hand() -> None:
    cam = torch.tensor([-1.0, 0.0, 1.0, 4.0]).view(1, 1, 2, 2)
    expected = torch.tensor([0.0, 0.0, 0.25, 1.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(normalise(cam), expected, atol=2e-5, rtol=0)
    assert not normalise(torch.full((1, 1, 2, 2), 3.0)).any()
    assert not normalise(torch.full((1, 1, 2, 2), -3.0)).any()


def test_normalise_gradient_flows_through_the_extremes() -> None:
    cam = noise(1, 2, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: normalise(x).square(), (cam,))
    assert torch.autograd.gradcheck(lambda x: normalise(x).square(), (cam + 5,))


def oracle_min_pool(refined: Tensor, tags: Tensor) -> float:
    total, taken = 0.0, 0
    for b in range(len(refined)):
        strongest = []
        for i in range(refined.shape[2]):
            for j in range(refined.shape[3]):
                scores = refined[b, 1:, i, j].tolist()
                strongest.append(max(s * y for s, y in zip(scores, tags[b].tolist(), strict=True)))
        count = refined.shape[2] * refined.shape[3] // 4
        total += sum(max(v, 0.0) for v in sorted(strongest)[:count])
        taken += count
    return total / taken


@pytest.mark.parametrize("labels", [2, 5, 21, 81])
def test_min_pool_matches_the_text(labels: int) -> None:
    refined, tags = noise(3, labels, 4, 5).sigmoid(), some_tags(3, labels - 1)
    assert min_pool_loss(refined, tags).item() == pytest.approx(oracle_min_pool(refined, tags))


def test_min_pool_rectifies_and_up_samples() -> None:
    refined, tags = noise(2, 3, 3, 4), torch.ones(2, 2)
    full = torch.stack([torch.stack([oracle_resize(m, SIZE1) for m in photo]) for photo in refined])
    assert (full.max(1).values < 0).any()
    expected = oracle_min_pool(full, tags)
    assert min_pool_loss(refined, tags, SIZE1).item() == pytest.approx(expected)


def test_min_pool_by_hand() -> None:
    # Eight pixels, so the two smallest of max(class 1, class 2): 0.1 and 0.3.
    first = torch.tensor([0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.3])
    second = torch.tensor([0.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    refined = torch.stack([torch.zeros(8), first, second]).view(1, 3, 2, 4).requires_grad_()
    loss = min_pool_loss(refined, torch.ones(1, 2))
    loss.backward()
    assert loss.item() == pytest.approx(0.2)
    assert refined.grad is not None
    assert refined.grad.view(3, 8).nonzero().tolist() == [[1, 0], [1, 7]]
    # Without class 2 its 0.8 is gone, and 0.1 and 0.2 are the smallest.
    assert min_pool_loss(refined, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.15)


def test_min_pool_of_nothing_is_zero() -> None:
    assert min_pool_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 2)).item() == 0
    assert min_pool_loss(torch.ones(1, 2, 1, 3), torch.ones(1, 1)).item() == 0


def gradients(index: int, maps: Views, tags: Tensor) -> list[Tensor | None]:
    """Gradients of ER (0) or ECR (1) by the four maps."""
    leaves = [m.clone().requires_grad_() for m in maps]
    loss = equivariance_losses(*leaves, tags, SIZE1, SIZE2)[index]  # type: ignore[arg-type]
    loss.backward()
    return [leaf.grad for leaf in leaves]


def test_er_reaches_both_plain_cams_and_only_present_classes() -> None:
    tags = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    cam1, refined1, cam2, refined2 = gradients(0, views(2, 4), tags)
    assert refined1 is None and refined2 is None
    for gradient in (cam1, cam2):
        assert gradient is not None
        reached = gradient.abs().sum((2, 3)) > 0
        assert torch.equal(reached[:, 1:], tags > 0)
        assert not reached[:, 0].any()


def test_ecr_targets_are_detached() -> None:
    cam1, refined1, cam2, refined2 = gradients(1, views(2, 4), torch.ones(2, 3))
    assert cam1 is None and cam2 is None
    for gradient in (refined1, refined2):
        assert gradient is not None and gradient[:, 0].any() and gradient[:, 1:].any()


def test_losses_gradcheck() -> None:
    maps, tags = [m.requires_grad_() for m in views(2, 3)], torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    er = lambda c1, c2: equivariance_losses(c1, maps[1], c2, maps[3], tags, SIZE1, SIZE2)[0]  # noqa: E731
    ecr = lambda v1, v2: equivariance_losses(maps[0], v1, maps[2], v2, tags, SIZE1, SIZE2)[1]  # noqa: E731
    assert torch.autograd.gradcheck(er, (maps[0], maps[2]))
    assert torch.autograd.gradcheck(ecr, (maps[1], maps[3]))


def test_absent_and_background_scores_do_not_count() -> None:
    maps, tags = views(2, 4), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    before = equivariance_losses(*maps, tags, SIZE1, SIZE2)
    changed = [m.clone() for m in maps]
    for m in changed:
        m[:, 3] = 9 * noise(*m[:, 3].shape, seed=11)
    changed[0][:, 0] += 5
    changed[2][:, 0] -= 5
    after = equivariance_losses(*changed, tags, SIZE1, SIZE2)  # type: ignore[arg-type]
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])


def test_bfloat16_is_finite() -> None:
    maps, tags = [m.bfloat16().requires_grad_() for m in views(2, 4)], torch.ones(2, 3)
    er, ecr = equivariance_losses(*maps, tags, SIZE1, SIZE2)  # type: ignore[arg-type]
    loss = er + ecr + min_pool_loss(maps[1], tags, SIZE1)
    loss.backward()
    assert loss.isfinite()
    assert all(m.grad is not None and m.grad.isfinite().all() for m in maps)


def test_label_counts_must_fit() -> None:
    maps = views(2, 4)
    with pytest.raises(ValueError, match="got 4 and 4"):
        equivariance_losses(*maps, torch.ones(2, 4), SIZE1, SIZE2)
    with pytest.raises(ValueError, match="got 4 and 2"):
        min_pool_loss(maps[1], torch.ones(2, 2))


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_tags_of_any_type_are_the_same(kind: torch.dtype) -> None:
    maps, tags = views(3, 4), some_tags(3, 3)
    for one, other in zip(
        equivariance_losses(*maps, tags, SIZE1, SIZE2),
        equivariance_losses(*maps, tags.to(kind), SIZE1, SIZE2),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(min_pool_loss(maps[1], tags.to(kind)), min_pool_loss(maps[1], tags))


def test_a_map_just_below_zero_is_nothing() -> None:
    """Its maximum plus the constant is 0: only the rectified maximum keeps the division finite."""
    cam = torch.full((1, 1, 2, 2), -EPS)
    assert torch.equal(normalise(cam), torch.zeros_like(cam))
