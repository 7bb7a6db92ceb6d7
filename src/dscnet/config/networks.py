"""The CAM network: augmentation, backbone, baseline, and DSCNet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Variant = Literal["baseline", "M1", "M2", "M3", "M4"]


@dataclass
class AugmentConfig:
    """Augmentation of the training photos: rescaling, then a random crop.

    Args:
        crop_size: Side of the square training crop, pixels.
        long_side: Range of the photo's longer side, pixels; drawn uniformly.
        jitter: Strength of brightness, contrast, saturation and hue jitter.
        published_padding_quirk: Label the padding around photos smaller than the crop as
            background, as AuxSegNet's published code does; false ignores it.
        num_workers: Data loader processes; results do not depend on it.
    """

    crop_size: int = 224
    long_side: list[int] = field(default_factory=lambda: [224, 384])
    jitter: list[float] = field(default_factory=lambda: [0.3, 0.3, 0.3, 0.0])
    published_padding_quirk: bool = False
    num_workers: int = 0


@dataclass
class ModelConfig:
    """CAM network.

    Args:
        name: Baseline: ``seam``, ``auxsegnet`` or ``cam`` (plain CAM).
        backbone: A timm model with feature maps, or ``resnet38`` (the backbone of the published
            baselines, stride 8).
        output_stride: Stride of the last feature map: 8, 16 or 32.
        weights: Initial weights: ``packaged`` (ImageNet, from a Python package), ``imagenet`` (timm
            hub), a timm tag, a file, or ``none``. For ``resnet38`` a file (also MXNet ``.params``)
            or ``none``.
        frozen_stages: Freeze the stem and this many early stages. For ``resnet38``: 1 = ``conv1a``
            (AuxSegNet), 2 = ``conv1a`` and ``b2`` (SEAM).
        view_scale: Size of SEAM's second view relative to the crop (published: 0.3 of 448).
        classifier_gain: Factor on the Xavier initialisation of the classifier, >= 0 (published: 1).
            Small values help short trainings.
    """

    name: str = "seam"
    backbone: str = "tf_efficientnet_lite0"
    output_stride: int = 16
    weights: str = "packaged"
    frozen_stages: int = 2
    view_scale: float = 0.5
    classifier_gain: float = 0.1


@dataclass
class AuxSegConfig:
    """AuxSegNet and its rounds of self-training; only for ``model.name: auxsegnet``.

    Args:
        rounds: Training rounds, each on the pseudo labels of the previous one, the first on those
            of a plain CAM. ``train`` applies to each round.
        saliency: ``maps`` (saliency maps of the data set) or ``from_cam`` (made from the initial
            CAMs, so that tags remain the only supervision).
        cams: Folder of external initial CAMs; null = train a plain CAM first.
        cam_score: CAM threshold of objects, in [0, 1]; ``auto`` estimates it from the CAMs of each
            round, as ``label.bg_score: auto`` does.
        saliency_score: Saliency threshold of objects, in [0, 1].
        stuff: Classes that are not salient, such as trees: labelled where their CAM is the
            strongest, regardless of saliency. Unknown names are ignored.
        crf: Refine the saliency labels of each round by a dense CRF.
        fill_undecided: Fill pixels on which CAMs and saliency disagree by a dense CRF, in photos
            with labelled pixels of every class; false ignores them in training, as published.
        self_training_source: What labels the training photos of the next round: ``cam`` (refined
            CAMs and saliency, as published) or ``branch`` (also the segmentation branches so far,
            as with ``segment.rounds``).
        last_round_labels: Use the labels of the last round as the pseudo labels of the run; false
            makes them from the last CAMs by ``label``.
        branch_channels: Channels of the segmentation and the saliency branch.
        dilations: Dilations of the branches' three convolutions; null = as published, 6, 12 and 18
            at stride 8, proportionally less at larger strides. They should reach as far as a crop
            has cells.
        branch_norm: Batch normalisation after each of these convolutions; published: none.
        affinity_rows: Rows of the cross-task affinity computed at once: affects memory, not
            results.
        published_row_quirk: Refine CAMs by an affinity whose rows do not sum to 1, as the published
            code does.
        published_cam_quirk: Make labels from refined CAMs without normalising them to [0, 1], as
            the published code does; scores above 1 count as 1.
        grid_pooling: Tag scores are the mean CAM over the feature grid, as published; false = over
            the upsampled CAM, as in SEAM.
    """

    rounds: int = 3
    saliency: Literal["maps", "from_cam"] = "maps"
    cams: str | None = None
    cam_score: float | Literal["auto"] = 0.2
    saliency_score: float = 0.06
    stuff: list[str] = field(default_factory=list)
    crf: bool = True
    fill_undecided: bool = False
    self_training_source: Literal["cam", "branch"] = "cam"
    last_round_labels: bool = False
    branch_channels: int = 128
    dilations: list[int] | None = None
    branch_norm: bool = False
    affinity_rows: int = 512
    published_row_quirk: bool = False
    published_cam_quirk: bool = False
    grid_pooling: bool = False


@dataclass
class MethodConfig:
    """DSCNet: modules and their hyperparameters, see ``docs/method.md``.

    Args:
        variant: ``baseline``, ``M1`` (PGCL), ``M2`` (SGCL), ``M3`` (both) or ``M4`` (both and
            DSCL).
        pgcl_weight: Weight of PGCL, Eq. (7); alpha in the paper (0.6).
        sgcl_weight: Weight of SGCL, Eq. (9); beta in the paper (0.4).
        contrast: ``groups`` (PGCL) or ``pixels`` (Eq. 3, the baseline of Table V).
        kmeans_init: Initialisation of k-means: ``cam`` or ``kmeans++``.
        num_groups: Pixel groups per photo; null = its classes and background. Must be null with
            ``kmeans_init: cam``.
        group_margin: Groups whose class leads the second by less give no contrastive term; 0 = all
            groups do.
        head: Classifier of X in Eq. (11): its ``own``, or ``shared`` with Eq. (1).
        smooth: Weight of the group means in the refined CAM, in [0, 1]; with DSCL.
        class_similarity: Weight of each pixel's similarity to the class prototypes of the training
            set, by shrinkage LDA of the embeddings, in the refined CAM at inference, in [0, 1];
            with PGCL.
        pool_sharpness: Sharpness of the log-sum-exp that pools the groups' mean CAMs to tag scores;
            0 = mean over pixels instead.
        pool_ramp: Part of the training over which the groups' tag scores replace the mean over
            pixels; 0 = from the start.
        temperature: Temperature of the cosine similarities, > 0.
        warmup: Part of the training before the contrastive losses start, in [0, 1).
        plain_weight: Weight of the tag loss on the mean of Eq. (1)'s CAM where groups or Eq. (11)
            score the tags.
        bg_score: Background threshold of Eq. (2) and (12) during training.
    """

    variant: Variant = "M4"
    pgcl_weight: float = 0.3
    sgcl_weight: float = 0.1
    contrast: Literal["groups", "pixels"] = "groups"
    kmeans_init: Literal["cam", "kmeans++"] = "kmeans++"
    num_groups: int | None = 8
    group_margin: float = 0.0
    head: Literal["own", "shared"] = "shared"
    smooth: float = 0.5
    class_similarity: float = 0.15
    pool_sharpness: float = 1.0
    pool_ramp: float = 0.5
    temperature: float = 0.1
    warmup: float = 0.25
    plain_weight: float = 0.4
    bg_score: float = 0.25

    @property
    def pgcl(self) -> bool:
        """Whether Eq. (7) is part of the objective."""
        return self.variant in ("M1", "M3", "M4")

    @property
    def sgcl(self) -> bool:
        """Whether Eq. (9) is part of the objective."""
        return self.variant in ("M2", "M3", "M4")

    @property
    def dscl(self) -> bool:
        """Whether Eq. (10) to (12) refine the CAM."""
        return self.variant == "M4"
