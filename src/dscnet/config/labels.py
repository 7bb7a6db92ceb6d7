"""From a trained network to pseudo labels: maps, refinement, background score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dscnet.config.training import OptimiserConfig

Criterion = Literal[
    "auto", "otsu", "class_otsu", "tags", "stability", "agreement", "scales", "saliency"
]


@dataclass
class CamConfig:
    """Inference of the maps that labels are made from.

    Args:
        scales: Photo scales whose maps are summed.
        flip: Each scale also mirrored.
        batch_size: Photos of one size a forward pass.
        keep_scales: The files of maps hold each scale's map too, reduced by four, 8 bits; for
            ``label.bg_score: scales``.
        published_resize_quirk: SEAM's code scales 8-bit photos before it normalises them, and
            enlarges maps to the scaled photo (aligned corners) before it resizes them to the photo
            (corners not aligned); true does as it does.
    """

    scales: list[float] = field(default_factory=lambda: [1.0, 1.5])
    flip: bool = True
    batch_size: int = 8
    keep_scales: bool = False
    published_resize_quirk: bool = False


@dataclass
class RefineConfig:
    """Refinement of the pseudo labels by photo and features, before they are written.

    Args:
        steps: Among ``pamr``, ``crf``, ``walk``, ``masks``, ``affinity`` and ``irn``, in this
            order; none = labels of the maps. The last two train a network first.
        certainty: Probability that refinement starts with for the label at the background score;
            null = the scores themselves, scaled to sum to 1. Not read where ``affinity`` or ``irn``
            comes first: they start from the scores as they are.
        bg_power: Background of the start is (1 - strongest score) to this power; null = bg_score.
        masks: Folder or COCO JSON of masks that a class-agnostic segmenter made; for step
            ``masks``.
        mask_overlap: A mask takes a label that at least this part of its pixels has, in (0, 1].
    """

    steps: list[str] = field(default_factory=list)
    certainty: float | None = 0.7
    bg_power: float | None = None
    masks: str | None = None
    mask_overlap: float = 0.5


@dataclass
class AffinityConfig(OptimiserConfig):
    """AffinityNet, along whose affinities the refinement step ``affinity`` walks.

    Its training photos are varied as ``augment`` says, but for ``scale_range``. The published
    background of the maps that are spread is ``refine.bg_power: 6``.

    Args:
        start: Trunk that its training starts from: ``cam`` (the trained CAM network's) or
            ``weights`` (``model.weights``, as published).
        scale_range: Its photos are scaled by a factor drawn uniformly from this closed range
            (published: 1 to 1); null = to ``augment.long_side``.
        output_stride: Photo pixels a cell.
        radius: Cells nearer than this are pairs.
        powers: Pixels that are foreground under a background of (1 - strongest score) to the first
            power, and those that are background under the second, teach it.
        beta: Exponent of the affinities in the walk.
        log_steps: The walk has 2 to this many steps.
    """

    epochs: int = 8
    batch_size: int = 8
    lr: float = 1e-3
    start: Literal["cam", "weights"] = "cam"
    scale_range: list[float] | None = None
    output_stride: int = 8
    radius: int = 5
    powers: list[float] = field(default_factory=lambda: [4.0, 24.0])
    beta: float = 8.0
    log_steps: int = 6


@dataclass
class IrnConfig(OptimiserConfig):
    """IRNet's boundaries, between which the refinement step ``irn`` walks.

    Args:
        start: Trunk that it reads, which is not trained: ``cam`` or ``weights``, as for
            ``affinity``.
        radius: Cells nearer than this are pairs in training.
        walk_radius: The same in the walk.
        bg_scores: Pixels that are background at the first score, and those that are foreground at
            the second, teach it.
        beta: Exponent of the affinities in the walk.
        log_steps: The walk has 2 to this many steps.
        threshold: Background score after the walk.
    """

    epochs: int = 3
    batch_size: int = 16
    new_lr_factor: float = 1.0
    weight_decay: float = 1e-4
    start: Literal["cam", "weights"] = "cam"
    radius: int = 10
    walk_radius: int = 5
    bg_scores: list[float] = field(default_factory=lambda: [0.05, 0.3])
    beta: float = 10.0
    log_steps: int = 8
    threshold: float = 0.25


@dataclass
class LabelConfig:
    """From maps to pseudo labels.

    Args:
        bg_score: Score of the background, in [0, 1], or a criterion that reads it off the maps:
            ``otsu``, ``class_otsu``, ``tags``, ``stability``, ``agreement`` (of the maps before and
            after the network's refinement), ``scales`` (agreement of the maps of single scales),
            ``saliency``; ``auto`` = ``agreement`` on SEAM and wherever DSCNet refines a plain CAM,
            else ``class_otsu``. Never chosen on masks.
        ignore_band: Two scores; pixels whose best map lies between them become 255.
        cams: Folder of maps made elsewhere; null = the run's own.
        salient_only: Pixels outside the saliency label of AuxSegNet's last round are background,
            those of ``auxseg.stuff`` excepted.
    """

    bg_score: float | Criterion = "auto"
    ignore_band: list[float] | None = None
    cams: str | None = None
    salient_only: bool = False
