"""Settings, one dataclass a stage; standard library only, as the CLI reads them without torch."""

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
    """Everything a run needs; ``config.yaml`` of a run folder is one of these.

    Args:
        data: Data set: a folder, or a YAML that names its parts.
        seed: Seed of every random choice.
        train_split: Photos to learn from and to label.
        val_split: Photos to measure the segmentation network on.
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
        """The longer side of photos at scale 1, before tiling, pixels; None = their own."""
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
        """Whether the data set's saliency maps are learned from."""
        return self.baseline.uses_saliency and self.auxseg.saliency == "maps"

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
        """Whether the CAM network gives a refined map that can be compared with the plain one.

        What AuxSegNet's affinity makes of the plain map does not count: it moves whole regions.
        """
        method = self.method
        own = self.baseline.refines_cam and not self.has_rounds
        smoothed, weighed = method.dscl and method.smooth > 0, method.pgcl and method.likeness > 0
        return own or smoothed or weighed

    @property
    def criterion(self) -> str | None:
        """What reads the background score off the maps; None where it is a number.

        For ``auto`` the baseline names it. ``agreement``, which compares the maps before and after
        they are refined, lost least in the worst case (docs/labels.md); other maps, or those made
        elsewhere, need not have a second one to compare.
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
