"""From scores to masks: CAMs, their files, and pseudo labels."""

from __future__ import annotations

from dscnet.deprecation import renamed_names
from dscnet.files.label_images import read_labels, write_label
from dscnet.labels.cam import multi_scale_cam, normalise_scores, scaled_photos, sum_views
from dscnet.labels.cam_files import read_cam, write_cam
from dscnet.labels.pseudo_label import best_label, pseudo_label

__all__ = [
    "best_label",
    "multi_scale_cam",
    "normalise_scores",
    "pseudo_label",
    "read_cam",
    "read_labels",
    "scaled_photos",
    "sum_views",
    "write_cam",
    "write_label",
]

__getattr__ = renamed_names(__name__, {"read_label": "read_labels"}, globals())
