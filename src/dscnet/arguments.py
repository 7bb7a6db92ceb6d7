"""What the command line takes: the parser of every verb, without what the verbs do."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import metadata
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser

from dscnet.config import Config
from dscnet.tables.specs import BASES, TABLES, WEIGHTS

STAGE_VERBS = {
    "train": "train the CAM network",
    "cam": "write the maps of the training photos",
    "refine": "refine the labels by photo and features: CRF, PAMR, random walk, learned affinities",
    "label": "write pseudo labels",
    "segment": "train the segmentation network",
    "report": "write report.html",
}

RESUMED = ("demo", "run", *STAGE_VERBS)
"""Verbs that take ``--resume``."""

REPEATED = ("data", "sweep", "tables")
"""Verbs that keep what is finished: the same command goes on."""


class Parser(ArgumentParser):
    """Takes names in full alone, and says the nearest right one when a wrong one is given."""

    def __init__(self, **kwargs: Any) -> None:
        # By argparse's own rule `--forc` would delete a run.
        super().__init__(allow_abbrev=False, **kwargs)
        self.verbs: dict[str, Parser] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one readable line and exit with 2."""
        # Of a settings file the parser of all verbs complains, and names the verb.
        named = re.search(r"Subcommand '(\w+)'", message)
        parser = self.verbs.get(named[1], self) if named else self
        hint = nearest_option(message, parser.option_names())
        hint = f" (did you mean {hint}?)" if hint else ""
        self.exit(2, f"{self.prog}: {self._as_typed(message)}{hint}\n")

    def _as_typed(self, message: str) -> str:
        """Name what is missing as one types it: the parser of all verbs says "run.out"."""
        said, required, missing = message.partition("arguments are required: ")
        if not required:
            return message
        named = [name.partition(".") for name in missing.split(", ")]
        options = {verb: parser.option_names() for verb, parser in self.verbs.items()}
        typed = [f"--{name}" if name in options.get(verb, ()) else name for verb, _, name in named]
        return said + required + ", ".join(typed)

    def option_names(self) -> list[str]:
        """Names of the parser's own options, without the dashes before them."""
        options = (option for action in self._actions for option in action.option_strings)
        return [option.removeprefix("--") for option in options if option.startswith("--")]


def nearest_option(message: str, names: Sequence[str]) -> str | None:
    """The option nearest to the first one that an error message calls unknown.

    Args:
        message: What the parser says.
        names: Options that there are, without the dashes before them.

    Returns:
        The option; None if none is near, or the message is of something else.
    """
    # jsonargparse's wording, of the command line and of a settings file.
    unknown = re.search(
        r"unrecognized arguments:.*?--([\w.]+)|not accept option '([\w.]+)'", message
    )
    if unknown is None:
        return None
    nearest = get_close_matches(unknown[1] or unknown[2], names, n=1)
    return f"--{nearest[0]}" if nearest else None


def photo_size(text: str | Sequence[int]) -> tuple[int, int]:
    """Height and width as they are typed: ``512``, ``384,512``, ``384x512`` or ``[384,512]``.

    Raises:
        ArgumentTypeError: If it is something else.
    """
    numbers = re.findall(r"\d+", str(text))
    plain = re.fullmatch(r"[\[(]?\s*\d+(\s*[,x ]\s*\d+)?\s*[\])]?", str(text).strip())
    if plain is None or any(int(number) == 0 for number in numbers):
        raise ArgumentTypeError(
            "expected height and width in pixels, such as 384,512, or one number for both, such as"
            f" 512, got {text}"
        )
    return int(numbers[0]), int(numbers[-1])


class SizeType:
    """``photo_size`` as the type of an option, by a name that can be shown."""

    def __call__(self, text: str) -> tuple[int, int]:
        """Read it."""
        return photo_size(text)

    def __repr__(self) -> str:
        """The name."""
        return "HEIGHT,WIDTH"


def after_interrupt(verb: str) -> str:
    """What to say of a verb that was interrupted: how it goes on, if it does.

    Args:
        verb: The first word of the command line.
    """
    if verb in RESUMED:
        return "interrupted; --resume goes on"
    if verb in REPEATED:
        return "interrupted; the same command goes on"
    return "interrupted"


