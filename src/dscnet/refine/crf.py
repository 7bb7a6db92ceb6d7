"""Dense CRF: aligns label probabilities with the edges of the photo.

Kraehenbuehl, Koltun: "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NeurIPS 2011. All pairs of pixels are connected by two Gaussian kernels, one of positions and one
of positions and colours (bilateral), with a Potts model; mean-field iterations give marginals.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dscnet.numerics import softmax_of_rows
from dscnet.refine.permutohedral import LatticeKernel
from dscnet.refine.steps import RefinementStep, Step

Backend = Literal["lattice", "exact", "pydensecrf"]
BACKENDS = ("lattice", "exact", "pydensecrf")
"""Filter backends: approximate and fast, exact (small photos), or the optional package."""

LEAST = 1e-5
"""Default lower bound of probabilities, so that no label is ruled out a priori."""

KEPT_PIXELS = 2**19
"""Photos up to this size share the kernel of positions, which depends on their size only."""

BLOCK = 2**22
"""Entries of an exact kernel held in memory at once."""

Kernel = Callable[[Tensor], Tensor]
Term = tuple[float, float, float | None]
"""Weight of a kernel, standard deviation of its positions, and of its colours if it has them."""


@torch.no_grad()
def dense_crf(
    probabilities: Tensor,
    photos: Tensor,
    *,
    iterations: int = 10,
    gaussian_std: float = 3.0,
    gaussian_weight: float = 3.0,
    bilateral_std: float = 50.0,
    color_std: float = 5.0,
    bilateral_weight: float = 10.0,
    least: float = LEAST,
    negligible: float = 0.0,
    backend: Backend = "lattice",
) -> Tensor:
    """Marginals of the labels after mean-field inference.

    The unary energy is ``u = -log max(p, least)``; an iteration is ``q = softmax(-u + sum w K q)``
    with symmetric normalisation of ``K`` by the root of its row sums, the pixel itself included, as
    in pydensecrf. The default parameters are IRNet's, for labels with a fixed certainty; SEAM and
    AffinityNet use a bilateral kernel of 80 pixels and 13 grey values, for scores.

    Args:
        probabilities: ``(B, L, H, W)``, at least one label.
        photos: RGB in [0, 255], ``(B, 3, H, W)``, of any dtype.
        iterations: Mean-field iterations, >= 0.
        gaussian_std: Standard deviation of the Gaussian kernel, pixels.
        gaussian_weight: Its weight; 0 = off.
        bilateral_std: Standard deviation of the bilateral kernel's positions, pixels.
        color_std: Standard deviation of its colours, on the scale of [0, 255].
        bilateral_weight: Its weight; 0 = off.
        least: Lower bound of probabilities, > 0.
        negligible: Labels that are nowhere more probable than this are not filtered, for speed:
            their energies keep their unary part only. 0 = filter all. Not with ``pydensecrf``.
        backend: One of ``BACKENDS``. ``exact`` is quadratic in the number of pixels.

    Returns:
        ``(B, L, H, W)`` float32, sums to 1 over the labels.

    Raises:
        ValueError: If shapes do not match, a standard deviation is not positive, or ``backend`` is
            unknown.
        ImportError: If ``pydensecrf`` is requested but not installed.
    """
    _check(probabilities, photos, (gaussian_std, bilateral_std, color_std), backend)
    terms: list[Term] = [
        (gaussian_weight, gaussian_std, None),
        (bilateral_weight, bilateral_std, color_std),
    ]
    terms = [term for term in terms if term[0]]
    marginals = torch.empty_like(probabilities, dtype=torch.float32)
    for out, prior, photo in zip(marginals, probabilities, photos, strict=True):
        unary = -prior.float().clamp(min=least).log()
        if backend == "pydensecrf":
            out[:] = _by_pydensecrf(unary, photo, terms, iterations)
            continue
        kernels = [(weight, _kernel(photo, std, own, backend)) for weight, std, own in terms]
        filtered = prior.flatten(1).amax(1) > negligible
        rows = mean_field(unary.flatten(1).T, kernels, iterations, filtered)
        out[:] = rows.T.view_as(out)
    return marginals


def mean_field(
    unary: Tensor,
    kernels: list[tuple[float, Kernel]],
    iterations: int,
    filtered: Tensor | None = None,
) -> Tensor:
    """Mean-field marginals under a Potts model.

    Args:
        unary: Energy of each label, ``(N, L)``.
        kernels: Weight of each kernel, and a function that applies it to ``(N, L)``.
        iterations: Synchronous updates of all pixels.
        filtered: Labels that the kernels are applied to, ``(L,)`` bool; the others get no messages.
            None = all.

    Returns:
        ``(N, L)``, rows sum to 1.
    """
    if filtered is None or filtered.all():
        return _mean_field(unary.contiguous(), kernels, iterations)
    # The others are one label without messages: their ratios stay those of the unary energies.
    others = -(-unary[:, ~filtered]).logsumexp(1, keepdim=True)
    merged = _mean_field(torch.cat([unary[:, filtered], others], 1), kernels, iterations, silent=1)
    marginals = torch.empty_like(unary)
    marginals[:, filtered] = merged[:, :-1]
    marginals[:, ~filtered] = merged[:, -1:] * (others - unary[:, ~filtered]).exp()
    return marginals


def _mean_field(
    unary: Tensor, kernels: list[tuple[float, Kernel]], iterations: int, silent: int = 0
) -> Tensor:
    """The same for contiguous energies, whose last ``silent`` labels get no messages."""
    marginals = softmax_of_rows(-unary)
    for _ in range(iterations):
        energy = -unary
        for weight, kernel in kernels:
            energy.add_(kernel(marginals), alpha=weight)
        if silent:
            energy[:, -silent:] = -unary[:, -silent:]
        marginals = softmax_of_rows(energy)
    return marginals


def crf_features(photo: Tensor, std: float, color_std: float | None = None) -> Tensor:
    """Positions, and optionally colours, of each pixel in standard deviations.

    Args:
        photo: ``(3, H, W)``.
        std: Of the positions, pixels.
        color_std: Of the colours; None = positions only.

    Returns:
        ``(H W, 2)`` columns x, y, or ``(H W, 5)`` columns x, y, red, green, blue; float32.
    """
    height, width = photo.shape[-2:]
    axes = [torch.arange(n, device=photo.device, dtype=torch.float32) for n in (height, width)]
    y, x = torch.meshgrid(*axes, indexing="ij")
    columns = [x / std, y / std]
    if color_std is not None:
        columns += list(photo.float() / color_std)
    return torch.stack(columns, -1).flatten(0, 1)


def exact_kernel(features: Tensor, values: Tensor) -> Tensor:
    """Apply ``D^-1/2 K D^-1/2`` with ``K_ij = exp(-|f_i - f_j|^2 / 2)`` and D its row sums.

    Args:
        features: ``(N, d)``.
        values: ``(N, L)``.

    Returns:
        ``(N, L)``. Quadratic in N in time, not in memory.
    """
    count = max(1, BLOCK // len(features))

    def times(table: Tensor) -> Tensor:
        blocks = torch.split(features, count)
        return torch.cat([_gauss(block, features) @ table for block in blocks])

    scale = times(torch.ones_like(values[:, :1])).rsqrt()
    return scale * times(scale * values)


def _gauss(some: Tensor, others: Tensor) -> Tensor:
    # Distances by differences: products lose precision for similar pixels.
    distance = torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.square().div_(-2).exp_()


def _kernel(photo: Tensor, std: float, color_std: float | None, backend: str) -> Kernel:
    height, width = photo.shape[-2:]
    if backend == "exact":
        return partial(exact_kernel, crf_features(photo, std, color_std))
    if color_std is None and height * width <= KEPT_PIXELS:
        return _kernel_of_positions(height, width, std, photo.device)
    return LatticeKernel(crf_features(photo, std, color_std))


@lru_cache(maxsize=4)
def _kernel_of_positions(
    height: int, width: int, std: float, device: torch.device
) -> LatticeKernel:
    return LatticeKernel(crf_features(torch.empty(3, height, width, device=device), std))


def _by_pydensecrf(unary: Tensor, photo: Tensor, terms: list[Term], iterations: int) -> Tensor:
    """The same marginals by pydensecrf."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise ImportError(
            "backend 'pydensecrf' needs the package pydensecrf2 (pip install 'dscnet[crf]', needs a"
            " C++ compiler); backend 'lattice' has no dependencies"
        ) from error
    labels, height, width = unary.shape
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.flatten(1).cpu().numpy()))
    pixels = np.ascontiguousarray(photo.permute(1, 2, 0).to(torch.uint8).cpu().numpy())
    for weight, std, color_std in terms:
        if color_std is None:
            crf.addPairwiseGaussian(sxy=std, compat=weight)
        else:
            crf.addPairwiseBilateral(sxy=std, srgb=color_std, rgbim=pixels, compat=weight)
    marginals = np.asarray(crf.inference(iterations), dtype=np.float32)
    return torch.from_numpy(marginals.reshape(labels, height, width))


def _check(probabilities: Tensor, photos: Tensor, stds: tuple[float, ...], backend: str) -> None:
    batch, _, height, width = probabilities.shape
    if photos.shape != (batch, 3, height, width):
        raise ValueError(
            f"photos must be {(batch, 3, height, width)} for probabilities"
            f" {tuple(probabilities.shape)}, got {tuple(photos.shape)}"
        )
    if min(stds) <= 0:
        raise ValueError(f"standard deviations must be > 0, got {stds}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def _open(job: Any) -> Callable[[Any], Step]:
    return lambda sample: dense_crf


STEP = RefinementStep("crf", _open)
