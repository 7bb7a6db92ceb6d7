from __future__ import annotations

import importlib.util
import math
import sys
import types

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dscnet.refine import crf
from dscnet.refine.crf import dense_crf, mean_field

HAS_PACKAGE = importlib.util.find_spec("pydensecrf") is not None
SEAM = {"bilateral_std": 80.0, "color_std": 13.0}
"""SEAM's and AffinityNet's kernel; the default is IRNet's."""


def by_loops(probabilities, photo, gauss, bilateral, iterations):
    """Mean field from its definition in float64: every pair of pixels, one after the other."""
    labels, height, width = probabilities.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]

    def kernel(std, color_std):
        matrix = np.zeros((len(pixels), len(pixels)))
        for i, (yi, xi) in enumerate(pixels):
            for j, (yj, xj) in enumerate(pixels):
                distance = ((yi - yj) ** 2 + (xi - xj) ** 2) / std**2
                if color_std is not None:
                    difference = photo[:, yi, xi] - photo[:, yj, xj]
                    distance += float((difference**2).sum()) / color_std**2
                matrix[i, j] = math.exp(-distance / 2)
        root = np.sqrt(matrix.sum(1))
        return matrix / root[:, None] / root[None]

    terms = [(gauss[1], kernel(gauss[0], None)), (bilateral[2], kernel(*bilateral[:2]))]
    unary = -np.log(np.maximum(probabilities.reshape(labels, -1).T, 1e-5))
    q = np.exp(-unary) / np.exp(-unary).sum(1, keepdims=True)
    for _ in range(iterations):
        energy = -unary + sum(weight * matrix @ q for weight, matrix in terms)
        energy = np.exp(energy - energy.max(1, keepdims=True))
        q = energy / energy.sum(1, keepdims=True)
    return q.T.reshape(labels, height, width)


def noise(labels, height, width, seed=0):
    made = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(1, labels, height, width, generator=made).softmax(1)
    photo = torch.randint(0, 256, (1, 3, height, width), generator=made, dtype=torch.uint8)
    return probabilities, photo


def disk(height=40, width=50, labels=2):
    """A coloured disk whose scores are right three times out of four."""
    made = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (height / 3) ** 2
    photo = torch.where(inside, 200.0, 60.0).expand(1, 3, height, width)
    photo = (photo + 4 * torch.randn(photo.shape, generator=made)).round().clamp(0, 255)
    seen = torch.where(torch.rand(inside.shape, generator=made) < 0.75, inside, ~inside).long()
    others = 0.3 / (labels - 1)
    start = torch.full((1, labels, height, width), others).scatter_(1, seen[None, None], 0.7)
    return start, photo.to(torch.uint8), inside


@pytest.mark.parametrize("iterations", [0, 1, 10])
def test_the_exact_backend_is_mean_field(iterations):
    probabilities, photo = noise(3, 5, 6)
    expected = by_loops(
        probabilities[0].double().numpy(),
        photo[0].double().numpy(),
        (3.0, 3.0),
        (50.0, 60.0, 10.0),
        iterations,
    )
    settings = {"iterations": iterations, "color_std": 60.0}
    result = dense_crf(probabilities, photo, backend="exact", **settings)
    np.testing.assert_allclose(result[0].numpy(), expected, atol=2e-5)


# The narrower kernel of colours joins fewer pixels of a noisy photo, and the lattice errs more.
@pytest.mark.parametrize(("settings", "bound"), [(SEAM, 2e-3), ({}, 1e-2)])
def test_the_fast_filter_is_near_the_exact_one(settings, bound):
    start, photo, inside = disk(labels=3)
    exact = dense_crf(start, photo, backend="exact", **settings)
    fast = dense_crf(start, photo, **settings)
    assert (fast - exact).abs().max() < bound
    assert torch.equal(fast.argmax(1), exact.argmax(1))
    assert ((exact[0].argmax(0) == 1) == inside).float().mean() > 0.99, "it mends the disk"