def build_parser() -> Parser:
    """The parser of every verb."""
    parser = Parser(
        prog="dscnet",
        description="Photos and image-level tags in, pixel masks out.",
    )
    parser.add_argument("--version", action="version", version=f"dscnet {_version()}")
    verbs = parser.add_subcommands(metavar="VERB", title="verbs", description="one of")

    def add(name: str, text: str) -> Parser:
        sub = Parser(description=text)
        verbs.add_subcommand(name, sub, help=text)
        parser.verbs[name] = sub
        return sub

    demo = add(
        "demo", "the whole pipeline on generated scenes, minutes on a CPU, ends with report.html"
    )
    demo.add_argument("--out", type=str, default="runs/demo", help="run folder")
    demo.add_argument("--resume", action="store_true", help="go on in a folder of a demo")
    demo.add_argument("--force", action="store_true", help="delete what the folder holds")
    demo.add_argument("--seed", type=int, default=0, help="seed of scenes and training")
    check = add("check", "what is wrong with a data set, before hours are spent")
    check.add_argument(
        "data_set",
        type=str,
        metavar="DATA",
        help="folder, COCO instances file, or YAML that names its parts",
    )
    check.add_argument("--split", type=str | None, default=None, help="only these photos")
    _add_run_arguments(
        add("run", "all stages: train, cam, refine, label, segment, evaluate, report")
    )
    for name, text in STAGE_VERBS.items():
        _add_run_arguments(add(name, text))
    sweep = add("sweep", "variants times seeds of one recipe: runs, one JSON, one table")
    _add_settings(sweep, "folder of the runs, OUT/VARIANT-sSEED; finished ones are only read")
    sweep.add_argument(
        "--variants", type=str, nargs="+", default=None, help="among baseline, M1, M2, M3, M4"
    )
    sweep.add_argument(
        "--grid", type=str | None, default=None, help="YAML of variants, NAME: {SETTING: VALUE}"
    )
    sweep.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of each variant")
    sweep.add_argument(
        "--stages",
        type=str,
        nargs="+",
        default=["train", "cam", "refine", "label", "segment", "evaluate"],
        help="stages of each run",
    )
    sweep.add_argument(
        "--strict_masks", type=str | None, default=None, help="a second folder of true masks"
    )
    sweep.add_argument("--jobs", type=int, default=1, help="runs at once")
    sweep.add_argument(
        "--json", type=str | None, default=None, help="results (default: OUT/sweep.json)"
    )
    _add_tables_arguments(
        add("tables", "a table or figure of the paper: its runs, CSV, Markdown, JSON and pictures")
    )
    evaluate = add("evaluate", "measure masks against true ones, or a run's stages")
    evaluate.add_argument(
        "--pred", type=str | None, default=None, help="folder of predicted PNG masks"
    )
    evaluate.add_argument("--gt", type=str | None, default=None, help="folder of true PNG masks")
    evaluate.add_argument(
        "--classes", type=str | None, default=None, help="class names, one a line, background first"
    )
    evaluate.add_argument(
        "--ids",
        type=str | None,
        default=None,
        help="photos to measure, one id a line (default: the predicted)",
    )
    evaluate.add_argument(
        "--json", type=str | None, default=None, help="write the numbers to this file"
    )
    evaluate.add_argument(
        "--out", type=str | None, default=None, help="measure this run folder instead"
    )
    predict = add("predict", "masks for new photos, no tags, no ground truth")
    predict.add_argument(
        "photos", type=str, nargs="+", metavar="PHOTOS", help="folders of photos, or photos"
    )
    predict.add_argument("--model", type=str, required=True, help="run folder of a trained network")
    predict.add_argument("--out", type=str, required=True, help="folder for masks and overlays")
    saliency = add("saliency", "saliency maps for photos, by a ready-made network (rembg)")
    saliency.add_argument("photos", type=str, metavar="PHOTOS", help="folder of photos")
    saliency.add_argument("--out", type=str, required=True, help="folder for the maps")
    saliency.add_argument("--model", type=str, default="u2net", help="network, by rembg's name")
    export = add(
        "export", "a run's network or masks for use elsewhere, checked against the original"
    )
    export.add_argument("--model", type=str, required=True, help="run folder of a trained network")
    export.add_argument(
        "--format",
        type=Literal["onnx", "safetensors", "coco"],
        default="onnx",
        help="the network, or masks as COCO annotations",
    )
    export.add_argument(
        "--size",
        type=SizeType(),
        default=None,
        help="pixels, such as 384,512, or 512 for a square (onnx); by default the size trained on",
    )
    export.add_argument(
        "--masks",
        type=str | None,
        default=None,
        help="folder of label PNGs (coco); without: the run's pseudo labels",
    )
    export.add_argument(
        "--photos",
        type=str | None,
        default=None,
        help="folder of the photos that give the files their names (coco); without: the run's",
    )
    export.add_argument(
        "--out", type=str, required=True, help="file (onnx, coco) or folder (safetensors)"
    )
    _add_benchmark_verbs(add)
    add("recipes", "list the recipes that come with the package")
    return parser


