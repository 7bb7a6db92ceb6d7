"""Photos, tags and masks: reading, checking, augmenting, batching."""

from dscnet.data.check import check_dataset, check_path
from dscnet.data.check_report import CheckReport
from dscnet.data.datasets import (
    PhotoSet,
    Sample,
    available_splits,
    keep_photos,
    open_dataset,
    open_photos,
    unwritten,
)
from dscnet.data.formats import Format, Layout, register_format
from dscnet.data.io import image_size, read_image, read_mask, read_saliency
from dscnet.data.loader import Item, PhotoDataset, SeededSampler, collate, make_loader
from dscnet.data.tag_files import TAG_SUFFIXES, TagEntry, read_classes
from dscnet.data.transforms import EvalTransform, TrainTransform

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
    "keep_photos",
    "make_loader",
    "open_dataset",
    "open_photos",
    "read_classes",
    "read_image",
    "read_mask",
    "read_saliency",
    "register_format",
    "unwritten",
]
