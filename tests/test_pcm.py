from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dscnet.models import pcm as heads
from dscnet.models.pcm import PixelCorrelation, pcm_input, propagate
from dscnet.numerics import resize
from helpers import peak_bytes

EPS = 1e-5


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def oracle_pcm_input(cam: Tensor) -> Tensor:
    batch, labels, height, width = cam.shape
    result = torch.zeros_like(cam)
    for b in range(batch):
        scaled = torch.zeros(labels, height, width, dtype=torch.float64)
        for c in range(1, labels):
            peak = max(max(v, 0.0) for row in cam[b, c].tolist() for v in row)
            for i in range(height):
                for j in range(width):
                    value = max(max(float(cam[b, c, i, j]), 0.0) - EPS, 0.0)
                    scaled[c, i, j] = value / (peak + EPS)
        for i in range(height):
            for j in range(width):
                strongest = max(float(scaled[c, i, j]) for c in range(1, labels))
                result[b, 0, i, j] = 1 - strongest
                for c in range(1, labels):
                    if float(scaled[c, i, j]) >= strongest:
                        result[b, c, i, j] = scaled[c, i, j]
    return result


def oracle_propagate(pcm_map: Tensor, features: Tensor) -> Tensor:
    batch, labels, height, width = pcm_map.shape
    count = height * width
    result = torch.zeros(batch, labels, count, dtype=torch.float64)
    for b in range(batch):
        pixels = [features[b].flatten(1)[:, i].tolist() for i in range(count)]
        unit = []
        for pixel in pixels:
            length = math.sqrt(sum(v * v for v in pixel))
            unit.append([v / (length + EPS) for v in pixel])
        for j in range(count):
            column = [
                max(sum(x * y for x, y in zip(unit[i], unit[j], strict=True)), 0.0)
                for i in range(count)
            ]
            total = sum(column) + EPS
            for c in range(labels):
                row = pcm_map[b, c].flatten().tolist()
                result[b, c, j] = sum(p * a / total for p, a in zip(row, column, strict=True))
    return result.view_as(pcm_map)


@pytest.mark.parametrize("labels", [2, 4, 21, 81])
def test_pcm_input_matches_the_text(labels: int) -> None:
    cam = noise(2, labels, 3, 2)
    result = pcm_input(cam)
    torch.testing.assert_close(result, oracle_pcm_input(cam))
    torch.testing.assert_close(result.sum(1), torch.ones(2, 3, 2, dtype=torch.float64))


def test_pcm_input_by_hand() -> None:
    # Two classes, two pixels: peaks 2 and 4; at pixel 0 class 1 wins 1 : 0.25, at pixel 1 class 2.
    cam = torch.tensor([[9.0, 9.0], [2.0, 1.0], [1.0, 4.0]]).view(1, 3, 1, 2)
    expected = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).view(1, 3, 1, 2)
    torch.testing.assert_close(pcm_input(cam), expected, atol=2e-5, rtol=0)


def test_pcm_input_ignores_the_background_score_and_keeps_ties() -> None:
    cam = torch.tensor([[5.0, -7.0], [1.0, 0.5], [1.0, 0.5]]).view(1, 3, 1, 2)
    result = pcm_input(cam)
    assert torch.equal(result[:, 1], result[:, 2])
    assert (result[0, 1] > 0.4).all()
    assert torch.equal(result, pcm_input(cam * torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)))


def test_pcm_input_without_evidence_is_background() -> None:
    result = pcm_input(-torch.ones(1, 3, 2, 2))
    assert torch.equal(result[:, 0], torch.ones(1, 2, 2))
    assert not result[:, 1:].any()


@pytest.mark.parametrize("labels", [2, 21])
def test_propagate_matches_the_text(labels: int) -> None:
    pcm_map, features = pcm_input(noise(2, labels, 2, 3)), noise(2, 5, 2, 3, seed=1)
    torch.testing.assert_close(propagate(pcm_map, features), oracle_propagate(pcm_map, features))


def test_propagate_by_hand() -> None:
    # Pixels 0 and 1 share a feature, pixel 2 is orthogonal and pixel 3 opposite to 0.
    features = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.0, 0.0, 3.0, 0.0]]).view(1, 2, 2, 2)
    pcm_map = torch.tensor([1.0, 0.0, 0.6, 0.2]).view(1, 1, 2, 2)
    expected = torch.tensor([0.5, 0.5, 0.6, 0.2]).view(1, 1, 2, 2)
    torch.testing.assert_close(propagate(pcm_map, features), expected, atol=3e-5, rtol=0)


def test_propagate_is_finite_and_differentiable_at_zero_features() -> None:
    features = torch.zeros(1, 3, 2, 2, requires_grad=True)
    result = propagate(torch.ones(1, 2, 2, 2), features)
    result.sum().backward()
    assert not result.any()
    assert features.grad is not None and features.grad.isfinite().all()


