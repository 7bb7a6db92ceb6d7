"""The settings that matter most, which the help of a verb shows; ``--help-all`` shows every one."""

from __future__ import annotations

from argparse import SUPPRESS, Action

from dscnet.command.option_parser import Parser

TITLE = "settings that matter most (every one: --help-all; by a word: dscnet settings WORD)"

MEANING = {
    "data": "data set: folder, COCO file, or YAML file",
    "seed": "random seed",
    "model.name": "baseline: seam, auxsegnet or cam",
    "model.backbone": "a timm model, or resnet38",
    "method.variant": "baseline, M1 (PGCL), M2 (SGCL), M3, M4",
    "method.class_similarity": "weight of the class prototypes in CAMs",
    "augment.crop_size": "side of the training crop, pixels",
    "scale.side": "longer side of a photo at scale 1",
    "scale.tiles": "factor for small objects in large photos",
    "train.epochs": "null = 8, more for few photos",
    "train.batch_size": "photos per step",
    "train.lr": "learning rate of the backbone",
    "train.accelerator": "auto, cpu or gpu",
    "train.devices": "GPUs or processes that share the work",
    "cam.scales": "sizes whose CAMs are averaged",
    "cam.flip": "also average over mirrored photos",
    "refine.steps": "e.g. [crf, walk]: pamr, crf, walk, masks, affinity, irn",
    "affinity.epochs": "of AffinityNet",
    "irn.epochs": "of IRNet",
    "label.bg_score": "background threshold, or its criterion",
    "label.cams": "folder of CAMs to use instead",
    "segment.epochs": "null = 10, more for few photos",
    "segment.batch_size": "photos per step",
    "segment.lr": "learning rate of the backbone",
    "segment.accelerator": "auto, cpu or gpu",
    "segment.rounds": "rounds of self-training",
    "segment.crf": "dense CRF at inference",
}
"""Short meaning of each."""

_NETWORK = ("data", "model.name", "model.backbone", "method.variant")
_TRAINING = ("train.epochs", "train.batch_size", "train.accelerator", "train.devices")
_SEGMENT = ("segment.epochs", "segment.rounds", "segment.crf")

OFTEN: dict[str, tuple[str, ...]] = {
    "run": (*_NETWORK, "scale.tiles", *_TRAINING, "refine.steps", "label.bg_score", *_SEGMENT),
    "train": (*_NETWORK, "augment.crop_size", "scale.tiles", *_TRAINING, "train.lr", "seed"),
    "cam": ("cam.scales", "cam.flip", "scale.side", "scale.tiles", "method.class_similarity"),
    "refine": ("refine.steps", "affinity.epochs", "irn.epochs"),
    "label": ("label.bg_score", "label.cams"),
    "segment": (*_SEGMENT, "segment.batch_size", "segment.lr", "segment.accelerator"),
    "sweep": ("data", "train.devices"),
    "tables": ("data", "train.devices"),
}
"""Names by verb."""


def show_often(parser: Parser, settings: list[Action], verb: str) -> None:
    """Leave only these settings in the help of a verb, in a group of their own."""
    by_name = {action.dest: action for action in settings}
    shown = [by_name[name] for name in OFTEN.get(verb, ())]
    for group in parser._action_groups:
        group._group_actions = [action for action in group._group_actions if action not in shown]
    for action in parser._actions:
        if action in shown:
            action.help, action.metavar = MEANING[action.dest], "X"
        elif action in settings or action.dest == "print_config":
            action.help = SUPPRESS
    if shown:
        parser.add_argument_group(TITLE)._group_actions += shown
