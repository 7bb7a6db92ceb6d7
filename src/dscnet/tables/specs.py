"""Specifications of the paper's tables and figures: the run of each cell. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from dscnet.files.similar_names import did_you_mean

BASES = {"seam": "SEAM", "auxsegnet": "AuxSegNet"}
"""``model.name`` -> name in the tables."""

TABLES = ("II", "III", "IV", "V", "figure5", "figure6")
"""Supported tables and figures."""

MEASURES = (
    *(f"{x}.{y}" for x in ("segmenter", "pseudo_label", "cam") for y in ("miou", "pixel_accuracy")),
    *("cam.miou_best_bg", "tags.map", "tags.mask_f1"),
)
"""Sections and keys of ``metrics.json`` that a table can show."""

WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Figure 6's grid [Reading]: range and steps are not given, except that 0 is excluded."""


class Number(NamedTuple):
    """A cell of a table.

    Attributes:
        row: Row name in the paper.
        column: Column name in the paper.
        base: One of ``BASES``.
        variant: One of the table's variants.
        seconds: Time of ``step`` or ``contrast`` instead of the measure.
    """

    row: str
    column: str
    base: str
    variant: str
    seconds: Literal["step", "contrast"] | None = None


@dataclass(frozen=True)
class TableSpec:
    """A table or figure.

    Attributes:
        title: Title.
        recipes: Prefix of its recipes' names, e.g. ``voc12``.
        bases: Default bases.
        columns: Columns in order.
        variants: Name -> dotted settings.
        numbers: Returns the cells of a base.
    """

    title: str
    recipes: str
    bases: tuple[str, ...]
    columns: tuple[str, ...]
    variants: Mapping[str, Mapping[str, Any]]
    numbers: Callable[[str], Sequence[Number]]


def table_spec(name: str, weights: Sequence[float] = WEIGHTS) -> TableSpec:
    """The table or figure ``name``, one of ``TABLES``.

    Args:
        name: Which one.
        weights: Values of alpha and of beta in Figure 6.

    Raises:
        ValueError: If there is no such table.
    """
    if name in ("II", "III"):
        title = "Baselines with and without DSCNet"
        columns = ("val", "test") if name == "II" else ("val",)
        recipes = "voc12" if name == "II" else "coco14"
        return TableSpec(title, recipes, tuple(BASES), columns, _variants("baseline", "M4"), _pair)
    if name == "IV":
        title, variants = "Ablation", _variants("baseline", "M1", "M2", "M3", "M4")
        return TableSpec(title, "voc12", tuple(BASES), ("val",), variants, _ablation)
    if name == "V":
        title = "Contrast of pixels, Eq. (3), against groups, Eq. (7), in M1"
        return TableSpec(title, "voc12", tuple(BASES), _EFFICIENCY, _CONTRASTS, _efficiency)
    if name == "figure5":
        title, variants = "Photos, ground truth, baseline and DSCNet", _variants("baseline", "M4")
        return TableSpec(title, "voc12", ("seam",), ("val",), variants, _pair)
    if name == "figure6":
        return _weights_grid(weights)
    raise ValueError(unknown_table(name))


def unknown_table(name: str) -> str:
    """Error message for an unknown table, with the closest match."""
    return f"no table {name}{did_you_mean(name, TABLES)}; there are {', '.join(TABLES)}"


def _variants(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"method.variant": name} for name in names}


def _pair(base: str) -> list[Number]:
    label = BASES[base]
    return [
        Number(label, "val", base, "baseline"),
        Number(f"DSCNet+{label}", "val", base, "M4"),
    ]


def _ablation(base: str) -> list[Number]:
    label = BASES[base]
    rows = {"baseline": label} | {name: f"{label} +{name}" for name in ("M1", "M2", "M3", "M4")}
    return [Number(row, "val", base, name) for name, row in rows.items()]


_KINDS = {"pixels": "M1-pixels", "groups": "M1"}
_CONTRASTS = {
    "M1-pixels": {"method.variant": "M1", "method.contrast": "pixels"},
    "M1": {"method.variant": "M1", "method.contrast": "groups"},
}
_SECONDS: dict[str, Literal["step", "contrast"]] = {
    "s/iteration": "step",
    "s/contrast alone": "contrast",
}
_EFFICIENCY = tuple(f"{kind} {what}" for kind in _KINDS for what in ("val", *_SECONDS))


def _efficiency(base: str) -> list[Number]:
    label = BASES[base]
    numbers = []
    for kind, variant in _KINDS.items():
        numbers.append(Number(label, f"{kind} val", base, variant))
        numbers += [
            Number(label, f"{kind} {what}", base, variant, seconds)
            for what, seconds in _SECONDS.items()
        ]
    return numbers


def _weights_grid(weights: Sequence[float]) -> TableSpec:
    pairs = [(alpha, beta) for alpha in weights for beta in weights]
    variants = {
        f"M4-a{alpha}-b{beta}": {
            "method.variant": "M4",
            "method.pgcl_weight": alpha,
            "method.sgcl_weight": beta,
        }
        for alpha, beta in pairs
    }

    def numbers(base: str) -> list[Number]:
        return [
            Number(f"{BASES[base]}, alpha {alpha}", f"beta {beta}", base, f"M4-a{alpha}-b{beta}")
            for alpha, beta in pairs
        ]

    columns = tuple(f"beta {beta}" for beta in weights)
    return TableSpec("Weights of PGCL and SGCL", "voc12", ("seam",), columns, variants, numbers)
