"""Overlap of training and validation photos."""

from __future__ import annotations

from dscnet.data.check_report import CheckReport
from dscnet.data.datasets import PhotoSet
from dscnet.data.tag_files import first_few

_FEW = 0.05
"""Fraction of duplicated validation photos up to which they are only a warning."""


def compare_splits(train: PhotoSet, val: PhotoSet, report: CheckReport) -> None:
    """Report photos that both splits contain, by id or by identical pixels.

    Args:
        train: The training photos.
        val: The validation photos.
        report: Provides the facts of both and receives the findings.
    """
    place = f"{val.name}, splits {train.split} and {val.split}"
    trained = {sample.image_id for sample in train.samples}
    shared = [sample.image_id for sample in val.samples if sample.image_id in trained]
    if shared:
        report.errors.append(
            f"{place}: {len(shared)} of {len(val.samples)} validation photos are training photos"
            f" ({first_few(shared)}); remove them from one of the lists, or choose other splits"
            " with --train_split and --val_split"
        )
    known = {
        fact.pixels: name
        for name in sorted(trained)
        if (fact := report.facts.get(name)) and fact.pixels is not None
    }
    copies = [
        f"{sample.image_id} is {known[fact.pixels]}"
        for sample in val.samples
        if sample.image_id not in trained
        and (fact := report.facts.get(sample.image_id))
        and fact.pixels in known
    ]
    if copies:
        many = len(copies) > _FEW * len(val.samples)
        (report.errors if many else report.warnings).append(
            f"{place}: {len(copies)} of {len(val.samples)} validation photos have the same pixels"
            f" as training photos ({first_few(copies)}); remove them from one of the lists"
        )
