"""The CAM network: photos, trunk, baseline, and DSCNet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Variant = Literal["baseline", "M1", "M2", "M3", "M4"]


@dataclass
class AugmentConfig:
    """How training photos are varied (``long_side``, then a random crop).

    Args:
        crop_size: Side of the square training crop, pixels.
        long_side: The photo's longer side is drawn uniformly from this closed range, pixels.
        jitter: Brightness, contrast, saturation and hue jitter.
        published_padding_quirk: AuxSegNet's code labels what lies around a photo smaller than the
            crop as background; true does as it does, false leaves it out (255).
        num_workers: Loader processes; results do not depend on it.
    """

    crop_size: int = 224
    long_side: list[int] = field(default_factory=lambda: [224, 384])
    jitter: list[float] = field(default_factory=lambda: [0.3, 0.3, 0.3, 0.0])
    published_padding_quirk: bool = False
    num_workers: int = 0


@dataclass
class ModelConfig:
    """The CAM network.

    Args:
        name: Baseline: ``seam``, ``auxsegnet`` or ``cam`` (plain CAM).
        backbone: Name of a timm model that offers feature maps, or ``resnet38`` (the published
            baselines' trunk, of stride 8).
        output_stride: Photo pixels a feature pixel: 8, 16 or 32.
        weights: ``packaged`` (pip-shipped ImageNet), ``imagenet`` (timm hub), a timm tag, a file,
            or ``none``. For ``resnet38`` a file (MXNet's ``.params`` too), or ``none``.
        frozen_stages: The stem and this many early stages are not trained. For ``resnet38`` 1 is
            AuxSegNet's ``conv1a``, and 2 is SEAM's ``conv1a`` and ``b2``.
        view_scale: Size of SEAM's second view relative to the crop (published: 0.3 of 448).
        classifier_gain: The classifier starts at Xavier's weights times this, >= 0 (published: 1).
            A smaller one was better in trainings of a few hundred steps (decision 10).
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
    """AuxSegNet and its rounds; read with ``model.name: auxsegnet``, ``train`` is each round's.

    Args:
        rounds: Trainings, each on the labels of the one before; the first on those of a plain CAM.
        saliency: ``maps`` (the data set's saliency maps) or ``from_cam`` (a stand-in made of the
            first maps, so that tags are all that is learned from).
        cams: Folder of first maps made elsewhere; null = a plain CAM is trained first.
        cam_score: An object's strongest class is above this, in [0, 1]; ``auto`` reads it off the
            maps of each round, as ``label.bg_score: auto`` does.
        saliency_score: An object's saliency is above this, in [0, 1].
        stuff: Names of classes that do not stand out, such as trees: saliency is not asked where
            their map is the strongest. Names that the data set does not have do nothing.
        crf: The saliency labels of a round are fitted to the photo by a dense CRF.
        fill_undecided: Pixels on which maps and saliency disagree take the label that a dense CRF
            spreads to them, in photos whose every class has decided ones; false leaves them
            undecided, as published, and nothing learns there.
        relabel: What labels the photos for the next round: ``maps`` (as published, with the
            saliency labels) or ``branch`` (the segmentation branches so far and the labels of the
            maps, as ``segment.rounds`` has it).
        keep_labels: The labels of the run are those of the last round, made of maps and saliency or
            by its branches; false makes them of the last maps alone, by ``label``, as those of the
            other networks.
        branch_channels: Channels of the segmentation and the saliency branch.
        dilations: Of the branches' three convolutions; null = as published, 6, 12 and 18 at stride
            8, less at another. They should reach about as far as a crop has cells.
        branch_norm: Batch normalisation follows each of these convolutions; none does as published.
        rows: Rows of the affinity at once: memory depends on it, results do not.
        published_row_quirk: The published code spreads maps by an affinity whose rows do not sum
            to 1; true does as it does.
        published_cam_quirk: The published code makes labels of the refined maps as they are, and
            does not stretch them to [0, 1] as SEAM does; true does as it does. Scores above 1,
            which ``published_row_quirk`` allows, count as 1.
        grid_pooling: Tag scores are the mean of the CAM over the feature grid, as published; false
            takes the mean of the enlarged CAM, as SEAM does.
    """

    rounds: int = 3
    saliency: Literal["maps", "from_cam"] = "maps"
    cams: str | None = None
    cam_score: float | Literal["auto"] = 0.2
    saliency_score: float = 0.06
    stuff: list[str] = field(default_factory=list)
    crf: bool = True
    fill_undecided: bool = False
    relabel: Literal["maps", "branch"] = "maps"
    keep_labels: bool = False
    branch_channels: int = 128
    dilations: list[int] | None = None
    branch_norm: bool = False
    rows: int = 512
    published_row_quirk: bool = False
    published_cam_quirk: bool = False
    grid_pooling: bool = False


@dataclass
class MethodConfig:
    """DSCNet: which of its modules run and how (``docs/method.md`` lists every reading).

    Args:
        variant: ``baseline``, ``M1`` (PGCL), ``M2`` (SGCL), ``M3`` (both) or ``M4`` (both, and
            DSCL).
        pgcl_weight: Weight of Eq. (7), the paper's alpha (0.6 there).
        sgcl_weight: Weight of Eq. (9), the paper's beta (0.4 there).
        contrast: ``groups`` (PGCL) or ``pixels`` (Eq. 3, the comparison of Table V).
        group_by: Feature map that pixels are grouped by: ``last`` (X), ``middle`` or ``early``.
        grouping: Reading of Eq. (4), (5): ``pearson`` or ``context_rows``.
        starts: k-means starts: ``cam`` or ``kmeans++``.
        num_groups: Groups a photo; null = its categories and background. With ``cam`` starts: null.
        group_rule: A group's category: ``mean_cam``, or ``majority`` of its pixels' labels.
        group_margin: Groups whose category leads the next by less give no term; 0 = all do.
        fusion: Reading of Eq. (10): ``groups`` or ``categories``.
        head: The half of Eq. (11) that reads X: its ``own``, or Eq. (1)'s ``shared``.
        smooth: Share of the refined map that its groups' means give, in [0, 1]; with DSCL.
        likeness: Weight of what pixels of all photos say of a pixel, in the refined map and in
            inference, in [0, 1]; with PGCL.
        pool_sharpness: Of the log-sum-exp that pools the groups' mean CAM to tag scores; 0 = the
            mean over the pixels instead.
        pool_ramp: Share of training over which the groups' tag scores take the place of the mean
            over the pixels; 0 = they are there from the start.
        row_norm: norm() of Eq. (10): ``softmax`` with the temperature, or ``l1``.
        zero_init: The half of Eq. (11) that reads the context starts at zero.
        residual: The graph convolution adds its input.
        learned_prototypes: The graph's category nodes are trained.
        hard_targets: SGCL's target is a group's majority label instead of its shares.
        embedding_dim: Channels of the contrasted embeddings.
        node_dim: Channels of the graph's nodes.
        temperature: Divides the cosine similarities.
        memory_size: Past groups kept a category; 0 = off.
        warmup: Share of training before the contrasts start.
        plain_weight: Weight of the tag loss on the mean of Eq. (1)'s CAM, where groups or Eq. (11)
            score the tags.
        bg_score: Background score of Eq. (2) and (12) during training.
    """

    variant: Variant = "M4"
    pgcl_weight: float = 0.3
    sgcl_weight: float = 0.1
    contrast: Literal["groups", "pixels"] = "groups"
    group_by: Literal["early", "middle", "last"] = "middle"
    grouping: Literal["pearson", "context_rows"] = "pearson"
    starts: Literal["cam", "kmeans++"] = "kmeans++"
    num_groups: int | None = 8
    group_rule: Literal["mean_cam", "majority"] = "mean_cam"
    group_margin: float = 0.0
    fusion: Literal["groups", "categories"] = "groups"
    head: Literal["own", "shared"] = "shared"
    smooth: float = 0.5
    likeness: float = 0.15
    pool_sharpness: float = 1.0
    pool_ramp: float = 0.5
    row_norm: Literal["softmax", "l1"] = "softmax"
    zero_init: bool = True
    residual: bool = True
    learned_prototypes: bool = True
    hard_targets: bool = False
    embedding_dim: int = 128
    node_dim: int = 128
    temperature: float = 0.1
    memory_size: int = 64
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
