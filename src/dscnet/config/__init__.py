"""Settings, one dataclass per section; standard library only: the CLI reads them without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dscnet.config.baselines import Baseline, find_baseline
from dscnet.config.labels import (
    AffinityConfig,
    CamConfig,
    Criterion,
    IrnConfig,
    LabelConfig,
    RefineConfig,
)
from dscnet.config.networks import AugmentConfig, AuxSegConfig, MethodConfig, ModelConfig, Variant
from dscnet.config.scale import ScaleConfig
from dscnet.config.training import OptimiserConfig, SegmentConfig, TrainConfig

__all__ = [
    "AffinityConfig",
    "AugmentConfig",
    "AuxSegConfig",
    "Baseline",
    "CamConfig",
    "Config",
    "Criterion",
    "IrnConfig",
    "LabelConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimiserConfig",
    "RefineConfig",
    "ScaleConfig",
    "SegmentConfig",
    "TrainConfig",
    "Variant",
]


@dataclass
class Config:
    """Settings of a run, stored as ``config.yaml`` in its folder.

    Args:
        data: Data set: a folder, a COCO instances file, tar archives, or a YAML file that names
            its parts.
        seed: Random seed.
        train_split: Split to train on and to make pseudo labels for.
        val_split: Split to evaluate the segmentation network on.
        extensions: Settings of plugins, ``NAME: {SETTING: VALUE}``; names are text without dots.
    """

    data: str = ""
    seed: int = 0
    train_split: str = "train"
    val_split: str = "val"
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    auxseg: AuxSegConfig = field(default_factory=AuxSegConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    cam: CamConfig = field(default_factory=CamConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    affinity: AffinityConfig = field(default_factory=AffinityConfig)
    irn: IrnConfig = field(default_factory=IrnConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    extensions: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def side(self) -> int | None:
        """Longer side of photos at scale 1, before tiling, pixels; None = their own size."""
        if self.scale.relative_to == "photo":
            return None
        if self.scale.side is not None:
            return self.scale.side
        low, high = self.augment.long_side
        return round((low + high) / 2)

    @property
    def baseline(self) -> Baseline:
        """What the CAM network declares.

        Raises:
            ValueError: If no baseline is called ``model.name``.
        """
        return find_baseline(self.model.name)

    @property
    def has_rounds(self) -> bool:
        """Whether the CAM network is trained in rounds and has a segmentation branch."""
        return self.baseline.has_rounds

    @property
    def needs_saliency(self) -> bool:
        """Whether the saliency maps of the data set are used."""
        return self.baseline.uses_saliency and self.auxseg.saliency == "maps"

    @property
    def supervision(self) -> str:
        """Supervision of CAMs and pseudo labels."""
        return "tags + saliency" if self.needs_saliency else "tags"

    @property
    def keeps_labels(self) -> bool:
        """Whether the pseudo labels are those of the last round."""
        return self.has_rounds and self.auxseg.last_round_labels

    @property
    def draws_groups(self) -> bool:
        """Whether the CAMs depend on random numbers, with which k-means starts."""
        return self.method.variant != "baseline" and self.method.kmeans_init == "kmeans++"

    @property
    def refines_cam(self) -> bool:
        """Whether the CAM network returns a refined CAM that can be compared with the plain one.

        AuxSegNet's affinity does not count: it moves whole regions, not only edges.
        """
        method = self.method
        own = self.baseline.refines_cam and not self.has_rounds
        smoothed = method.dscl and method.smooth > 0
        weighted = method.pgcl and method.class_similarity > 0
        return own or smoothed or weighted

    @property
    def criterion(self) -> str | None:
        """Criterion that estimates the background threshold; None if it is a number.

        For ``auto`` the baseline names it. ``agreement`` compares CAMs before and after refinement,
        the best worst case (docs/labels.md); external CAMs may lack a second one to compare with.
        """
        if not isinstance(self.label.bg_score, str):
            return None
        if self.label.bg_score != "auto":
            return self.label.bg_score
        criterion = self.baseline.criterion
        lacks_refined = criterion == "agreement" and not self.refines_cam
        return "class_otsu" if self.label.cams or lacks_refined else criterion

    @property
    def own_branch(self) -> bool:
        """Whether the segmentation network is the CAM network's own branch."""
        segment = self.segment
        if segment.network != "auto":
            return segment.network == "branch"
        return self.has_rounds and segment.supervision == "pseudo" and segment.labels is None