def test_exact_kernels_do_not_depend_on_their_blocks(monkeypatch):
    probabilities, photo = noise(2, 9, 7)
    whole = dense_crf(probabilities, photo, backend="exact")
    monkeypatch.setattr("dscnet.refine.crf.BLOCK", 130)
    torch.testing.assert_close(dense_crf(probabilities, photo, backend="exact"), whole)


@pytest.mark.parametrize("backend", ["lattice", "exact"])
def test_marginals_sum_to_one_and_photos_of_a_batch_do_not_mix(backend):
    one, two = noise(4, 8, 9, seed=1), noise(4, 8, 9, seed=2)
    joined = [torch.cat(pair) for pair in zip(one, two, strict=True)]
    result = dense_crf(*joined, backend=backend)
    torch.testing.assert_close(result.sum(1), torch.ones(2, 8, 9))
    torch.testing.assert_close(result[1:], dense_crf(*two, backend=backend))


@pytest.mark.parametrize("backend", ["lattice", "exact"])
def test_the_order_of_labels_does_not_matter(backend):
    probabilities, photo = noise(3, 8, 9)
    order = torch.tensor([2, 0, 1])
    result = dense_crf(probabilities, photo, backend=backend)
    turned = dense_crf(probabilities[:, order], photo, backend=backend)
    torch.testing.assert_close(turned, result[:, order])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 5)])
@pytest.mark.parametrize("labels", [1, 2, 81])
def test_small_and_constant_photos(shape, labels):
    probabilities, _ = noise(labels, *shape)
    result = dense_crf(probabilities, torch.full((1, 3, *shape), 9, dtype=torch.uint8))
    torch.testing.assert_close(result.sum(1), torch.ones(1, *shape))


def test_certain_labels_stay_where_nothing_speaks_against_them():
    photo = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    photo[..., 10:] = 255
    probabilities = torch.zeros(1, 2, 20, 20)
    probabilities[:, 0, :, :10] = probabilities[:, 1, :, 10:] = 1
    assert torch.equal(dense_crf(probabilities, photo).argmax(1), probabilities.argmax(1))


def mean_field_by_loops(unary, kernels, iterations, filtered):
    """Mean field in float64; labels that are not filtered keep their unary energies."""
    unary = unary.double().numpy()
    q = np.exp(-unary) / np.exp(-unary).sum(1, keepdims=True)
    for _ in range(iterations):
        message = sum(weight * matrix.double().numpy() @ q for weight, matrix in kernels)
        energy = np.exp(-unary + np.where(filtered, message, 0.0))
        q = energy / energy.sum(1, keepdims=True)
    return q


@pytest.mark.parametrize("labels", [3, 20])
@pytest.mark.parametrize("count", [1, 2])
def test_labels_that_are_not_filtered_get_no_messages(labels, count, generator):
    unary = torch.rand(7, labels, generator=generator) * 3
    matrices = [torch.rand(7, 7, generator=generator) for _ in range(2)]
    filtered = torch.arange(labels) >= count
    kernels = [(0.7, matrices[0]), (0.4, matrices[1])]
    result = mean_field(unary, [(w, m.matmul) for w, m in kernels], 3, filtered)
    expected = mean_field_by_loops(unary, kernels, 3, filtered.numpy())
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_labels_that_are_nowhere_likely_hardly_matter():
    start, photo, _ = disk(labels=3)
    unlikely = torch.rand(1, 4, 40, 50, generator=torch.Generator().manual_seed(1)) * 0.01
    start = torch.cat([start * (1 - unlikely.sum(1, keepdim=True)), unlikely], 1)
    exact = dense_crf(start, photo)
    fast = dense_crf(start, photo, negligible=0.01)
    assert not torch.equal(fast, exact)
    torch.testing.assert_close(fast, exact, atol=2e-3, rtol=0)
    torch.testing.assert_close(fast.sum(1), torch.ones(1, 40, 50))
    assert torch.equal(dense_crf(start, photo, negligible=0.0), exact)


