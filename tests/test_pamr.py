from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dscnet.refine import pamr as module
from dscnet.refine.pamr import pamr


def one_step_by_loops(probabilities, photo, dilations):
    """The weighted mean over the neighbours of every pixel, from the definition, in float64."""
    labels, height, width = probabilities.shape
    result = torch.zeros_like(probabilities)
    for y in range(height):
        for x in range(width):
            near = [
                (min(max(y + dy * d, 0), height - 1), min(max(x + dx * d, 0), width - 1))
                for d in dilations
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ]
            own = [4 + 9 * index for index in range(len(dilations))]
            scores = []
            for index, (ny, nx) in enumerate(near):
                if index in own:
                    continue
                total = 0.0
                for channel in range(3):
                    values = [float(photo[channel, a, b]) for a, b in near]
                    mean = sum(values) / len(values)
                    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
                    difference = abs(float(photo[channel, y, x]) - values[index])
                    total -= difference / (1e-8 + 0.1 * math.sqrt(variance)) / 3
                scores.append((math.exp(total), ny, nx))
            whole = sum(weight for weight, _, _ in scores)
            for weight, ny, nx in scores:
                result[:, y, x] += weight / whole * probabilities[:, ny, nx]
    return result


@pytest.mark.parametrize("dilations", [(1,), (1, 3)])
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("scale", [255, 1e-7])
def test_against_loops(dilations, iterations, scale, generator):
    probabilities = torch.rand(3, 6, 7, generator=generator).double()
    photo = torch.rand(3, 6, 7, generator=generator).double() * scale
    expected = probabilities
    for _ in range(iterations):
        expected = one_step_by_loops(expected, photo, dilations)
    result = pamr(
        probabilities[None], photo[None], iterations=iterations, dilations=dilations, stride=1
    )
    torch.testing.assert_close(result[0].double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", [1, 5, 41])
def test_blocks_change_nothing(block, generator, monkeypatch):
    probabilities = torch.rand(1, 3, 6, 7, generator=generator)
    photo = torch.rand(1, 3, 6, 7, generator=generator) * 255
    whole = pamr(probabilities, photo, dilations=(1, 2), stride=1)
    monkeypatch.setattr(module, "BLOCK", block)
    assert torch.equal(pamr(probabilities, photo, dilations=(1, 2), stride=1), whole)


def test_labels_follow_the_edge_of_the_photo():
    photo = torch.zeros(1, 3, 24, 24)
    photo[..., 12:] = 200.0
    probabilities = torch.full((1, 2, 24, 24), 0.2)
    probabilities[:, 0, :, :9] = probabilities[:, 1, :, 9:] = 0.8
    refined = pamr(probabilities, photo, iterations=30, dilations=(1, 2), stride=1)
    assert (refined[0, 0, :, :12] > refined[0, 0, :, 12:]).all()


@pytest.mark.parametrize("labels", [1, 2, 81])
@pytest.mark.parametrize("shape", [(1, 1), (3, 9)])
def test_small_and_constant_photos(labels, shape):
    probabilities = torch.rand(2, labels, *shape).softmax(1)
    refined = pamr(probabilities, torch.full((2, 3, *shape), 7, dtype=torch.uint8))
    assert refined.shape == probabilities.shape
    torch.testing.assert_close(refined.sum(1), torch.ones(2, *shape))


def test_the_order_of_labels_does_not_matter(generator):
    probabilities = torch.rand(1, 3, 12, 16, generator=generator)
    photo = torch.rand(1, 3, 12, 16, generator=generator)
    turned = pamr(probabilities.flip(1), photo, stride=2)
    torch.testing.assert_close(turned, pamr(probabilities, photo, stride=2).flip(1))


@pytest.mark.parametrize("settings", [{"stride": 0}, {"dilations": ()}, {"dilations": (0,)}])
def test_wrong_arguments(settings):
    with pytest.raises(ValueError, match="must be 1 or more"):
        pamr(torch.ones(1, 1, 4, 4), torch.ones(1, 3, 4, 4), **settings)


def test_a_photo_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"photos must be \(1, 3, 4, 4\)"):
        pamr(torch.ones(1, 1, 4, 4), torch.ones(1, 3, 4, 5))


def test_the_constants_are_the_published_ones(generator):
    probabilities = torch.rand(1, 2, 120, 116, generator=generator)
    photo = torch.rand(1, 3, 120, 116, generator=generator)
    published = {"iterations": 10, "dilations": (1, 2, 4, 8, 12, 24), "stride": 4}
    assert torch.equal(pamr(probabilities, photo), pamr(probabilities, photo, **published))


def test_nothing_is_trained_through_it(generator):
    probabilities = torch.rand(1, 2, 8, 8, generator=generator, requires_grad=True)
    assert not pamr(probabilities, torch.rand(1, 3, 8, 8, generator=generator)).requires_grad


def test_labels_are_enlarged_without_aligned_corners():
    """Without iterations what remains is the reduction to cells and the way back."""
    probabilities = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    photos = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    cells = F.avg_pool2d(probabilities, 4)
    expected = F.interpolate(cells, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pamr(probabilities, photos, stride=4, iterations=0), expected)
