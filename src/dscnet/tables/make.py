"""Runs the experiments of the paper's tables and figures, and writes their files.

Runs are in ``OUT/RECIPE/VARIANT-sSEED``, so tables share common runs. Finished runs are only read,
and missing ones are marked as not run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dscnet.config.settings import replace_settings, without_local_paths
from dscnet.data import open_dataset
from dscnet.experiments.comparison import lookup
from dscnet.experiments.grid import refuse_other_training, run_all, shard_of
from dscnet.run_folder import RunFolder, environment, read_record, write_text
from dscnet.tables import figures
from dscnet.tables.files import Entry, long_rows, to_csv, to_markdown
from dscnet.tables.paper import paper_table
from dscnet.tables.runs import (
    PAPER_MEASURE,
    Cell,
    Request,
    check,
    comparable,
    finished,
    in_folder,
    plan,
    refuse_other_settings,
    requested,
    stages,
)
from dscnet.tables.specs import BASES, Number
from dscnet.tables.step_time import contrast_step, random_batch, take_turns, training_step

log = logging.getLogger("dscnet")

TIMED_STEPS = 5


def make_table(request: Request) -> int:
    """Run what is missing and write ``OUT/NAME.csv``, ``.md``, ``.json`` and a plot.

    Returns:
        Number of failed runs.

    Raises:
        ValueError: If a variant or shard does not exist, or a recipe has another base.
        DscnetError: If a folder contains a run with other settings or photos.
    """
    check(request)
    cells = plan(request)
    mine = [] if request.collect else shard_of(requested(request, cells), *request.shard)
    # After sharding: existing runs must not change the assignment.
    mine = [cell for cell in mine if cell.earlier is None or in_folder(cell)]
    for cell in mine:
        refuse_other_settings(cell)
        refuse_other_training(cell.run, stages(request))
    failed: list[str] = []
    for row in run_all([cell.run for cell in mine], stages=stages(request), jobs=request.jobs):
        if "error" in row:
            failed.append(f"{row['variant']}, seed {row['seed']}: {row['error']}")
        _write(request, cells, failed)
    if not request.collect and request.shard[0] == 1:
        _measure_seconds(request)
    _write(request, cells, failed)
    if request.is_whole:
        figures.draw(
            request.out / f"{request.stem}.png",
            _entries(request, cells),
            _title(request),
            surface=request.name == "figure6",
        )
        _photos(request, cells)
    print(_markdown(request, cells, failed))
    return len(failed)


def _entries(request: Request, cells: Sequence[Cell]) -> list[Entry]:
    """All cells of the table in the paper's order, then those that only we have."""
    spec, paper = request.spec, paper_table(request.name)
    measured = {(c.base, c.variant, c.seed): finished(c) for c in cells}
    seconds = {base: _read_seconds(request, base) for base in request.configs}
    ours: dict[tuple[str, str], dict[int, float]] = {}
    ran: set[tuple[str, str]] = set()
    numbers = [number for base in request.configs for number in spec.numbers(base)]
    for number in numbers:
        if number.seconds:
            values = seconds[number.base].get(_timed(number), [])
            ours[number.row, number.column] = dict(enumerate(values))
            continue
        found = {
            seed: lookup(metrics, request.measure)
            for seed in request.seeds
            if (metrics := measured[number.base, number.variant, seed]) is not None
        }
        ours[number.row, number.column] = {
            seed: 100 * value for seed, value in found.items() if value is not None
        }
        if found:
            ran.add((number.row, number.column))
    published = {row.row for row in paper.rows if row.published}
    rows = dict.fromkeys([row.row for row in paper.rows] + [number.row for number in numbers])
    return [
        Entry(
            row,
            column,
            "s" if "s/" in column else "%",
            ours.get((row, column), {}),
            paper.value(row, column),
            row in published,
            (row, column) in ran,
        )
        for row in rows
        for column in spec.columns
    ]


def _timed(number: Number) -> str:
    return f"{number.variant} {number.seconds}"


def _seconds_file(request: Request, base: str) -> Path:
    return request.folder(base) / "step_time.json"


def _read_seconds(request: Request, base: str) -> dict[str, list[float]]:
    """Seconds of each timed step of a base; empty if not measured with these settings."""
    path = _seconds_file(request, base)
    if not path.exists():
        return {}
    content = read_record(path)
    same = content["settings"] == comparable(request.configs[base])
    return dict(content["seconds"]) if same else {}


def _measure_seconds(request: Request) -> None:
    """Time the steps that a table needs, unless done before."""
    for base, config in request.configs.items():
        timed = [number for number in request.spec.numbers(base) if number.seconds]
        if not timed or _read_seconds(request, base):
            continue
        num_classes = open_dataset(config.data, config.train_split).num_classes
        batch = random_batch(config, num_classes)
        make = {"step": training_step, "contrast": contrast_step}
        steps = {
            _timed(number): make[number.seconds](
                replace_settings(config, request.spec.variants[number.variant]), batch, num_classes
            )
            for number in timed
            if number.seconds
        }
        log.info("%s: timing %d steps of each contrast", BASES[base], TIMED_STEPS)
        content = {
            "settings": comparable(config),
            "environment": environment(config.seed),
            "seconds": take_turns(steps, TIMED_STEPS),
        }
        write_text(_seconds_file(request, base), json.dumps(content, indent=1) + "\n")