def propagate_whole(pcm_map: Tensor, features: Tensor) -> Tensor:
    """All correlations at once."""
    pixels = features.flatten(2)
    pixels = pixels / (torch.linalg.vector_norm(pixels, dim=1, keepdim=True) + EPS)
    affinity = (pixels.transpose(1, 2) @ pixels).relu()
    spread = (pcm_map.flatten(2) @ affinity) / (affinity.sum(1, keepdim=True) + EPS)
    return spread.view_as(pcm_map)


@pytest.mark.parametrize("columns", [1, 5, 41, 42])
def test_propagate_in_blocks_of_columns(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pcm_map, features = pcm_input(noise(2, 3, 6, 7)), noise(2, 5, 6, 7, seed=1)
    expected = oracle_propagate(pcm_map, features)
    monkeypatch.setattr(heads, "BLOCK_BYTES", columns * 2 * 42 * 8)
    torch.testing.assert_close(propagate(pcm_map, features), expected)
    single = propagate(pcm_map.float(), features.float())
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("trained", [False, True])
def test_one_block_changes_no_bit(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pcm_map, features = pcm_input(noise(2, 3, 20, 30)).float(), noise(2, 16, 20, 30, seed=1).float()
    if trained:
        monkeypatch.setattr(heads, "BLOCK_BYTES", 1)
    features.requires_grad_(trained)
    found, expected = propagate(pcm_map, features), propagate_whole(pcm_map, features)
    assert torch.equal(found, expected)
    if trained:
        gradients = [
            torch.autograd.grad(each.square().sum(), features) for each in (found, expected)
        ]
        assert torch.equal(gradients[0][0], gradients[1][0])


def test_memory_of_propagate_is_bounded_in_inference() -> None:
    """Twice 12,000 x 12,000 numbers would take a gigabyte."""
    cam, features = torch.rand(1, 3, 120, 100), torch.rand(1, 8, 120, 100)
    assert peak_bytes(lambda: propagate(cam, features)) < 200 * 2**20


def test_propagate_gradcheck() -> None:
    pcm_map = pcm_input(noise(1, 3, 2, 2)).requires_grad_()
    features = noise(1, 4, 2, 2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(propagate, (pcm_map, features))


def test_pixel_correlation_is_the_composition_of_its_parts() -> None:
    head = PixelCorrelation(4, 6, low_out=2, mid_out=3, out=5).double()
    cam, image = noise(2, 3, 3, 3), noise(2, 3, 12, 12, seed=1)
    low, mid = noise(2, 4, 6, 6, seed=2), noise(2, 6, 3, 3, seed=3)
    weight = [c.weight.flatten(1) for c in (head.squeeze_low, head.squeeze_mid, head.mix)]

    def mix(w: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("oi,bihw->bohw", w, x)

    parts = [
        resize(image, (3, 3)),
        mix(weight[0], resize(low, (3, 3))).relu(),
        mix(weight[1], mid).relu(),
    ]
    expected = oracle_propagate(oracle_pcm_input(cam), mix(weight[2], torch.cat(parts, 1)).detach())
    torch.testing.assert_close(head(cam, image, low, mid).detach(), expected)


def test_pixel_correlation_trains_only_itself() -> None:
    head = PixelCorrelation(4, 6)
    cam = noise(1, 3, 4, 4).float().requires_grad_()
    low = noise(1, 4, 8, 8, seed=1).float().requires_grad_()
    mid = noise(1, 6, 4, 4, seed=2).float().requires_grad_()
    head(cam, noise(1, 3, 16, 16).float(), low, mid).square().sum().backward()
    assert cam.grad is None and low.grad is None and mid.grad is None
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_pixel_correlation_starts_as_published() -> None:
    torch.manual_seed(0)
    head = PixelCorrelation(512, 1024)
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(64, 512, 1, 1), (128, 1024, 1, 1), (192, 195, 1, 1)]
    assert head.squeeze_low.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.03)
    assert head.squeeze_mid.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.03)
    bound = 4 * math.sqrt(6 / (195 + 192))
    assert bound * 0.99 < head.mix.weight.abs().max().item() <= bound


def test_resize_aligns_corners() -> None:
    grid = torch.tensor([[0.0, 4.0]]).view(1, 1, 1, 2)
    assert resize(grid, (1, 5)).flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert resize(grid, (1, 2)) is grid


def test_bfloat16_is_finite() -> None:
    head = PixelCorrelation(4, 6).bfloat16()
    cam = noise(1, 3, 4, 4).bfloat16()
    low, mid = noise(1, 4, 4, 4).bfloat16(), noise(1, 6, 4, 4).bfloat16()
    assert head(cam, noise(1, 3, 16, 16).bfloat16(), low, mid).isfinite().all()
