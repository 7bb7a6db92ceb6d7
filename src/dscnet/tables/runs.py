"""The runs of a table: which there are, where they lie, which are finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dscnet.config import Config
from dscnet.config.recipes import read_config
from dscnet.config.settings import (
    differences,
    dotted_settings,
    from_dict,
    replace_settings,
    shown,
    to_dict,
)
from dscnet.config.stages import STAGES
from dscnet.experiments.comparison import lookup
from dscnet.experiments.grid import GridRun, of_seed
from dscnet.metrics.evaluation import read_metrics
from dscnet.pipeline.job import located
from dscnet.run_folder import RunFolder
from dscnet.tables.specs import BASES, WEIGHTS, TableSpec, table_spec
from dscnet.types import DscnetError

PAPER_MEASURE = "segmenter.miou"
"""What the paper's mIoU is: that of the segmentation network."""

_WITHOUT_EFFECT = ("data", "augment.num_workers", "auxseg.affinity_rows")
"""Settings that do not change what a run makes; ``data`` is where its photos lie."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        name: Table or figure, one of ``specs.TABLES``.
        configs: Settings by base, among ``specs.BASES``.
        recipes: Name of the recipe by base; a folder in ``out`` is called so.
        out: Folder of the runs and of the files.
        seeds: Of each variant.
        jobs: Runs at once.
        shard: (i, n): only the i-th of n parts of the runs, from 1; then no file of the table is
            written, as the others would write them too.
        collect: Nothing is run.
        variants: Only these are run; None = all.
        measure: Section and key of ``metrics.json``, one of ``specs.MEASURES``.
        weights: Values of alpha and beta in Figure 6.
        photos: Photos in Figure 5.
        earlier: Runs whose folders need not be there, by :func:`identity`, as
            ``earlier.read_runs`` gives them.
        command: What to write down as the way to these results.
    """

    name: str
    configs: Mapping[str, Config]
    recipes: Mapping[str, str]
    out: Path
    seeds: Sequence[int]
    jobs: int = 1
    shard: tuple[int, int] = (1, 1)
    collect: bool = False
    variants: Sequence[str] | None = None
    measure: str = PAPER_MEASURE
    weights: Sequence[float] = WEIGHTS
    photos: int = 6
    earlier: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    command: str = ""

    @property
    def spec(self) -> TableSpec:
        """What the table is made of."""
        return table_spec(self.name, self.weights)

    @property
    def stem(self) -> str:
        """Name of the table's files; another measure than the paper's is part of it."""
        paper = self.measure == PAPER_MEASURE
        return self.name if paper else f"{self.name}-{self.measure}"

    @property
    def is_whole(self) -> bool:
        """Whether it is no shard."""
        return self.shard == (1, 1)

    def folder(self, base: str) -> Path:
        """Folder of a base's runs."""
        return self.out / self.recipes[base]


@dataclass(frozen=True)
class Cell:
    """A run of a table; ``earlier`` is what another table's file tells of it."""

    base: str
    variant: str
    seed: int
    run: GridRun
    earlier: dict[str, Any] | None = None


def read_recipe(path: Path, settings: Mapping[str, Any]) -> Config:
    """Settings of a recipe's file, with dotted ones replaced."""
    return replace_settings(read_config(path), settings)


def plan(request: Request) -> list[Cell]:
    """Every run of a table, seeds outside, so that an unfinished one compares what it has."""
    cells = []
    for seed in request.seeds:
        for base, config in request.configs.items():
            own = of_seed(replace_settings(config, {"method.variant": "M4"}), seed)
            for variant, settings in request.spec.variants.items():
                of_variant = replace_settings(config, settings)
                changed = of_seed(of_variant, seed)
                # A point of Figure 6 that is the recipe's own is the run of the other tables.
                folder = "M4" if changed == own else variant
                run = GridRun(
                    f"{BASES[base]} {variant}",
                    changed,
                    request.folder(base) / f"{folder}-s{seed}",
                )
                earlier = request.earlier.get(identity(of_variant, seed))
                if earlier and lookup(earlier["metrics"], request.measure) is None:
                    earlier = None
                cells.append(Cell(base, variant, seed, run, earlier))
    return cells