def _title(request: Request) -> str:
    figure = request.name.startswith("figure")
    name = f"Figure {request.name[-1]}" if figure else f"Table {request.name}"
    ours = dict.fromkeys(Path(config.data).name for config in request.configs.values())
    return f"{name}: {request.spec.title}; ours on {', '.join(ours)}"


def _notes(
    request: Request, cells: Sequence[Cell], entries: Sequence[Entry], failed: Sequence[str]
) -> Iterator[str]:
    """Notes below the table."""
    paper = paper_table(request.name)
    for base, config in request.configs.items():
        yield (
            f"Ours, {BASES[base]}: recipe `{request.recipes[base]}`, data"
            f" `{Path(config.data).name}`, {config.model.backbone}, learned from"
            f" {config.supervision}."
        )
    yield from _sources(cells)
    yield f"Ours: `{request.measure}`, percent; mean ± standard deviation (seeds)."
    yield f"Paper: {paper.source}; mIoU of the segmentation network, percent."
    # CAMs and pseudo labels are those of the training photos, whatever the column.
    of_val = request.measure.startswith("segmenter.")
    if request.measure != PAPER_MEASURE:
        photos = "" if of_val else ", ours of the training photos"
        yield f"The paper has no `{request.measure}`: its numbers are of another measure{photos}."
    if any(row.published for row in paper.rows):
        yield "Rows without ours (-) are published numbers that the paper quotes."
    yield from paper.notes
    if paper.optimum:
        seen_on = "val masks" if of_val else "masks of the training photos"
        yield from (f"{line}, seen on {seen_on}." for line in _best(entries))
    if "test" in request.spec.columns:
        yield "The masks of VOC's test photos are at its evaluation server: ours are not run here."
    if any("s/" in column for column in request.spec.columns):
        yield "Seconds: mean ± standard deviation (turns), float32, on the machine that timed them."
    yield from (f"Failed: {line}" for line in failed)


def _sources(cells: Sequence[Cell]) -> Iterator[str]:
    """Numbers read from other files, and their revisions."""
    read = [c.earlier for c in cells if c.earlier is not None and not in_folder(c)]
    for source in dict.fromkeys(record["source"] for record in read):
        own = [record for record in read if record["source"] == source]
        code = dict.fromkeys(str(record["environment"]["git_revision"]) for record in own)
        yield f"Read from `{source}`: {len(own)} runs, revision {', '.join(code)}."


def _best(entries: Sequence[Entry]) -> Iterator[str]:
    """Best point of a grid of weights; rows are named ``BASE, ROW``."""
    for base in BASES.values():
        own = [(e.mean, e) for e in entries if e.row.startswith(base) and e.mean is not None]
        if own:
            mean, best = max(own, key=lambda pair: pair[0])
            where = best.row.removeprefix(f"{base}, ")
            yield f"Ours, {base}: highest at {where}, {best.column}: {mean:.1f}"


def _markdown(request: Request, cells: Sequence[Cell], failed: Sequence[str]) -> str:
    entries = _entries(request, cells)
    notes = list(_notes(request, cells, entries, failed))
    return to_markdown(_title(request), entries, notes)


def _write(request: Request, cells: Sequence[Cell], failed: Sequence[str]) -> None:
    """Write the table with the results so far."""
    if not request.is_whole:
        return
    rows = long_rows(request.name, _entries(request, cells))
    content = {
        "table": request.name,
        "command": request.command,
        "measure": request.measure,
        "seeds": list(request.seeds),
        "environment": {key: v for key, v in environment(0).items() if key != "seed"},
        "recipes": request.recipes,
        "settings": {base: without_local_paths(config) for base, config in request.configs.items()},
        "variants": request.spec.variants,
        "paper": paper_table(request.name).source,
        "rows": rows,
        "runs": [_record(cell) for cell in cells],
        "failed": list(failed),
    }
    write_text(request.out / f"{request.stem}.csv", to_csv(rows))
    write_text(request.out / f"{request.stem}.md", _markdown(request, cells, failed))
    write_text(request.out / f"{request.stem}.json", json.dumps(content, indent=1) + "\n")


def _record(cell: Cell) -> dict[str, Any]:
    """A run in the JSON: its metrics and environment; null = not run."""
    folder = RunFolder(cell.run.folder)
    record = {"base": cell.base, "variant": cell.variant, "seed": cell.seed}
    if not in_folder(cell):
        return (cell.earlier or {"metrics": None}) | record
    record["metrics"] = finished(cell)
    ran_on = json.loads(folder.environment.read_text(encoding="utf-8"))
    return record | {"seconds": folder.seconds(), "environment": ran_on}


def _photos(request: Request, cells: Sequence[Cell]) -> None:
    """Figure 5: predictions of the first seed's networks on some validation photos."""
    if request.name != "figure5":
        return
    for base, config in request.configs.items():
        pair = [c for c in cells if c.base == base and c.seed == request.seeds[0]]
        if not all(in_folder(cell) for cell in pair):
            log.info("%s: no images, its runs are missing", BASES[base])
            continue
        figures.write_photos(
            request.out / f"figure5-{base}.png",
            open_dataset(config.data, config.val_split),
            {cell.run.variant: RunFolder(cell.run.folder).masks for cell in pair},
            request.photos,
        )