def test_large_photos_and_others_have_the_same_kernel_of_positions(monkeypatch):
    probabilities, photo = noise(3, 9, 7)
    shared = [dense_crf(probabilities, photo, gaussian_std=std) for std in (2.0, 3.0, 2.0)]
    assert torch.equal(shared[0], shared[2]) and not torch.equal(shared[0], shared[1])
    monkeypatch.setattr("dscnet.refine.crf.KEPT_PIXELS", 62)
    assert torch.equal(dense_crf(probabilities, photo, gaussian_std=2.0), shared[0])


def test_kernels_of_weight_zero_are_left_out():
    probabilities, photo = noise(3, 6, 6)
    off = dense_crf(probabilities, photo, gaussian_weight=0.0, bilateral_weight=0.0)
    torch.testing.assert_close(off, probabilities)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photos": torch.zeros(1, 3, 4, 5)}, r"photos must be \(1, 3, 4, 4\)"),
        ({"color_std": 0.0}, "standard deviations must be > 0"),
        ({"backend": "magic"}, "backend must be one of lattice, exact, pydensecrf"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {"probabilities": torch.ones(1, 2, 4, 4), "photos": torch.zeros(1, 3, 4, 4)}
    with pytest.raises(ValueError, match=message):
        dense_crf(**(arguments | change))


@pytest.mark.skipif(HAS_PACKAGE, reason="pydensecrf is installed")
def test_without_the_package_its_backend_says_what_to_do():
    with pytest.raises(ImportError, match=r"pip install 'dscnet\[crf\]'"):
        dense_crf(*noise(2, 4, 4), backend="pydensecrf")


needs_package = pytest.mark.skipif(not HAS_PACKAGE, reason="pydensecrf2 is not installed")


@needs_package
@pytest.mark.parametrize("settings", [{}, SEAM])
@pytest.mark.parametrize("labels", [2, 21])
def test_agrees_with_the_package(settings, labels):
    start, photo, _ = disk(60, 80, labels)
    ours = dense_crf(start, photo, **settings)
    theirs = dense_crf(start, photo, backend="pydensecrf", **settings)
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.999
    assert (ours - theirs).abs().max() < 2e-3


@needs_package
@pytest.mark.data
@pytest.mark.slow
def test_agrees_with_the_package_on_fifty_photos(shared_data):
    from dscnet.data import open_dataset, read_image

    samples = open_dataset(shared_data / "msrc", "train").samples[::7][:50]
    for index, sample in enumerate(samples):
        photo = read_image(sample.image_path)[None]
        made = torch.Generator().manual_seed(index)
        # Scores as coarse as those of a network.
        scores = F.interpolate(torch.randn(1, 4, 7, 10, generator=made), photo.shape[-2:])
        probabilities = F.avg_pool2d(scores, 15, 1, 7).mul(3).softmax(1)
        for settings in ({}, SEAM):
            ours = dense_crf(probabilities, photo, **settings).argmax(1)
            theirs = dense_crf(probabilities, photo, backend="pydensecrf", **settings).argmax(1)
            assert (ours == theirs).float().mean() >= 0.995, sample.image_id


def test_no_label_is_ruled_out_beforehand():
    probabilities = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    marginals = dense_crf(probabilities, torch.zeros(1, 3, 1, 1), iterations=0)
    assert marginals.flatten().tolist() == pytest.approx([1 / 1.00001, 1e-5 / 1.00001], rel=1e-3)
    marginals = dense_crf(probabilities, torch.zeros(1, 3, 1, 1), iterations=0, least=0.25)
    assert marginals.flatten().tolist() == pytest.approx([0.8, 0.2])


def test_the_package_is_given_the_same_energies_and_kernels(monkeypatch, generator):
    class Told:
        """Stands in for the package, and notes what it is told."""

        def __init__(self, width, height, labels):
            self.shape = (labels, height, width)
            calls.append(("size", width, height, labels))

        def setUnaryEnergy(self, energy):
            calls.append(("energy", energy.copy()))

        def addPairwiseGaussian(self, **options):
            calls.append(("gaussian", options))

        def addPairwiseBilateral(self, **options):
            calls.append(("bilateral", options))

        def inference(self, iterations):
            calls.append(("iterations", iterations))
            return np.arange(np.prod(self.shape)).reshape(self.shape[0], -1)

    calls = []
    for name in ("pydensecrf", "pydensecrf.densecrf"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(DenseCRF2D=Told))
    probabilities, photo = noise(2, 3, 4)
    settings = {"gaussian_std": 1.5, "gaussian_weight": 2.0, "bilateral_weight": 7.0, **SEAM}
    result = dense_crf(probabilities, photo, iterations=6, backend="pydensecrf", **settings)
    size, energy, gaussian, bilateral, iterations = calls
    assert size[1:] == (4, 3, 2) and iterations == ("iterations", 6)
    np.testing.assert_allclose(energy[1], -probabilities[0].flatten(1).log().numpy())
    assert gaussian == ("gaussian", {"sxy": 1.5, "compat": 2.0})
    pixels = bilateral[1].pop("rgbim")
    assert bilateral == ("bilateral", {"sxy": 80.0, "srgb": 13.0, "compat": 7.0})
    np.testing.assert_array_equal(pixels, photo[0].permute(1, 2, 0).numpy())
    assert result.flatten().tolist() == list(range(24))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_computes_in_single_precision(dtype):
    probabilities, photo = noise(3, 5, 6)
    probabilities = probabilities.to(dtype)
    result = dense_crf(probabilities, photo)
    assert result.dtype == torch.float32
    assert torch.equal(result, dense_crf(probabilities.float(), photo))


def test_the_constants_are_irnets():
    probabilities, photo = noise(3, 6, 7)
    published = {
        "iterations": 10,
        "gaussian_std": 3.0,
        "gaussian_weight": 3.0,
        "bilateral_std": 50.0,
        "color_std": 5.0,
        "bilateral_weight": 10.0,
    }
    # Colours and places near each other, so that every constant matters.
    photo = photo // 20
    expected = dense_crf(probabilities, photo, backend="exact", **published)
    assert torch.equal(dense_crf(probabilities, photo, backend="exact"), expected)
    for name, value in published.items():
        changed = published | {name: type(value)(value / 2)}
        other = dense_crf(probabilities, photo, backend="exact", **changed)
        assert not torch.equal(other, expected), name


def test_labels_that_are_nowhere_probable_get_no_messages():
    probabilities, photo = noise(5, 8, 9)
    probabilities[:, 1], probabilities[:, 3] = 1e-4, 0.009
    probabilities[0, 3, 2, 2] = 0.011
    probabilities /= probabilities.sum(1, keepdim=True)
    whole = dense_crf(probabilities, photo, **SEAM)
    result = dense_crf(probabilities, photo, negligible=0.01, **SEAM)
    torch.testing.assert_close(result.sum(1), torch.ones(1, 8, 9))
    torch.testing.assert_close(result, whole, rtol=0, atol=0.01)
    assert not torch.equal(result[:, 1], whole[:, 1])
    # Without any message the unary energies are all.
    none = dense_crf(probabilities, photo, negligible=2.0, **SEAM)
    torch.testing.assert_close(none, probabilities)


def test_the_kernel_of_positions_is_built_once_for_photos_of_a_size(monkeypatch):
    crf._kernel_of_positions.cache_clear()
    built = []
    own = crf.LatticeKernel
    monkeypatch.setattr(crf, "LatticeKernel", lambda f: built.append(f.shape[1]) or own(f))
    probabilities, photo = noise(2, 6, 7)
    first = dense_crf(probabilities, photo)
    assert torch.equal(dense_crf(probabilities, photo), first)
    dense_crf(*noise(2, 7, 6))
    assert sorted(built) == [2, 2, 5, 5, 5]
    crf._kernel_of_positions.cache_clear()