def identity(config: Config, seed: int) -> str:
    """What two runs that must come out alike have in common: settings, names of places, and seed.

    Args:
        config: Settings in which ``{seed}`` is not filled in.
        seed: The seed of the run.
    """
    elsewhere = from_dict(Config, shown(replace(config, seed=seed)))
    return json.dumps(_with_data(elsewhere), sort_keys=True)


def shard_of(cells: Sequence[Cell], index: int, count: int) -> list[Cell]:
    """The ``index``-th of ``count`` parts, from 1; together they are all, and no two share one."""
    return list(cells[index - 1 :: count])


def in_folder(cell: Cell) -> bool:
    """Whether the cell's folder holds its run, finished, and no run of other settings."""
    folder = RunFolder(cell.run.folder)
    return folder.fingerprint_of("evaluate") is not None and not _differing(cell)


def finished(cell: Cell) -> dict[str, Any] | None:
    """What the cell's run measured, by its folder, else by an earlier file; None = not run."""
    if in_folder(cell):
        return read_metrics(RunFolder(cell.run.folder).metrics)
    return None if cell.earlier is None else cell.earlier["metrics"]


def check(request: Request) -> None:
    """Refuse what cannot be made, before anything is run.

    Raises:
        ValueError: If a variant or shard does not exist, a recipe is of another base, or no data
            set was named.
    """
    index, count = request.shard
    if not 1 <= index <= count:
        raise ValueError(f"shard must be I/N with I in 1..N, got {index}/{count}")
    if unknown := [v for v in request.variants or () if v not in request.spec.variants]:
        known = ", ".join(request.spec.variants)
        raise ValueError(f"{request.name} has no variant {', '.join(unknown)}; it has {known}")
    for base, config in request.configs.items():
        if not config.data:
            raise ValueError("no data set was named: --data FOLDER")
        if config.model.name != base:
            raise ValueError(
                f"recipe {request.recipes[base]} is of model.name: {config.model.name}, but stands"
                f" for {base}: name another by --{base}, or leave {base} out by --bases"
            )


def wanted(request: Request, cells: Sequence[Cell]) -> list[Cell]:
    """The runs of the variants that are asked for."""
    return [c for c in cells if request.variants is None or c.variant in request.variants]


def stages(request: Request) -> list[str]:
    """Stages of a run: the segmentation network is trained only where it is measured or shown."""
    measured = request.measure.startswith("segmenter.") or request.name == "figure5"
    unwanted = ("report",) if measured else ("report", "segment")
    return [stage for stage in STAGES if stage not in unwanted]


def comparable(config: Config) -> dict[str, Any]:
    """The dotted settings that change what a run makes."""
    unread = () if config.has_rounds else ("auxseg.",)
    return {
        name: value
        for name, value in dotted_settings(to_dict(config)).items()
        if name not in _WITHOUT_EFFECT and not name.startswith(unread)
    }


def _with_data(config: Config) -> dict[str, Any]:
    """The settings that change what a run makes, and the name of its data, wherever they lie."""
    return comparable(located(config)) | {"data": Path(config.data).name}


def _differing(cell: Cell) -> list[str]:
    """Settings in which the run in the cell's folder differs; none where there is no run."""
    folder = RunFolder(cell.run.folder)
    if not folder.config.exists():
        return []
    return differences(_with_data(folder.read_config(finished=False)), _with_data(cell.run.config))


def refuse_other_settings(cell: Cell) -> None:
    """Refuse to train over a run that the table did not ask for.

    Raises:
        DscnetError: If the cell's folder holds one; the message names the settings.
    """
    if differing := _differing(cell):
        raise DscnetError(
            f"{cell.run.folder} holds a run of other settings ({'; '.join(differing)}):"
            " name another --out, or give it those settings"
        )
