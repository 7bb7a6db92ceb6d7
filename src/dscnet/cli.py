"""The verbs of the command line: each parses its arguments and calls the package."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from dscnet.command.arguments import STAGE_VERBS, after_interrupt, build_parser, command_line
from dscnet.command.shards import read_shard, shard_problem
from dscnet.command.threads import spin_briefly, threads_per_process, use_threads
from dscnet.config import Config
from dscnet.config.recipes import as_current, find_recipe, list_recipes, summary
from dscnet.config.settings import current_arguments, dotted_settings, from_dict, to_dict
from dscnet.distributed.launch import is_first, is_launched, launch
from dscnet.files.similar_names import did_you_mean
from dscnet.metrics.summary import metrics_table
from dscnet.tables.specs import BASES, MEASURES, TABLES, table_spec, unknown_table


def _run(arguments: list[str], debug: bool) -> int:
    every = "--help-all" in arguments
    parser = build_parser(arguments[0] if arguments else "", all_settings=every)
    if not arguments:
        parser.print_help()
        return 2
    words = [*arguments[:1], "--help"] if every else _with_config_file(arguments)
    parsed = parser.parse_args(words)
    verb = parsed.subcommand
    use_threads(parsed[verb].get("threads"))
    if parsed[verb].get("cluster", "none") != "none":
        from dscnet.experiments.cluster import run_parts

        failed = run_parts(arguments, parsed[verb])
        return _run([*arguments, "--cluster", "none", "--collect"], debug) or int(failed > 0)
    train = parsed[verb].get("train")
    if train is not None and train.devices * train.num_nodes > 1 and not is_launched():
        words, threads = [*arguments, *["--debug"] * debug], threads_per_process(train.devices)
        return launch(words, devices=train.devices, num_nodes=train.num_nodes, threads=threads)
    if verb == "tables":
        given = parser.parse_args(words, defaults=False)[verb].clone(with_meta=False)
        return _do_tables(parsed[verb].clone(with_meta=False), _given_settings(given))
    return VERBS[verb](parsed[verb].clone(with_meta=False))


def _with_config_file(arguments: list[str]) -> list[str]:
    """Replace recipe names by files; a run that goes on has the settings of its folder.

    Files override these settings, and options override files, wherever they stand.
    """
    verb, *words = arguments
    rest = [
        part
        for word in words
        for part in (word.split("=", 1) if word.startswith(("--config=", "--out=")) else [word])
    ]
    files = []
    while "--config" in rest[:-1]:
        place = rest.index("--config")
        files += ["--config", as_current(find_recipe(rest[place + 1]))]
        del rest[place : place + 2]
    goes_on = verb in STAGE_VERBS or (verb == "run" and "--resume" in rest)
    deletes = files and "--force" in rest and verb in ("run", "train")
    if goes_on and not deletes and "--out" in rest[:-1]:
        stored = Path(rest[rest.index("--out") + 1]) / "config.yaml"
        if stored.is_file():
            own = as_current(stored, finished=verb == "report", of_run=True)
            files = ["--config", own, *files]
    has_settings = verb in ("run", "sweep", "tables", *STAGE_VERBS)
    return [verb, *files, *(current_arguments(rest) if has_settings else rest)]


def _settings(parsed: Namespace) -> Config:
    values = parsed.as_dict()
    return from_dict(Config, {name: values[name] for name in to_dict(Config())})


def _given_settings(parsed: Namespace) -> dict[str, Any]:
    """Dotted settings of a parse without defaults: those given explicitly."""
    names = to_dict(Config())
    return dotted_settings({key: v for key, v in parsed.as_dict().items() if key in names})


def _usage_error(verb: str, text: str) -> int:
    print(f"dscnet {verb}: {text}", file=sys.stderr)
    return 2


def _do_run(parsed: Namespace) -> int:
    from dscnet.pipeline.runner import run

    metrics = run(_settings(parsed), parsed.out, **_run_options(parsed))
    return _print_results(metrics, parsed.out)


def _run_options(parsed: Namespace) -> dict[str, Any]:
    return {name: parsed[name] for name in ("resume", "force", "profile")}


def _print_results(metrics: dict[str, Any], out: str) -> int:
    print(metrics_table(metrics))
    print(f"report: {Path(out) / 'report.html'}")
    return 0


def _do_stage(name: str) -> Callable[[Namespace], int]:
    def do(parsed: Namespace) -> int:
        from dscnet.pipeline import run_single

        run_single(name, _settings(parsed), parsed.out, **_run_options(parsed))
        return 0

    return do


def _do_demo(parsed: Namespace) -> int:
    from dscnet.demo import demo

    metrics = demo(parsed.out, resume=parsed.resume, force=parsed.force, seed=parsed.seed)
    return _print_results(metrics, parsed.out)


def _do_sweep(parsed: Namespace) -> int:
    from dscnet.experiments.grid import VARIANTS, read_variants, sweep

    if parsed.grid is not None and parsed.variants is not None:
        return _usage_error("sweep", "give either --grid or --variants")
    if problem := shard_problem(parsed.shard):
        return _usage_error("sweep", problem)
    variants = VARIANTS if parsed.grid is None else read_variants(Path(parsed.grid))
    names = list(variants) if parsed.variants is None else parsed.variants
    if unknown := [name for name in names if name not in variants]:
        words = f"{', '.join(unknown)}{did_you_mean(unknown[0], variants)}"
        known = ", ".join(variants)
        return _usage_error("sweep", f"unknown variant {words}; choose from {known}")
    failures = sweep(
        _settings(parsed),
        Path(parsed.out),
        {name: variants[name] for name in names},
        parsed.seeds,
        stages=parsed.stages,
        strict_masks=None if parsed.strict_masks is None else Path(parsed.strict_masks),
        jobs=parsed.jobs,
        json_path=None if parsed.json is None else Path(parsed.json),
        command=command_line(),
        shard=read_shard(parsed.shard),
        collect=parsed.collect,
    )
    return 1 if failures else 0


def _do_tables(parsed: Namespace, given: dict[str, Any]) -> int:
    if problem := _tables_problem(parsed):
        return _usage_error("tables", problem)
    from dscnet.tables.earlier import read_runs
    from dscnet.tables.make import make_table
    from dscnet.tables.runs import Request, read_recipe

    spec = table_spec(parsed.name)
    bases = parsed.bases or spec.bases
    recipes = {base: find_recipe(parsed[base] or f"{spec.recipes}_{base}") for base in bases}
    request = Request(
        name=parsed.name,
        configs={base: read_recipe(path, given) for base, path in recipes.items()},
        recipes={base: path.stem for base, path in recipes.items()},
        out=Path(parsed.out),
        seeds=parsed.seeds,
        jobs=parsed.jobs,
        shard=read_shard(parsed.shard),
        collect=parsed.collect,
        variants=parsed.variants,
        measure=parsed.measure,
        weights=parsed.weights,
        photos=parsed.photos,
        earlier=read_runs(parsed.earlier),
        command=command_line(),
    )
    return 1 if make_table(request) else 0


def _tables_problem(parsed: Namespace) -> str | None:
    """Error message for the arguments of ``tables``; None if they are valid."""
    if parsed.name not in TABLES:
        return unknown_table(parsed.name)
    if unknown := [base for base in parsed.bases or () if base not in BASES]:
        words = f"{', '.join(unknown)}{did_you_mean(unknown[0], BASES)}"
        return f"unknown baseline {words}; choose from {', '.join(BASES)}"
    if problem := shard_problem(parsed.shard):
        return problem
    if parsed.measure not in MEASURES:
        return f"--measure must be one of {', '.join(MEASURES)}, got {parsed.measure}"
    return None


def _do_check(parsed: Namespace) -> int:
    from dscnet.data import available_splits, check_path

    report = check_path(parsed.data_set, parsed.split)
    splits = available_splits(parsed.data_set) or (Config.train_split,)
    if report.ok and parsed.split is None and Config.train_split in splits:
        from dscnet.pipeline.resources import needs_of
        from dscnet.pipeline.runner import open_run
        from dscnet.run_folder import RunFolder
        from dscnet.types import DscnetError

        config = Config(data=parsed.data_set)
        try:
            job = open_run(config, RunFolder(Path("runs")), progress=False)
            report.info += needs_of(job).splitlines()
        except (DscnetError, ValueError) as error:
            report.errors.append(str(error))
    print(report.text())
    return 0 if report.ok else 1


def _do_evaluate(parsed: Namespace) -> int:
    if parsed.out is not None:
        from dscnet.pipeline import run_single
        from dscnet.run_folder import RunFolder

        folder = RunFolder(Path(parsed.out))
        config = folder.read_config()
        config.data = parsed.data or config.data
        run_single("evaluate", config, parsed.out)
        print(folder.metrics.read_text(encoding="utf-8"))
        return 0
    missing = [f"--{name}" for name in ("pred", "gt", "classes") if parsed[name] is None]
    if missing:
        return _usage_error("evaluate", f"give {', '.join(missing)}, or --out RUN")
    from dscnet.data import read_classes
    from dscnet.data.formats import listed_ids
    from dscnet.metrics import evaluation

    pred, gt = Path(parsed.pred), Path(parsed.gt)
    if parsed.ids is not None:
        ids = sorted(listed_ids(Path(parsed.ids), evaluation.label_files(gt)))
    else:
        ids, left_out = evaluation.shared_ids(pred, gt)
        if left_out:
            print(f"{left_out} ground-truth masks have no prediction: ignored", file=sys.stderr)
    for note in (*evaluation.left_out(pred), *evaluation.left_out(gt)):
        print(note, file=sys.stderr)
    classes = read_classes(Path(parsed.classes))
    failures: list[str] = []
    section = evaluation.evaluate_folders(pred, gt, classes, ids=ids, failures=failures)
    if parsed.json is not None:
        evaluation.write_section(Path(parsed.json), section)
    print(evaluation.section_text(section))
    for line in failures:
        print(f"not evaluated: {line}", file=sys.stderr)
    return 1 if failures else 0


def _do_predict(parsed: Namespace) -> int:
    from dscnet.predictor import predict

    options = {"lists": parsed["list"], "crf": parsed.crf}
    failures = predict(parsed.photos, parsed.model, parsed.out, progress=True, **options)
    print(f"masks: {Path(parsed.out) / 'masks'}")
    for line in failures:
        print(f"not predicted: {line}", file=sys.stderr)
    return 1 if failures else 0


def _do_saliency(parsed: Namespace) -> int:
    from dscnet.prepare.saliency import make_saliency

    failures = make_saliency(parsed.photos, parsed.out, model=parsed.model)
    print(f"saliency maps: {parsed.out}")
    for line in failures:
        print(f"no saliency map: {line}", file=sys.stderr)
    return 1 if failures else 0


def _do_export(parsed: Namespace) -> int:
    from dscnet.export import export, export_coco

    if parsed.format == "coco":
        print(export_coco(parsed.model, Path(parsed.out), parsed.masks, parsed.photos))
        return 0
    for name in ("masks", "photos"):
        if getattr(parsed, name) is not None:
            raise ValueError(f"--{name} needs --format coco, got --format {parsed.format}")
    print(export(parsed.model, Path(parsed.out), parsed.format, parsed.size))
    return 0


def _do_data(parsed: Namespace) -> int:
    from dscnet.prepare import prepare_coco, prepare_coco2014, prepare_voc2012

    options = {"download": parsed.download, "verify": parsed.verify}
    root = Path(parsed.root)
    if parsed.name == "voc2012":
        sbd = None if parsed.sbd is None else Path(parsed.sbd)
        outcome = prepare_voc2012(root, sbd=sbd, difficult=not parsed.no_difficult, **options)
    elif parsed.name == "coco":
        if parsed.download:
            raise ValueError("--download needs voc2012 or coco2014, got coco")
        outcome = prepare_coco(root, verify=parsed.verify)
    else:
        outcome = prepare_coco2014(root, **options)
    print(outcome.text())
    return 1 if outcome.missing or (parsed.verify and outcome.differing) else 0


def _do_submit(parsed: Namespace) -> int:
    from dscnet.submission import check_voc2012, submit_voc2012, unchecked_ids

    if parsed.check is not None:
        problems = check_voc2012(parsed.check, images=parsed.images, ids=parsed.ids)
        print("\n".join(problems) if problems else f"{parsed.check}: ok")
        if parsed.images is None and parsed.ids is None:
            print(unchecked_ids(parsed.check))
        return 1 if problems else 0
    missing = [f"--{name}" for name in ("model", "images", "out") if parsed[name] is None]
    if missing:
        return _usage_error("submit", f"give {', '.join(missing)}, or --check FILE")
    count = submit_voc2012(
        parsed.model, parsed.images, parsed.out, ids=parsed.ids, comp=parsed.comp
    )
    print(f"{parsed.out}: {count} masks")
    return 0


def _do_recipes(parsed: Namespace) -> int:
    for name, path in list_recipes().items():
        print(f"{name:32} {summary(path)}")
    return 0


def _do_settings(parsed: Namespace) -> int:
    from dscnet.command.setting_texts import setting_texts

    print(setting_texts(parsed.word))
    return 0


VERBS: dict[str, Callable[[Namespace], int]] = {
    "demo": _do_demo,
    "sweep": _do_sweep,
    "check": _do_check,
    "run": _do_run,
    "evaluate": _do_evaluate,
    "predict": _do_predict,
    "saliency": _do_saliency,
    "export": _do_export,
    "data": _do_data,
    "submit": _do_submit,
    "recipes": _do_recipes,
    "settings": _do_settings,
    **{name: _do_stage(name) for name in STAGE_VERBS},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 = success, 1 = failure, 2 = invalid arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    words = [word for word in arguments if word != "--debug"]
    spin_briefly()
    # Print characters that the terminal cannot encode as escapes.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not is_first():
        # Of several processes one prints the results.
        sys.stdout = StringIO()
    # Messages of other packages, e.g. the ONNX exporter's per tensor, would hide dscnet's.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("dscnet").setLevel(logging.INFO if is_first() else logging.ERROR)
    try:
        return _run(words, debug="--debug" in arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    except KeyboardInterrupt:
        print(after_interrupt(words[0] if words else ""), file=sys.stderr)
        return 1
    except Exception as error:
        from dscnet.types import DscnetError

        if "--debug" in arguments:
            raise
        text = str(error)
        if not isinstance(error, (DscnetError, ValueError, OSError)):
            text = f"{type(error).__name__}: {error} (--debug shows the traceback)"
        print(f"error: {text}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
