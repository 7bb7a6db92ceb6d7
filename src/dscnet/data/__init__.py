"""Photos, tags and masks: reading, validation, augmentation, batching."""

from dscnet.data.check import check_dataset, check_path
from dscnet.data.check_report import CheckReport
from dscnet.data.datasets import (
    PhotoSet,
    Sample,
    available_splits,
    open_dataset,
    open_photos,
    refuse_overwriting_photos,
    write_failure,
)
from dscnet.data.formats import Format, Layout, register_format
from dscnet.data.io import image_size, read_image, read_mask, read_saliency
from dscnet.data.loader import Item, PhotoDataset, SeededSampler, collate, make_loader
from dscnet.data.tag_files import TAG_SUFFIXES, TagEntry, read_classes
from dscnet.data.transforms import EvalTransform, TrainTransform
from dscnet.deprecation import renamed_names

__all__ = [
    "TAG_SUFFIXES",
    "CheckReport",
    "EvalTransform",
    "Format",
    "Item",
    "Layout",
    "PhotoDataset",
    "PhotoSet",
    "Sample",
    "SeededSampler",
    "TagEntry",
    "TrainTransform",
    "available_splits",
    "check_dataset",
    "check_path",
    "collate",
    "image_size",
    "refuse_overwriting_photos",
    "make_loader",
    "open_dataset",
    "open_photos",
    "read_classes",
    "read_image",
    "read_mask",
    "read_saliency",
    "register_format",
    "write_failure",
]

__getattr__ = renamed_names(
    __name__,
    {"keep_photos": "refuse_overwriting_photos", "unwritten": "write_failure"},
    globals(),
)
