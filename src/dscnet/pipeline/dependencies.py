"""What each stage depends on: stages before it, settings, and code beyond its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dscnet.config import Config
from dscnet.refine.steps import LEARNED
from dscnet.run_folder import file_mark, fingerprint


def maps_needs(config: Config) -> tuple[str, ...]:
    """The stage that makes the maps, unless they come from elsewhere."""
    return () if config.label.cams else ("cam",)


def refine_needs(config: Config) -> tuple[str, ...]:
    """The maps, and for a random walk the network whose features it compares or starts from."""
    starts = [getattr(config, name).start for name in _learned(config)]
    trunk = "walk" in config.refine.steps or "cam" in starts
    return (*maps_needs(config), "train") if trunk else maps_needs(config)


def _learned(config: Config) -> list[str]:
    """The refinement steps that train a network; their settings have the same names."""
    return [name for name in config.refine.steps if name in LEARNED]


def refine_settings(config: Config) -> list[Any] | None:
    """What the refinement depends on; of trained networks where there are any."""
    if not config.refine.steps:
        return None
    label = config.label
    settings = [asdict(config.refine), label.bg_score, label.cams, _masks_state(config)]
    if names := _learned(config):
        networks = {name: asdict(getattr(config, name)) for name in names}
        code = (
            "pipeline/learned_refinement.py",
            "refine/objectives.py",
            "losses/affinity.py",
            "training.py",
        )
        settings += [networks, *learning_settings(config), fingerprint(code=code)]
    return settings


def _masks_state(config: Config) -> list[Any] | None:
    """Names and marks of the files of masks made elsewhere, where they are read."""
    if "masks" not in config.refine.steps or config.refine.masks is None:
        return None
    root = Path(config.refine.masks)
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    return [(str(f.relative_to(root)), file_mark(f)) for f in files if f.is_file()]


def label_needs(config: Config) -> tuple[str, ...]:
    """Refined probabilities or maps, and AuxSegNet's saliency labels where they count."""
    scores = ("refine",) if config.refine.steps else maps_needs(config)
    return (*scores, "train") if _reads_round(config) else scores


def label_settings(config: Config) -> list[Any]:
    """What the labels depend on; which round is the last where they read its files."""
    return [asdict(config.label), config.auxseg.rounds if _reads_round(config) else None]


def _reads_round(config: Config) -> bool:
    return config.label.salient_only or config.keeps_labels


def scored_by_saliency(config: Config) -> bool:
    """Whether the background score is read off saliency maps."""
    return config.label.bg_score == "saliency"


def segment_needs(config: Config) -> tuple[str, ...]:
    """The labels, unless they come from elsewhere; AuxSegNet's own branch for itself."""
    if config.own_branch:
        return ("train",)
    made_elsewhere = config.segment.labels or config.segment.supervision == "full"
    return () if made_elsewhere else ("label",)


def round_settings(config: Config) -> list[Any] | None:
    """What further settings and code rounds of training depend on; None where there are none."""
    if not config.has_rounds:
        return None
    code = (
        *("pipeline/rounds.py", "labels/cam.py", "labels/cam_files.py", "refine/saliency.py"),
        *("labels/pseudo_label.py", "labels/thresholds.py", "refine/steps.py"),
        *("refine/crf.py", "refine/permutohedral.py", "pipeline/self_training.py", "predictor.py"),
    )
    auxseg = asdict(config.auxseg)
    auxseg.pop("affinity_rows")
    segment = config.segment
    asked = (segment.branch_scores, segment.test_scales, segment.flip_test)
    by_branch = asked if config.auxseg.self_training_source == "branch" else None
    return [auxseg, asdict(config.cam), by_branch, fingerprint(code=code)]


def segment_settings(config: Config) -> list[Any]:
    """What the segmentation network depends on, and the code of further rounds of it."""
    code = (
        *("refine/steps.py", "labels/pseudo_label.py", "labels/cam_files.py"),
        *("pipeline/label.py", "pipeline/self_training.py"),
    )
    again = fingerprint(code=code) if config.segment.rounds > 1 else None
    return [*learning_settings(config), asdict(config.segment), again]


def learning_settings(config: Config) -> list[Any]:
    """Network and augmentation, which every training depends on."""
    augment = asdict(config.augment)
    augment.pop("num_workers")
    return [asdict(config.model), augment]
