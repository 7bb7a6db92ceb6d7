"""Whether photos to measure on are photos that were trained on."""

from __future__ import annotations

from dscnet.data.check_report import CheckReport
from dscnet.data.datasets import PhotoSet
from dscnet.data.tag_files import first_few

_FEW = 0.05
"""Share of the photos measured up to which copies of training photos change little."""


def compare_splits(train: PhotoSet, val: PhotoSet, report: CheckReport) -> None:
    """Add what is wrong with splits that share photos, by id or, under other ids, by their pixels.

    Args:
        train: The photos to train on.
        val: The photos to measure on.
        report: Holds the facts of both, as far as their files could be read.
    """
    place = f"{val.name}, splits {train.split} and {val.split}"
    trained = {sample.image_id for sample in train.samples}
    shared = [sample.image_id for sample in val.samples if sample.image_id in trained]
    if shared:
        report.errors.append(
            f"{place}: {len(shared)} of {len(val.samples)} photos to measure on are trained on"
            f" ({first_few(shared)}); remove them from one of the lists, or name other splits by"
            " --train_split and --val_split"
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
            f"{place}: {len(copies)} of {len(val.samples)} photos to measure on have the same"
            f" pixels as photos trained on ({first_few(copies)}); remove them from one of the lists"
        )
