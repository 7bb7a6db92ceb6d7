"""The parsers of the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from typing import Literal

from dscnet.command.often import OFTEN, show_often
from dscnet.command.option_parser import Parser, SizeType
from dscnet.command.shards import SHARD
from dscnet.config import Config
from dscnet.config.settings import path_name
from dscnet.config.stages import STAGES
from dscnet.tables.specs import BASES, TABLES, WEIGHTS

STAGE_VERBS = {
    "train": "train the CAM network",
    "cam": "compute the CAMs of the training photos",
    "refine": "refine the labels: dense CRF, PAMR, random walk, learned affinities",
    "label": "write the pseudo labels",
    "segment": "train the segmentation network",
    "report": "write report.html",
}

RESUMED = ("demo", "run", *STAGE_VERBS)
"""Verbs with ``--resume``."""

DELETE = "delete an existing run folder first"
AGAIN = "run even if up to date, and replace trainings"
"""What ``--force`` does: for ``train`` and whole runs, and for the stages after ``train``."""

REPEATED = ("data", "sweep", "tables")
"""Verbs that skip finished work when the same command is repeated."""


_MORE = "`dscnet VERB --help` lists the options of a verb. `dscnet demo` is a good first run."


def after_interrupt(verb: str) -> str:
    """Message for an interrupted verb: how to continue it, if that is possible.

    Args:
        verb: First argument of the command line.
    """
    if verb in RESUMED:
        return "interrupted; continue with --resume"
    if verb in REPEATED:
        return "interrupted; repeat the command to continue"
    return "interrupted"


def command_line() -> str:
    """The command line, with paths shortened to their last part."""
    return " ".join(
        path_name(word) if "/" in word and not SHARD.fullmatch(word) else word for word in sys.argv
    )


def build_parser(verb: str | None = None, *, all_settings: bool = False) -> Parser:
    """The parser of every verb.

    Args:
        verb: The verb whose settings are included, as they take most of the time; None = of all.
        all_settings: Whether the help shows every setting, not only those that matter most.
    """
    parser = Parser(
        prog="dscnet",
        description="Weakly supervised semantic segmentation: from photos and image-level tags to"
        " pixel masks.",
    )
    parser.add_argument("--version", action="version", version=f"dscnet {_version()}")
    verbs = parser.add_subcommands(metavar="VERB", title="verbs", description=_MORE, help="")

    def add(name: str, text: str) -> Parser:
        sub = Parser(description=f"{text[0].upper()}{text[1:]}.")
        sub.with_settings = verb in (None, name)
        sub.often, sub.all_settings = OFTEN.get(name, ()), all_settings
        verbs.add_subcommand(name, sub, help=text)
        sub.prog = f"dscnet {name}"
        parser.verbs[name] = sub
        return sub

    demo = add("demo", "run the whole pipeline on generated scenes: minutes on a CPU")
    demo.add_argument("--out", type=str, default="runs/demo", help="run folder")
    demo.add_argument("--resume", action="store_true", help="continue an interrupted demo")
    demo.add_argument("--force", action="store_true", help=DELETE)
    demo.add_argument("--seed", type=int, default=0, help="seed of the scenes and the training")
    _add_threads(demo)
    check = add("check", "validate a data set before training")
    check.add_argument(
        "data_set",
        type=str,
        metavar="DATA",
        help="data set: a folder, a COCO instances file, tar archives, or a YAML file that names"
        " its parts",
    )
    _text(check, "--split", "check only this split")
    _add_threads(check)
    _add_run_arguments(add("run", f"run all stages: {', '.join(STAGES)}"))
    for name, text in STAGE_VERBS.items():
        _add_run_arguments(add(name, text), DELETE if name == "train" else AGAIN)
    _add_sweep_arguments(add("sweep", "run variants of a recipe with several seeds each"))
    _add_tables_arguments(add("tables", "reproduce a table or figure of the paper"))
    _add_evaluate_arguments(
        add("evaluate", "compare masks with ground truth, or evaluate a run folder")
    )
    predict = add("predict", "segment new photos; no tags needed")
    _add_predict_arguments(predict)
    saliency = add("saliency", "make saliency maps with a pretrained network (rembg)")
    saliency.add_argument("photos", type=str, metavar="PHOTOS", help="folder of photos")
    saliency.add_argument("--out", type=str, required=True, help="folder for the saliency maps")
    saliency.add_argument("--model", type=str, default="u2net", help="rembg's name of the network")
    _add_threads(saliency)
    _add_export_arguments(add("export", "export a run's network or masks, and verify the result"))
    _add_benchmark_verbs(add)
    add("recipes", "list the packaged recipes")
    settings = add("settings", "explain settings of a run, by a word of their name or meaning")
    settings.add_argument("word", type=str, nargs="?", default="", metavar="WORD", help="a word")
    return parser


def _add_predict_arguments(predict: Parser) -> None:
    predict.add_argument(
        "photos",
        type=str,
        nargs="*",
        metavar="PHOTOS",
        help="photos, folders of photos, glob patterns, or @FILE for a list",
    )
    text = "files with one photo, folder or pattern per line"
    predict.add_argument("--list", type=str, nargs="+", default=[], metavar="FILE", help=text)
    predict.add_argument("--model", type=str, required=True, help="run folder of a trained network")
    predict.add_argument("--out", type=str, required=True, help="folder for masks and overlays")
    text = "post-process with a dense CRF: true or false (default: as in the run's settings)"
    predict.add_argument("--crf", type=bool | None, default=None, help=text)
    _add_threads(predict)


def _text(parser: Parser, option: str, text: str) -> None:
    """An optional option that takes text."""
    parser.add_argument(option, type=str | None, default=None, help=text)


def _add_threads(parser: Parser, each: str = "") -> None:
    """The number of CPU threads; no setting, as results do not depend on it."""
    text = f"CPU threads{each} (default: OMP_NUM_THREADS, else all)"
    parser.add_argument("--threads", type=int, default=None, metavar="N", help=text)


def _add_sweep_arguments(sweep: Parser) -> None:
    _add_settings(sweep, "folder of the runs, OUT/VARIANT-sSEED")
    sweep.add_argument(
        "--variants",
        type=str,
        nargs="+",
        default=None,
        metavar="NAME",
        help="variants to run (default: all)",
    )
    _text(sweep, "--grid", "YAML file of variants (default: the paper's)")
    _add_seeds(sweep)
    sweep.add_argument(
        "--stages",
        type=str,
        nargs="+",
        default=[stage for stage in STAGES if stage != "report"],
        metavar="STAGE",
        help="stages of each run (default: all but report)",
    )
    _text(sweep, "--strict_masks", "second folder of masks to compare the CAMs with")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="number of parallel runs")
    _add_threads(sweep, " of each job")
    _text(sweep, "--json", "file of the results (default: OUT/sweep.json)")
    _add_shard_arguments(sweep)


def _add_seeds(parser: Parser) -> None:
    text = "seeds per variant"
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help=text)


def _add_shard_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--shard",
        type=str,
        default="1/1",
        metavar="I/N",
        help="only the I-th of N parts (default: 1/1)",
    )
    parser.add_argument(
        "--collect", action="store_true", help="run nothing, collect finished runs only"
    )
    text = "run the parts as jobs (extra 'cluster')"
    parser.add_argument(
        "--cluster", type=Literal["none", "slurm", "local"], default="none", help=text
    )
    parser.add_argument("--cluster_jobs", type=int, default=1, metavar="N", help="number of jobs")
    text = "of submitit, e.g. slurm_partition=gpu"
    parser.add_argument(
        "--cluster_options", type=str, nargs="+", default=[], metavar="X=Y", help=text
    )


def _add_evaluate_arguments(evaluate: Parser) -> None:
    _text(evaluate, "--pred", "folder of predicted PNG masks")
    _text(evaluate, "--gt", "folder of ground-truth PNG masks")
    _text(evaluate, "--classes", "file of class names, one per line, background first")
    _text(
        evaluate,
        "--ids",
        "file of the image ids to evaluate, one per line (default: all predictions)",
    )
    _text(evaluate, "--json", "also write the results to this file")
    _text(evaluate, "--out", "evaluate this run folder instead")
    _text(evaluate, "--data", "data set of the run folder, if it has been moved")
    _add_threads(evaluate)


def _add_export_arguments(export: Parser) -> None:
    export.add_argument("--model", type=str, required=True, help="run folder of a trained network")
    export.add_argument(
        "--format",
        type=Literal["onnx", "safetensors", "coco"],
        default="onnx",
        help="onnx, safetensors: the network; coco: masks as COCO annotations",
    )
    export.add_argument(
        "--size",
        type=SizeType(),
        metavar="HEIGHT,WIDTH",
        default=None,
        help="onnx: input size in pixels, such as 384,512, or 512 for a square (default: the size"
        " trained on)",
    )
    _text(export, "--masks", "coco: folder of label PNGs (default: the run's pseudo labels)")
    _text(
        export,
        "--photos",
        "coco: folder of the photos, for their file names (default: the run's photos)",
    )
    export.add_argument(
        "--out", type=str, required=True, help="file (onnx, coco) or folder (safetensors) to write"
    )
    _add_threads(export)


def _add_benchmark_verbs(add: Callable[[str, str], Parser]) -> None:
    data = add("data", "prepare a published data set for training")
    data.add_argument("action", type=Literal["prepare"], help="check, convert, and print counts")
    data.add_argument("name", type=Literal["voc2012", "coco2014", "coco"], help="data set")
    data.add_argument(
        "root",
        type=str,
        metavar="ROOT",
        help="folder of the unpacked data set; coco: an instances file, whose masks are drawn",
    )
    _text(data, "--sbd", "voc2012: folder of SBD")
    data.add_argument(
        "--no_difficult", action="store_true", help="voc2012: ignore objects marked difficult"
    )
    data.add_argument(
        "--download", action="store_true", help="download and unpack missing archives"
    )
    data.add_argument(
        "--verify",
        action="store_true",
        help="also verify checksums and written masks; fail if counts differ from the published",
    )
    submit = add("submit", "write or check a submission to the VOC evaluation server")
    submit.add_argument("benchmark", type=Literal["voc2012"], help="benchmark")
    _text(submit, "--model", "run folder of a trained network")
    _text(submit, "--images", "the VOC2012 folder or one above it, or a folder of photos")
    _text(submit, "--out", "archive to write, .tgz or .tar.gz")
    _text(
        submit,
        "--ids",
        "file of image ids, one per line (default: VOC's test split, else all photos)",
    )
    submit.add_argument(
        "--comp",
        type=Literal["comp5", "comp6"],
        default="comp6",
        help="comp5: trained on VOC only; comp6: on other data too, including ImageNet",
    )
    _text(submit, "--check", "check this archive instead of writing one")
    _add_threads(submit)


def _add_run_arguments(parser: Parser, force: str = DELETE) -> None:
    _add_settings(parser, "run folder", " [--resume | --force]")
    _add_threads(parser)
    parser.add_argument(
        "--profile",
        action="store_true",
        help="profile some steps of each training: OUT/profile, a Chrome trace and its operators",
    )
    parser.add_argument("--resume", action="store_true", help="continue an existing run")
    parser.add_argument("--force", action="store_true", help=force)


def _add_tables_arguments(parser: Parser) -> None:
    parser.add_argument("name", type=str, metavar="NAME", help=f"one of {', '.join(TABLES)}")
    _add_settings(parser, "folder of the runs and results", before=" NAME")
    for base, label in BASES.items():
        _text(parser, f"--{base}", f"recipe for {label} (default: the paper's)")
    parser.add_argument(
        "--bases",
        type=str,
        nargs="+",
        default=None,
        metavar="BASE",
        help=f"baselines, of {', '.join(BASES)}",
    )
    _add_seeds(parser)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of parallel runs")
    _add_threads(parser, " of each job")
    _add_shard_arguments(parser)
    parser.add_argument(
        "--earlier",
        type=str,
        nargs="+",
        default=[],
        metavar="FILE",
        help="JSON of earlier tables whose runs are reused",
    )
    parser.add_argument(
        "--variants",
        type=str,
        nargs="+",
        default=None,
        metavar="NAME",
        help="run only these, e.g. baseline M4",
    )
    parser.add_argument(
        "--measure",
        type=str,
        default="segmenter.miou",
        metavar="X",
        help="SECTION.KEY of metrics.json",
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        default=list(WEIGHTS),
        metavar="X",
        help="figure6: alpha and beta (default: from 0.2 to 1)",
    )
    parser.add_argument(
        "--photos", type=int, default=6, metavar="N", help="figure5: number of photos"
    )


def _add_settings(parser: Parser, out: str, after: str = "", *, before: str = "") -> None:
    """Every setting of a run as an option, with the dataclasses' docstrings as help."""
    parser.usage = f"%(prog)s{before} [--config RECIPE] --out OUT{after} [OPTION ...]"
    parser.add_argument(
        "--config", metavar="RECIPE", action="config", help="recipe name or YAML file of settings"
    )
    parser.add_argument("--out", type=str, required=True, help=out)
    text = "show this help with every setting, and exit"
    parser.add_argument("--help-all", action="store_true", help=text)
    if not parser.with_settings:
        return
    options = len(parser._actions)
    parser.add_class_arguments(Config)
    settings = parser._actions[options:]
    for action in settings:
        if action.metavar == "CONFIG":
            action.help = "YAML file of this section's settings"
        action.help = (action.help or "").replace("``", "'")
    for group in parser._action_groups:
        group.title = (group.title or "").replace("``", "'")
    if not parser.all_settings:
        show_often(parser, settings, parser.prog.removeprefix("dscnet "))


def _version() -> str:
    try:
        return metadata.version("dscnet")
    except metadata.PackageNotFoundError:
        return "0+unknown"
