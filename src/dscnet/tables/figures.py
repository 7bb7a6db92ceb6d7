"""Plots of the paper's tables, and images of its figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from dscnet.data import PhotoSet, Sample, read_image, read_mask
from dscnet.files.atomic import whole_file
from dscnet.files.label_images import read_labels
from dscnet.pipeline.report import spread
from dscnet.report.overlay import Picture, colour_mask, sheet
from dscnet.tables.files import Entry
from dscnet.tables.plots import can_plot, draw_bars, draw_surface

log = logging.getLogger("dscnet")


def draw(path: Path, entries: Sequence[Entry], title: str, *, surface: bool = False) -> None:
    """Plot a table; without matplotlib, only a warning is logged.

    Args:
        path: PNG to write.
        entries: The table's cells.
        title: Title of the plot.
        surface: Heat map instead of bars; rows are then named ``BASE, ROW``.
    """
    if not can_plot():
        log.warning("no plots: matplotlib is missing (pip install 'dscnet[tables]')")
        return
    if surface:
        draw_surface(path, title, _surfaces(entries))
        return
    columns = dict.fromkeys(entry.column for entry in entries)
    panels = []
    for column in columns:
        own = [entry for entry in entries if entry.column == column]
        bars = [(entry.row, entry.mean, entry.std, entry.paper) for entry in own]
        panels.append((column, own[0].unit, bars))
    draw_bars(path, title, panels)


def write_photos(path: Path, photos: PhotoSet, masks: Mapping[str, Path], count: int) -> None:
    """Write photos, ground-truth masks and predictions side by side, for evenly spaced photos.

    Args:
        path: PNG to write.
        photos: The photos; those without ground truth are skipped.
        masks: Heading -> folder of predicted masks.
        count: Number of photos, one per row.
    """
    with_masks = tuple(sample for sample in photos.samples if sample.mask_path is not None)
    rows = [_row(sample, list(masks.values())) for sample in spread(with_masks, count)]
    picture = sheet(rows, ["photo", "ground truth", *masks])
    with whole_file(path) as file:
        Image.fromarray(picture).save(file, format="PNG")


def _row(sample: Sample, folders: Sequence[Path]) -> list[Picture]:
    assert sample.mask_path is not None
    photo = read_image(sample.image_path).permute(1, 2, 0).numpy()
    predicted = [read_labels(folder / f"{sample.image_id}.png") for folder in folders]
    truth = read_mask(sample.mask_path).numpy()
    return [photo, *(colour_mask(labels.astype("uint8")) for labels in (truth, *predicted))]


Surface = tuple[str, list[str], list[str], list[list[float | None]]]


def _surfaces(entries: Sequence[Entry]) -> list[Surface]:
    """One panel per base; rows are named ``BASE, alpha A``."""
    values = {(entry.row, entry.column): entry.mean for entry in entries}
    columns = list(dict.fromkeys(entry.column for entry in entries))
    surfaces = []
    for base in dict.fromkeys(entry.row.split(", ")[0] for entry in entries):
        rows = dict.fromkeys(e.row for e in entries if e.row.split(", ")[0] == base)
        names = [row.split(", ")[1] for row in rows]
        grid = [[values[row, column] for column in columns] for row in rows]
        surfaces.append((base, names, columns, grid))
    return surfaces