def _add_benchmark_verbs(add: Callable[[str, str], Parser]) -> None:
    data = add("data", "bring a data set into the form that runs read")
    data.add_argument("action", type=Literal["prepare"], help="prepare: check, convert, say counts")
    data.add_argument("name", type=Literal["voc2012", "coco2014", "coco"], help="which one")
    data.add_argument(
        "root",
        type=str,
        metavar="ROOT",
        help="folder where it is unpacked; coco: an instances file, whose masks are painted",
    )
    data.add_argument("--sbd", type=str | None, default=None, help="SBD's folder (voc2012)")
    data.add_argument(
        "--no_difficult", action="store_true", help="no tags from difficult objects (voc2012)"
    )
    data.add_argument(
        "--download", action="store_true", help="fetch and unpack archives that are not there"
    )
    data.add_argument(
        "--verify",
        action="store_true",
        help="look at checksums and written masks too; other counts than published are a failure",
    )
    submit = add("submit", "results for the VOC evaluation server: write them, or check them")
    submit.add_argument("benchmark", type=Literal["voc2012"], help="which server")
    submit.add_argument("--model", type=str | None, default=None, help="run folder of a network")
    submit.add_argument(
        "--images",
        type=str | None,
        default=None,
        help="VOC2012, or a folder above it; or of photos",
    )
    submit.add_argument(
        "--out", type=str | None, default=None, help="archive to write, .tgz or .tar.gz"
    )
    submit.add_argument(
        "--ids",
        type=str | None,
        default=None,
        help="photos, one id a line (default: VOC's test, or all)",
    )
    submit.add_argument(
        "--comp",
        type=Literal["comp5", "comp6"],
        default="comp6",
        help="comp5: trained on VOC alone; comp6: on other data too, ImageNet included",
    )
    submit.add_argument("--check", type=str | None, default=None, help="archive to check instead")


def _add_run_arguments(parser: Parser) -> None:
    _add_settings(parser, "run folder")
    parser.add_argument("--resume", action="store_true", help="go on in a run folder")
    parser.add_argument("--force", action="store_true", help="delete what the run folder holds")


def _add_tables_arguments(parser: Parser) -> None:
    parser.add_argument("name", type=str, metavar="NAME", help=f"among {', '.join(TABLES)}")
    _add_settings(parser, "folder of runs, OUT/RECIPE/VARIANT-sSEED, and of the table's files")
    for base, label in BASES.items():
        parser.add_argument(
            f"--{base}", type=str | None, default=None, help=f"recipe of {label} (default: paper's)"
        )
    parser.add_argument(
        "--bases", type=str, nargs="+", default=None, help=f"among {', '.join(BASES)}"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of each variant")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, GPUs in turn")
    parser.add_argument("--shard", type=str, default="1/1", help="I/N: the I-th of N parts alone")
    parser.add_argument("--collect", action="store_true", help="run nothing, read what is there")
    parser.add_argument(
        "--earlier", type=str, nargs="+", default=[], help="JSON of tables whose runs count too"
    )
    parser.add_argument(
        "--variants", type=str, nargs="+", default=None, help="run only these, e.g. baseline M4"
    )
    parser.add_argument(
        "--measure", type=str, default="segmenter.miou", help="section and key of metrics.json"
    )
    parser.add_argument(
        "--weights", type=float, nargs="+", default=list(WEIGHTS), help="figure6: alpha and beta"
    )
    parser.add_argument("--photos", type=int, default=6, help="figure5: how many")


def _add_settings(parser: Parser, out: str) -> None:
    parser.add_argument("--config", action="config", help="recipe name or YAML file of settings")
    parser.add_argument("--out", type=str, required=True, help=out)
    parser.add_class_arguments(Config)


def _version() -> str:
    try:
        return metadata.version("dscnet")
    except metadata.PackageNotFoundError:
        return "0+unknown"
