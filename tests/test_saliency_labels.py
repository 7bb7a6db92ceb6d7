"""Tests of ``dscnet.refine.saliency``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dscnet.data.io import read_saliency
from dscnet.files.label_images import write_saliency
from dscnet.refine import saliency as saliency_labels
from dscnet.refine.crf import crf_features, mean_field
from dscnet.refine.saliency import (
    fill_undecided,
    fit_to_photo,
    fuse_saliency,
    refresh_saliency,
    saliency_from_cam,
)

PHOTO = np.zeros((1, 2, 3), dtype=np.uint8)


@pytest.mark.parametrize("classes", [[0], [3, 1], [0, 7, 19]])
def test_fusion_against_loops(classes: list[int]) -> None:
    rng = np.random.default_rng(0)
    cam, saliency = rng.random((len(classes), 6, 7)) * 0.4, rng.random((6, 7)) * 0.12
    labels = fuse_saliency(cam, classes, saliency, cam_score=0.2, saliency_score=0.06)
    for row in range(6):
        for column in range(7):
            scores = [cam[index, row, column] for index in range(len(classes))]
            active, salient = max(scores) > 0.2, saliency[row, column] > 0.06
            if active and salient:
                expected = classes[scores.index(max(scores))] + 1
            elif active or salient:
                expected = 255
            else:
                expected = 0
            assert labels[row, column] == expected
    assert {0, 255, classes[0] + 1} <= set(np.unique(labels))


def test_fusion_by_hand_and_its_thresholds_are_exclusive() -> None:
    cam = np.array([[[0.3, 0.3, 0.1, 0.1, 0.2]]])
    saliency = np.array([[0.5, 0.0, 0.5, 0.0, 0.06]])
    assert fuse_saliency(cam, [4], saliency).tolist() == [[5, 255, 255, 0, 0]]


def test_stuff_is_labelled_where_its_map_is_the_strongest_salient_or_not() -> None:
    cam = np.array([[[0.9, 0.9, 0.1, 0.1, 0.3]], [[0.3, 0.3, 0.1, 0.1, 0.9]]])
    saliency = np.array([[0.5, 0.0, 0.5, 0.0, 0.0]])
    assert fuse_saliency(cam, [4, 6], saliency).tolist() == [[5, 255, 255, 0, 255]]
    assert fuse_saliency(cam, [4, 6], saliency, stuff=[4]).tolist() == [[5, 5, 255, 0, 255]]
    assert fuse_saliency(cam, [4, 6], saliency, stuff=[6, 9]).tolist() == [[5, 255, 255, 0, 7]]


def test_a_photo_without_classes_is_background_whatever_stands_out() -> None:
    labels = fuse_saliency(np.zeros((0, 2, 2)), [], np.ones((2, 2)))
    assert labels.dtype == np.uint8 and not labels.any()


def test_fusion_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"saliency must be \(1, 2\)"):
        fuse_saliency(np.zeros((1, 1, 2)), [0], np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"cam_score must be in \[0, 1\], got 2"):
        fuse_saliency(np.zeros((1, 1, 2)), [0], np.zeros((1, 2)), cam_score=2)


def test_undecided_pixels_take_the_label_of_what_is_near_and_alike() -> None:
    """A dark square on a bright ground, each with a seed; one decided pixel strays."""
    photo = torch.full((3, 12, 16), 220, dtype=torch.uint8)
    photo[..., :8] = 20
    labels = np.full((12, 16), 255, dtype=np.uint8)
    labels[3:9, 1:5], labels[3:9, 11:15], labels[5, 12] = 5, 0, 8
    filled = fill_undecided(labels, np.array([4, 7]), photo)
    expected = np.where(photo[0].numpy() < 100, 5, 0)
    expected[5, 12] = 8
    np.testing.assert_array_equal(filled, expected)
    assert filled.dtype == np.uint8
    assert fill_undecided(filled, np.array([4, 7]), photo) is filled


def test_pixels_stay_undecided_where_a_class_has_no_decided_ones() -> None:
    labels = np.array([[0, 255, 5]], dtype=np.uint8)
    photo = torch.zeros(3, 1, 3, dtype=torch.uint8)
    assert fill_undecided(labels, np.array([4, 7]), photo).tolist() == [[0, 255, 5]]
    assert 255 not in fill_undecided(labels, np.array([4]), photo)


def test_the_stand_in_is_the_strongest_class() -> None:
    cam = np.array([[[0.1, 0.9]], [[0.4, 0.2]]])
    assert saliency_from_cam(cam).tolist() == [[0.4, 0.9]]
    assert saliency_from_cam(np.zeros((0, 1, 2))).tolist() == [[0, 0]]


def test_refreshed_saliency_is_the_mean() -> None:
    predicted, initial = np.array([[0.9, 0.2]]), np.array([[0.2, 0.8]])
    np.testing.assert_allclose(refresh_saliency(predicted, initial, PHOTO), [[0.55, 0.5]])


def test_a_refinement_sees_the_mean_and_the_photo() -> None:
    seen = []

    def invert(mean: np.ndarray, photo: np.ndarray) -> np.ndarray:
        seen.append((mean.tolist(), photo is PHOTO))
        return 1 - mean

    predicted, initial = np.array([[1.0, 0.0]]), np.array([[1.0, 0.5]])
    labels = refresh_saliency(predicted, initial, PHOTO, refine=invert)
    assert seen == [([[1.0, 0.25]], True)] and labels.tolist() == [[0, 0.75]]


def test_a_map_is_fitted_to_the_edges_of_its_photo() -> None:
    """A dark square on a bright ground; the map is unsure of its last column and strays by one."""
    photo = np.full((12, 16, 3), 220, dtype=np.uint8)
    photo[:, :8] = 20
    mean = np.full((12, 16), 0.05)
    mean[:, :7], mean[:, 7], mean[5, 11] = 0.95, 0.4, 0.6
    fitted = fit_to_photo(mean, photo) > 0.5
    np.testing.assert_array_equal(fitted, photo[..., 0] < 100)


def test_the_fit_of_a_map_of_zeros_and_ones_is_the_mean_field_of_its_energies() -> None:
    """Their energies are far above those that the CRF gives small probabilities by default."""
    generator = np.random.default_rng(0)
    photo = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    mean = (generator.random((6, 7)) < 0.5).astype(np.float32)
    both = torch.from_numpy(np.stack([1 - mean, mean])).double()
    energy = -(both + 1e-8).log() / (1.05 * both.sigmoid())
    assert energy.max() > 20
    pixels = torch.from_numpy(photo).permute(2, 0, 1)
    kernels = [
        (3.0, exact_kernel(crf_features(pixels, 3.0)).matmul),
        (5.0, exact_kernel(crf_features(pixels, 60.0, 5.0)).matmul),
    ]
    expected = mean_field(energy.float().flatten(1).T, kernels, 1)[:, 1].view(6, 7)
    np.testing.assert_allclose(fit_to_photo(mean, photo), expected, atol=2e-3)


def exact_kernel(features: torch.Tensor) -> torch.Tensor:
    kernel = (-0.5 * torch.cdist(features, features).square()).exp()
    root = kernel.sum(1).sqrt()
    return kernel / (root[:, None] * root)


def test_the_energies_of_the_fit_are_the_published_ones(monkeypatch) -> None:
    seen = {}

    def record(probabilities, photos, **options):
        seen.update(options, unary=-probabilities.log()[0], photo=photos)
        return probabilities

    monkeypatch.setattr(saliency_labels, "dense_crf", record)
    fit_to_photo(np.array([[0.9, 0.25]]), PHOTO)
    for pixel, p in enumerate((0.9, 0.25)):
        for label, share in enumerate((1 - p, p)):
            energy = -math.log(share + 1e-8) / (1.05 / (1 + math.exp(-share)))
            assert seen["unary"][label, 0, pixel].item() == pytest.approx(energy, rel=1e-5)
    kernels = [seen[k] for k in ("gaussian_std", "gaussian_weight", "bilateral_std", "color_std")]
    assert (kernels, seen["bilateral_weight"], seen["iterations"]) == ([3, 3, 60, 5], 5, 1)
    assert seen["photo"].shape == (1, 3, *PHOTO.shape[:2])


def test_written_maps_are_read_again(tmp_path) -> None:
    saliency = np.array([[0, 51, 255]]) / 255
    write_saliency(tmp_path / "a.png", saliency)
    np.testing.assert_allclose(read_saliency(tmp_path / "a.png")[0].numpy(), saliency, atol=1e-6)


def test_the_fit_computes_in_single_precision() -> None:
    mean = np.array([[0.0, 0.25, 1.0]], dtype=np.float16)
    photo = np.full((1, 3, 3), 9, dtype=np.uint8)
    fitted = fit_to_photo(mean, photo)
    assert np.isfinite(fitted).all()
    np.testing.assert_array_equal(fitted, fit_to_photo(mean.astype(np.float32), photo))
