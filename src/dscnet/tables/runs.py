"""The runs of a table: settings, folders and status."""

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
    to_dict,
    without_local_paths,
)
from dscnet.config.stages import STAGES
from dscnet.experiments.comparison import lookup
from dscnet.experiments.grid import GridRun, of_seed, shard_of
from dscnet.metrics.evaluation import read_metrics
from dscnet.pipeline.job import with_absolute_paths
from dscnet.pipeline.stage import NO_EFFECT
from dscnet.run_folder import RunFolder
from dscnet.tables.specs import BASES, WEIGHTS, TableSpec, table_spec
from dscnet.types import DscnetError

PAPER_MEASURE = "segmenter.miou"
"""The paper's measure: mIoU of the segmentation network."""


WITHOUT_EFFECT = ("data", "auxseg.affinity_rows", *NO_EFFECT)
"""Settings that do not affect results; ``data`` is the location of the photos."""


@dataclass(frozen=True)
class Request:
    """Which table to make, and how.

    Attributes:
        name: Table or figure, one of ``specs.TABLES``.
        configs: Settings by base, among ``specs.BASES``.
        recipes: Recipe name by base, also the name of its folder in ``out``.
        out: Folder of runs and files.
        seeds: Seeds of each variant.
        jobs: Parallel runs.
        shard: (i, n): run only the i-th of n parts, from 1; no files of the table are written then,
            as other shards would write them too.
        collect: Do not run anything.
        variants: Run only these; None = all.
        measure: Section and key of ``metrics.json``, one of ``specs.MEASURES``.
        weights: Values of alpha and beta in Figure 6.
        photos: Photos in Figure 5.
        earlier: Runs without folders, by :func:`identity`, from ``earlier.read_runs``.
        command: Command line to record with the results.
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
        """Specification of the table."""
        return table_spec(self.name, self.weights)

    @property
    def stem(self) -> str:
        """Base name of the table's files; includes the measure unless it is the paper's."""
        paper = self.measure == PAPER_MEASURE
        return self.name if paper else f"{self.name}-{self.measure}"

    @property
    def is_whole(self) -> bool:
        """Whether it is not a shard."""
        return self.shard == (1, 1)

    def folder(self, base: str) -> Path:
        """Folder of a base's runs."""
        return self.out / self.recipes[base]


@dataclass(frozen=True)
class Cell:
    """A run of a table; ``earlier`` is its record from another table's file."""

    base: str
    variant: str
    seed: int
    run: GridRun
    earlier: dict[str, Any] | None = None


def read_recipe(path: Path, settings: Mapping[str, Any]) -> Config:
    """Settings of a recipe file, with dotted overrides."""
    return replace_settings(read_config(path), settings)


def plan(request: Request) -> list[Cell]:
    """All runs of a table, seed by seed, so that a partial table is comparable."""
    cells = []
    for seed in request.seeds:
        for base, config in request.configs.items():
            own = of_seed(replace_settings(config, {"method.variant": "M4"}), seed)
            for variant, settings in request.spec.variants.items():
                of_variant = replace_settings(config, settings)
                changed = of_seed(of_variant, seed)
                # A point of Figure 6 with the recipe's settings is the M4 run of the other tables.
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
    """Key of equivalent runs: settings, data set name and seed.

    Args:
        config: Settings before ``{seed}`` is filled in.
        seed: The seed of the run.
    """
    elsewhere = from_dict(Config, without_local_paths(replace(config, seed=seed)))
    return json.dumps(_with_data(elsewhere), sort_keys=True)


def in_folder(cell: Cell) -> bool:
    """Whether the cell's folder contains its finished run, with the same settings."""
    folder = RunFolder(cell.run.folder)
    return folder.fingerprint_of("evaluate") is not None and not _differing(cell)


def finished(cell: Cell) -> dict[str, Any] | None:
    """Metrics of the cell's run, from its folder or an earlier file; None = not run."""
    if in_folder(cell):
        return read_metrics(RunFolder(cell.run.folder).metrics)
    return None if cell.earlier is None else cell.earlier["metrics"]


def check(request: Request) -> None:
    """Validate a request before anything is run.

    Raises:
        ValueError: If a variant or shard does not exist, a recipe has another base, or no data set
            is given.
    """
    shard_of([], *request.shard)
    if unknown := [v for v in request.variants or () if v not in request.spec.variants]:
        known = ", ".join(request.spec.variants)
        raise ValueError(f"{request.name} has no variant {', '.join(unknown)}; it has {known}")
    for base, config in request.configs.items():
        if not config.data:
            raise ValueError("no data set given: use --data FOLDER")
        if config.model.name != base:
            raise ValueError(
                f"recipe {request.recipes[base]} has model.name: {config.model.name}, but is used"
                f" for {base}: choose another with --{base}, or exclude {base} with --bases"
            )


def requested(request: Request, cells: Sequence[Cell]) -> list[Cell]:
    """The runs of the requested variants."""
    return [c for c in cells if request.variants is None or c.variant in request.variants]


def stages(request: Request) -> list[str]:
    """Stages of a run; the segmentation network is trained only if it is needed."""
    measured = request.measure.startswith("segmenter.") or request.name == "figure5"
    unwanted = ("report",) if measured else ("report", "segment")
    return [stage for stage in STAGES if stage not in unwanted]


def comparable(config: Config) -> dict[str, Any]:
    """The dotted settings that affect results."""
    unread = () if config.has_rounds else ("auxseg.",)
    return {
        name: value
        for name, value in dotted_settings(to_dict(config)).items()
        if name not in WITHOUT_EFFECT and not name.startswith(unread)
    }


def _with_data(config: Config) -> dict[str, Any]:
    """The settings that affect results, and the name of the data set."""
    return comparable(with_absolute_paths(config)) | {"data": Path(config.data).name}


def _differing(cell: Cell) -> list[str]:
    """Settings in which the run in the cell's folder differs; empty without a run."""
    folder = RunFolder(cell.run.folder)
    if not folder.config.exists():
        return []
    return differences(_with_data(folder.read_config(finished=False)), _with_data(cell.run.config))


def refuse_other_settings(cell: Cell) -> None:
    """Reject a folder with a run of other settings.

    Raises:
        DscnetError: If the settings differ, with the differences.
    """
    if differing := _differing(cell):
        raise DscnetError(
            f"{cell.run.folder} already contains a run trained with different settings"
            f" ({'; '.join(differing)}). Choose another --out or use those settings"
        )
