"""What counts as a change of code, and which code counts for a stage."""

from __future__ import annotations

import pytest

from dscnet.config import Config
from dscnet.pipeline import code_marks as module
from dscnet.pipeline.code_marks import code_mark, code_marks, imports_of
from dscnet.pipeline.registry import find_stage, list_stages

CODE = '''
"""A module."""
import math

log = None
FACTOR = 0
NAMED = f"{FACTOR:.2f}"


def area(radius: float, *, factor: float = 1.0) -> float:
    """Of a circle."""
    if radius < 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    log.info("computing %s", radius)
    return factor * math.pi * radius**2


class Circle:
    """Round."""

    radius = 1
    """Its radius."""
'''


@pytest.fixture
def mark_of(tmp_path, monkeypatch):
    def mark(text: str) -> str:
        file = tmp_path / "code.py"
        file.write_text(text, encoding="utf-8")
        monkeypatch.setattr(module, "_file_of", lambda name: file)
        code_mark.cache_clear()
        return code_mark("any")

    yield mark
    code_mark.cache_clear()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another text."""'),
        ('    """Of a circle."""\n', ""),
        ('    """Its radius."""\n', ""),
        ("    return factor", "    # Why.\n    return factor"),
        ("radius must not be negative", "radius must be at least 0"),
        ('log.info("computing %s", radius)', 'log.debug("%s", radius)'),
        ("factor * math.pi * radius**2", "(factor * math.pi) * (radius ** 2)"),
    ],
)
def test_comments_docstrings_and_messages_do_not_count(mark_of, old, new):
    assert CODE.replace(old, new) != CODE
    assert mark_of(CODE) == mark_of(CODE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("radius**2", "radius**3"),
        ("radius < 0", "radius <= 0"),
        ("factor: float = 1.0", "factor: float = 2.0"),
        ("factor: float = 1.0", "factor: float = 0.0"),
        ("FACTOR = 0", "FACTOR = False"),
        ("FACTOR = 0", "FACTOR = None"),
        (":.2f", ":.3f"),
        ("import math", "import cmath as math"),
        ("radius = 1", "radius = 2"),
        ("*, factor", "factor"),
        ("    if radius < 0:\n", "    if radius > 0:\n"),
    ],
)
def test_what_the_code_does_counts(mark_of, old, new):
    assert CODE.replace(old, new) != CODE
    assert mark_of(CODE) != mark_of(CODE.replace(old, new))


def test_imports_lead_to_the_module_that_defines_a_name():
    assert "dscnet.data.io" in imports_of("dscnet.pipeline.evaluate"), "through dscnet.data"
    assert "dscnet.data" not in imports_of("dscnet.pipeline.evaluate")
    assert "dscnet.metrics.evaluation" in imports_of("dscnet.pipeline.evaluate")


def test_what_changes_nothing_computed_is_left_out():
    marks = code_marks(["dscnet.pipeline.train"])
    assert "dscnet.objective" in marks
    for name in ("run_folder", "config.networks", "pipeline.job", "deprecation"):
        assert f"dscnet.{name}" not in marks


@pytest.mark.parametrize(
    ("stage", "modules"),
    [
        ("train", ["objective", "training", "context.fusion", "losses.contrastive", "models.seam"]),
        ("train", ["pipeline.tag_validation", "labels.thresholds", "data.transforms"]),
        ("cam", ["labels.cam", "labels.cam_files", "labels.windows", "pipeline.maps"]),
        ("label", ["labels.cam_files", "labels.thresholds", "losses.saliency"]),
        ("segment", ["models.segmenter", "training", "refine.crf", "refine.permutohedral"]),
        ("evaluate", ["metrics.evaluation", "metrics.confusion", "metrics.tag_agreement"]),
        ("report", ["report.page", "report.overlay"]),
    ],
)
def test_the_code_of_a_stage_is_what_it_imports(stage, modules):
    one = find_stage(stage)
    marks = code_marks((one.work.__module__, *one.code(Config())))
    assert {f"dscnet.{name}" for name in modules} <= set(marks)


def test_only_the_code_of_what_is_asked_for_counts():
    train, refine, segment = (find_stage(name) for name in ("train", "refine", "segment"))
    config = Config()
    plain = code_marks((train.work.__module__, *train.code(config)))
    assert "dscnet.pipeline.rounds" not in plain
    config.model.name = "auxsegnet"
    rounds = code_marks((train.work.__module__, *train.code(config)))
    assert {"dscnet.pipeline.rounds", "dscnet.refine.saliency"} <= set(rounds)
    config = Config()
    config.refine.steps = ["crf"]
    marks = code_marks((refine.work.__module__, *refine.code(config)))
    assert "dscnet.refine.crf" in marks
    assert "dscnet.refine.pair_walk" not in marks
    config.refine.steps = ["affinity"]
    marks = code_marks((refine.work.__module__, *refine.code(config)))
    assert {"dscnet.refine.pair_walk", "dscnet.losses.affinity"} <= set(marks)
    config.segment.rounds = 2
    marks = code_marks((segment.work.__module__, *segment.code(config)))
    assert "dscnet.pipeline.self_training" in marks


def test_code_imported_inside_functions_is_named_by_its_stage():
    """What a stage's module imports late would be missed by its imports."""
    config = Config()
    config.model.name, config.segment.rounds = "auxsegnet", 2
    for stage in list_stages():
        text = module._file_of(stage.work.__module__).read_text(encoding="utf-8")
        late = {
            line.split()[1]
            for line in text.splitlines()
            if line.startswith("    ") and line.strip().startswith("from dscnet")
        }
        assert late <= set(stage.code(config)), stage.name


def test_no_module_of_a_stage_is_missing_from_its_folder():
    for stage in list_stages():
        assert code_marks((stage.work.__module__,)), stage.name
