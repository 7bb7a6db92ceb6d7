"""From a trained network to pseudo labels: CAMs, refinement, background threshold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dscnet.config.training import OptimiserConfig

Criterion = Literal[
    "auto", "otsu", "class_otsu", "tags", "stability", "agreement", "scales", "saliency"
]


@dataclass
class CamConfig:
    """CAM inference on the training photos.

    Args:
        scales: Photo scales whose CAMs are added up.
        flip: Also add the CAMs of the mirrored photos.
        batch_size: Photos of equal size per forward pass.
        keep_scales: Also store the CAM of each scale (a quarter of the side, 8 bits), for
            ``label.bg_score: scales``.
        published_resize_quirk: Resize 8-bit photos before normalisation, and CAMs in two steps, as
            SEAM's published code does.
    """

    scales: list[float] = field(default_factory=lambda: [1.0, 1.5])
    flip: bool = True
    batch_size: int = 8
    keep_scales: bool = False
    published_resize_quirk: bool = False


@dataclass
class RefineConfig:
    """Refinement of the pseudo labels.

    Args:
        steps: Refinement steps, in the order given: ``pamr``, ``crf`` (dense CRF), ``walk`` (random
            walk on features), ``masks`` (external mask proposals), ``affinity`` (AffinityNet) and
            ``irn`` (IRNet); the last two train a network first. Empty = no refinement.
        certainty: Initial probability of the labels at the background threshold; null = use the
            CAM scores, normalised to sum to 1. No effect if ``affinity`` or ``irn`` is the first
            step.
        bg_power: The initial score of the background is (1 - maximum class score) to this power;
            null = ``label.bg_score``.
        masks: Folder or COCO JSON of class-agnostic masks, for step ``masks``.
        mask_overlap: Part of a mask's pixels that must share a label for the mask to take it, in
            (0, 1].
    """

    steps: list[str] = field(default_factory=list)
    certainty: float | None = 0.7
    bg_power: float | None = None
    masks: str | None = None
    mask_overlap: float = 0.5


@dataclass
class AffinityConfig(OptimiserConfig):
    """AffinityNet, for the refinement step ``affinity``.

    Photos are augmented by ``augment``, except for ``scale_range``. AffinityNet's published
    background is ``refine.bg_power: 6``.

    Args:
        epochs: Passes over the training photos.
        published_momentum_quirk: Use the weight decay, 5e-4, also as SGD's momentum, as SEAM's
            published code does.
        clip: Upper bound of the gradient norm; 0 = no clipping.
        start: Initial backbone: ``cam`` (of the trained CAM network) or ``weights``
            (``model.weights``, as published).
        scale_range: Range of the photo scale, drawn uniformly (published: 1 to 1); null = by
            ``augment.long_side``.
        output_stride: Stride of the affinities, pixels.
        radius: Radius of the pixel pairs, cells.
        powers: Exponents of the score of the background, (1 - maximum class score), that select
            certain foreground (first) and certain background (second) for training.
        beta: Exponent of the affinities in the random walk.
        log_steps: The random walk takes 2 to the power of this many steps.
    """

    epochs: int = 8
    batch_size: int = 8
    lr: float = 1e-3
    published_momentum_quirk: bool = False
    clip: float = 10.0
    start: Literal["cam", "weights"] = "cam"
    scale_range: list[float] | None = None
    output_stride: int = 8
    radius: int = 5
    powers: list[float] = field(default_factory=lambda: [4.0, 24.0])
    beta: float = 8.0
    log_steps: int = 6


@dataclass
class IrnConfig(OptimiserConfig):
    """IRNet's boundary branch, for the refinement step ``irn``.

    Args:
        epochs: Passes over the training photos.
        lr: Learning rate of the boundary branch.
        start: Backbone, not trained: ``cam`` or ``weights``, as in ``affinity.start``.
        radius: Radius of the pixel pairs in training, cells.
        walk_radius: Radius of the pixel pairs in the random walk, cells.
        bg_scores: Background thresholds that select certain background (first) and certain
            foreground (second) for training.
        beta: Exponent of the affinities in the random walk.
        log_steps: The random walk takes 2 to the power of this many steps.
        threshold: Background threshold after the random walk.
    """

    epochs: int = 3
    batch_size: int = 16
    start: Literal["cam", "weights"] = "cam"
    radius: int = 10
    walk_radius: int = 5
    bg_scores: list[float] = field(default_factory=lambda: [0.05, 0.3])
    beta: float = 10.0
    log_steps: int = 8
    threshold: float = 0.25

    @property
    def new_lr_factor(self) -> float:
        """Only new layers are trained, at ``lr``."""
        return 1.0

    @property
    def weight_decay(self) -> float:
        """IRNet's published one."""
        return 1e-4


@dataclass
class LabelConfig:
    """Pseudo labels from CAMs.

    Args:
        bg_score: Background threshold, in [0, 1], or a criterion that estimates it from the CAMs,
            never from masks: ``otsu``, ``class_otsu``, ``tags``, ``stability``, ``agreement`` (of
            the CAMs before and after the network's refinement), ``scales`` (agreement of CAMs of
            single scales), ``saliency``; ``auto`` = ``agreement`` for SEAM and for DSCNet on a
            plain CAM, else ``class_otsu``.
        ignore_band: Two scores; pixels whose maximum class score lies between them are ignored
            (255).
        cams: Folder of external CAMs; null = the CAMs of the run.
        salient_only: Set pixels outside AuxSegNet's last saliency label to background, except
            classes of ``auxseg.stuff``.
    """

    bg_score: float | Criterion = "auto"
    ignore_band: list[float] | None = None
    cams: str | None = None
    salient_only: bool = False
