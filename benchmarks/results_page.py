"""Write docs/results.md and the README's table from benchmarks/results: run it bare."""

from __future__ import annotations

from pathlib import Path

from page_markdown import paragraph
from results_tables import (
    auxsegnet_table,
    label_table,
    network_table,
    paper_tables,
    readme_table,
    self_training_table,
    separable_table,
    source_table,
    step_time_table,
    weight_table,
)

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results -->", "<!-- /results -->"
ARCHIVE = "results-archive"
"""The tag in the history whose tree has the result files of earlier forms."""

INTRODUCTION = """\
Written by `python benchmarks/results_page.py` from the JSON files in `benchmarks/results`. Unless a
column says otherwise, numbers are mIoU in percent, mean ± sample standard deviation over seeds.
Gains are differences in percentage points, paired by seed: mean [95 % confidence interval] (number
of seeds). The background threshold of a recipe is fixed or estimated without masks; the best
threshold is that of a sweep over ground-truth masks, shown for comparison.
[`evidence.md`](evidence.md) discusses what these numbers show."""

HISTORY = f"""\
This page has the present form of the method only. The result files of earlier forms are in the
history, under the tag `{ARCHIVE}`; the [journal](journal/README.md) tells what they were."""


def main() -> None:
    """Write both pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """Path -> text of ``docs/results.md`` and of the README with its table."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    block = "\n".join([BEGIN, *readme_table(), END])
    return {
        ROOT / "docs" / "results.md": "\n".join(results_page()) + "\n",
        readme: before + block + rest.split(END)[1],
    }


def results_page() -> list[str]:
    """All sections of ``docs/results.md``."""
    return [
        "# Results",
        "",
        *paragraph(INTRODUCTION),
        "",
        *paragraph(HISTORY),
        "",
        "## Pseudo labels of the training photos",
        "",
        *label_table(),
        "",
        "## Segmentation networks on val",
        "",
        *network_table(),
        "",
        "## MSRC without face and body",
        "",
        *paragraph(
            "Mean over the other labels: tags do not separate these two classes, as no training"
            " photo shows a face without a body."
        ),
        "",
        *separable_table(),
        "",
        "## Self-training on MSRC",
        "",
        *paragraph("SEAM with DSCNet (M4), `segment.rounds: 3`; labels of the training photos."),
        "",
        *self_training_table(),
        "",
        "## AuxSegNet on MSRC by round",
        "",
        *paragraph(
            "Labels of the training photos after each round, and AuxSegNet's segmentation branch on"
            " val. Supervision: tags + saliency, in the last rows tags only"
            " (`auxseg.saliency: from_cam`)."
        ),
        "",
        *auxsegnet_table(),
        "",
        "## Weights of the contrasts",
        "",
        "M4 on SEAM, pseudo labels: mIoU (mIoU at the best threshold) by seed.",
        "",
        *weight_table(),
        "",
        "## Time of a training step",
        "",
        *paragraph(
            'Median seconds of a step of 8 photos. "Alone": the contrast of M1 by groups and by'
            " pixels, forward and backward, without the rest of the step."
        ),
        "",
        *step_time_table(),
        "",
        "## The paper's tables and figures",
        "",
        *paragraph(
            "Reduced protocol of [`tables.md`](tables.md): other data and another backbone than the"
            " paper's. A dash marks numbers that the paper quotes from others."
        ),
        *paper_tables(),
        "",
        "## Sources",
        "",
        *source_table(),
    ]


if __name__ == "__main__":
    main()
