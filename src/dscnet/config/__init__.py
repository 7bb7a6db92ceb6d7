"""Settings, one dataclass a stage; standard library only, as the CLI reads them without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """Everything a run needs; ``config.yaml`` of a run folder is one of these.

    Args:
        data: Data set: a folder, or a YAML that names its parts.
        seed: Seed of every random choice.
        train_split: Photos to learn from and to label.
        val_split: Photos to measure the segmentation network on.
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

    @property
    def side(self) -> int | None:
        """The longer side of photos at scale 1, before tiling, pixels; None = their own."""
        if self.scale.relative_to == "photo":
            return None
        if self.scale.side is not None:
            return self.scale.side
        low, high = self.augment.long_side
        return round((low + high) / 2)

    @property
    def has_rounds(self) -> bool:
        """Whether the CAM network is trained in rounds and has a segmentation branch."""
        return self.model.name == "auxsegnet"

    @property
    def needs_saliency(self) -> bool:
        """Whether the data set's saliency maps are learned from."""
        return self.has_rounds and self.auxseg.saliency == "maps"

    @property
    def supervision(self) -> str:
        """What maps and pseudo labels are learned from."""
        return "tags + saliency" if self.needs_saliency else "tags"

    @property
    def keeps_labels(self) -> bool:
        """Whether the pseudo labels are those of the last round."""
        return self.has_rounds and self.auxseg.keep_labels

    @property
    def refines_cam(self) -> bool:
        """Whether the CAM network gives a refined map beside the plain one."""
        method = self.method
        smoothed, weighed = method.dscl and method.smooth > 0, method.pgcl and method.likeness > 0
        return self.model.name == "seam" or smoothed or weighed

    @property
    def criterion(self) -> str | None:
        """What reads the background score off the maps; None where it is a number.

        ``auto`` compares the maps before and after they are refined, which lost least in the worst
        case (docs/labels.md). AuxSegNet's affinity moves more than edges, and other maps, or those
        made elsewhere, need not have a second one to compare.
        """
        if not isinstance(self.label.bg_score, str):
            return None
        if self.label.bg_score != "auto":
            return self.label.bg_score
        compares = self.refines_cam and not self.has_rounds and not self.label.cams
        return "agreement" if compares else "class_otsu"

    @property
    def own_branch(self) -> bool:
        """Whether the segmentation network is the CAM network's own branch."""
        segment = self.segment
        if segment.network != "auto":
            return segment.network == "branch"
        return self.has_rounds and segment.supervision == "pseudo" and segment.labels is None
