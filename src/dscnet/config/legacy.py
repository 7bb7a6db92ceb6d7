"""Settings of earlier versions: renamed ones, and those that are no longer settings."""

from __future__ import annotations

from typing import Any, NamedTuple

RENAMED = {
    "auxseg.keep_labels": "auxseg.last_round_labels",
    "auxseg.relabel": "auxseg.self_training_source",
    "auxseg.rows": "auxseg.affinity_rows",
    "method.likeness": "method.class_similarity",
    "method.starts": "method.kmeans_init",
}
"""Old name -> new name. Old names are still accepted, with a note."""

RENAMED_VALUES: dict[str, dict[Any, Any]] = {"auxseg.self_training_source": {"maps": "cam"}}
"""New name of a setting -> its old value -> the new one."""


class Removed(NamedTuple):
    """A former setting.

    Attributes:
        value: What it is fixed at.
        why: Why it is no longer a setting.
        since: First version without it.
    """

    value: Any
    why: str
    since: str = "0.1.0"


_READING = "no result compares the readings; the other one is an argument of the module"
_UNTUNED = "no result varies it; it is an argument of the module"
_SHARED = "no result varies it for any network; it is an argument of TrainingModule"
_SEGMENT = "only the published CAM networks need another value"
_AFFINITY = "AffinityNet's published training varies only the other settings of the section"
_IRN = "no result varies IRNet's optimiser"

REMOVED = {
    "method.group_by": Removed("middle", _READING),
    "method.grouping": Removed("pearson", _READING),
    "method.group_rule": Removed("mean_cam", _READING),
    "method.fusion": Removed("groups", _READING),
    "method.row_norm": Removed("softmax", _READING),
    "method.zero_init": Removed(True, _READING),
    "method.residual": Removed(True, _READING),
    "method.learned_prototypes": Removed(True, _READING),
    "method.hard_targets": Removed(False, _READING),
    "method.embedding_dim": Removed(128, _UNTUNED),
    "method.node_dim": Removed(128, _UNTUNED),
    "method.memory_size": Removed(64, _UNTUNED),
    "train.momentum": Removed(0.9, _SHARED),
    "train.poly_power": Removed(0.9, _SHARED),
    "segment.momentum": Removed(0.9, _SHARED),
    "segment.poly_power": Removed(0.9, _SHARED),
    "segment.bias_lr_factor": Removed(2.0, _SEGMENT),
    "segment.published_momentum_quirk": Removed(False, _SEGMENT),
    "segment.published_positional_quirk": Removed(False, _SEGMENT),
    "affinity.momentum": Removed(0.9, _SHARED),
    "affinity.poly_power": Removed(0.9, _SHARED),
    "affinity.optimizer": Removed("sgd", _AFFINITY),
    "affinity.new_lr_factor": Removed(10.0, _AFFINITY),
    "affinity.bias_lr_factor": Removed(2.0, _AFFINITY),
    "affinity.published_positional_quirk": Removed(False, _AFFINITY),
    "affinity.weight_decay": Removed(5e-4, _AFFINITY),
    "affinity.lr_warmup": Removed(0.0, _AFFINITY),
    "affinity.precision": Removed("32", _AFFINITY),
    "affinity.iterations": Removed(None, _AFFINITY),
    "irn.momentum": Removed(0.9, _SHARED),
    "irn.poly_power": Removed(0.9, _SHARED),
    "irn.optimizer": Removed("sgd", _IRN),
    "irn.new_lr_factor": Removed(1.0, _IRN),
    "irn.bias_lr_factor": Removed(2.0, _IRN),
    "irn.published_momentum_quirk": Removed(False, _IRN),
    "irn.published_positional_quirk": Removed(False, _IRN),
    "irn.weight_decay": Removed(1e-4, _IRN),
    "irn.lr_warmup": Removed(0.0, _IRN),
    "irn.clip": Removed(10.0, _IRN),
    "irn.precision": Removed("32", _IRN),
    "irn.iterations": Removed(None, _IRN),
}
"""Former setting -> its fixed value. Files that contain it are still read, with a note."""
